# SPDX-License-Identifier: Apache-2.0
"""What consumers use of a tracker, against an action server that answers faster than rclpy's client takes notes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

SLOW = 0.4  # seconds between a request's leaving and its being noted


class SlowNotes:
    """An action client's handle that comes back late from sending, as on a busy machine."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def __enter__(self) -> Any:
        return self._handle.__enter__()

    def __exit__(self, *error: object) -> Any:
        return self._handle.__exit__(*error)

    def send_goal_request(self, request: Any) -> Any:
        number = self._handle.send_goal_request(request)
        time.sleep(SLOW)
        return number

    def send_result_request(self, request: Any) -> Any:
        number = self._handle.send_result_request(request)
        time.sleep(SLOW)
        return number


@pytest.fixture
def nodes() -> Iterator[tuple[Any, Any]]:
    """A consumer's node and a tracker's, each spun by a thread of its own."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    context = rclpy.Context()
    rclpy.init(context=context)
    made = [rclpy.create_node(name, namespace="/notes", context=context) for name in "ab"]
    executors = [SingleThreadedExecutor(context=context) for _ in made]
    threads = []
    for executor, node in zip(executors, made, strict=True):
        executor.add_node(node)
        threads.append(threading.Thread(target=executor.spin, daemon=True))
        threads[-1].start()
    yield made[0], made[1]
    for executor in executors:
        executor.shutdown()
    context.try_shutdown()
    for thread in threads:
        thread.join(5)


def serve(node: Any) -> Any:
    """Finds "the mug" and nothing else."""
    from rclpy.action import ActionServer

    from sa2va_ros.action import TrackExpression

    def run(goal: Any) -> Any:
        goal.succeed()
        result = TrackExpression.Result()
        if goal.request.expression == "the mug":
            result.track.id = "mug"
        else:
            result.error_code, result.error_msg = result.NOT_FOUND, "no such thing"
        return result

    return ActionServer(node, TrackExpression, "sa2va_tracker/track_expression", run)


def test_no_answer_is_lost_between_sending_and_noting(nodes: tuple[Any, Any]) -> None:
    from sa2va_ros.clients.tracker_client import TrackerClient, TrackerError

    consumer, tracker = nodes
    server = serve(tracker)
    client = TrackerClient(consumer)
    client._action._client_handle = SlowNotes(client._action._client_handle)
    assert client.find("the mug", 20.0).id == "mug"
    with pytest.raises(TrackerError, match="no such thing"):
        client.find("the bowl", 20.0)
    server.destroy()


def test_a_node_that_nobody_spins_is_told_so(nodes: tuple[Any, Any]) -> None:
    from sa2va_ros.clients.tracker_client import TrackerClient, TrackerError

    consumer, tracker = nodes
    server = serve(tracker)
    client = TrackerClient(consumer)
    client._action.wait_for_server(20.0)
    consumer.executor.remove_node(consumer)
    consumer.executor = None
    with pytest.raises(TrackerError, match="nobody spins"):
        client.find("the mug", 5.0)
    server.destroy()


def test_a_track_is_gone_before_the_next_is_asked_for(nodes: tuple[Any, Any]) -> None:
    from sa2va_ros.clients.tracker_client import TrackerClient
    from sa2va_ros.srv import RemoveTrack
    from sa2va_ros.support.deferred import REQUESTS

    consumer, tracker = nodes
    happened: list[str] = []

    def remove(request: Any, response: Any) -> Any:
        time.sleep(0.3)
        happened.append(request.track_id)
        return response

    name = "sa2va_tracker/remove_track"
    server = tracker.create_service(RemoveTrack, name, remove, qos_profile=REQUESTS)
    client = TrackerClient(consumer)
    assert client._remove.wait_for_service(20.0)
    client.stop("mug")
    happened.append("returned")
    assert happened == ["mug", "returned"]
    tracker.destroy_service(server)
