# SPDX-License-Identifier: Apache-2.0
"""An adapter is loaded beside the executor: the node hears and answers while it takes its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_ros.interfaces.goal_state import ErrorCode

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

PICTURE = cv2.resize(np.random.default_rng(9).integers(0, 256, (6, 8, 3), np.uint8), (160, 120))
SECONDS = 4.0
SLOW = (
    "import time, sa2va_model.checkpoints.adapters as a; unload = a.unload_adapter;"
    f"a.unload_adapter = lambda model: (time.sleep({SECONDS}), unload(model))[1];"
    "from sa2va_ros.tracker_node import main; raise SystemExit(main())"
)


def seen(tracks: Any) -> list[Any]:
    return [track for track in tracks.tracks if track.area]


def test_an_answer_that_comes_later_is_sent_once_whoever_is_first() -> None:
    from sa2va_ros.support.deferred import Later

    for given_first in (True, False):
        later = Later()
        sent: list[str] = []
        if given_first:
            later.give("answer")
        else:
            later._sent_by(sent.append)
        assert sent == []
        if given_first:
            later._sent_by(sent.append)
        else:
            later.give("answer")
        assert sent == ["answer"]


def test_the_node_hears_and_answers_while_an_adapter_is_loaded(
    start_node: Callable[..., Any],
    start_client: Callable[[str], Any],
    nano_folder: Path,
    wait_for: Any,
) -> None:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    from sa2va_ros.action import AskScene, TrackExpression
    from sa2va_ros.srv import LoadAdapter, RemoveTrack, SetTarget

    node = start_node(
        SLOW,
        model=nano_folder,
        status_period=0.1,
        threads=1,
        verify_period=0.0,
        remaps=("__ns:=/slow",),
        **{"qos_overrides./slow/image.subscription.reliability": "reliable"},
    )
    client = start_client("/slow")
    client.wait_connected()

    def call(kind: Any, name: str, **fields: Any) -> Any:
        return client.call(kind, f"sa2va_tracker/{name}", kind.Request(**fields))

    mug = call(SetTarget, "set_target", expression="the mug").track_id
    bowl = call(SetTarget, "set_target", expression="the bowl").track_id
    goal = client.goal(
        TrackExpression, "sa2va_tracker/track_expression", TrackExpression.Goal(expression="a can")
    )
    client.stream_until(PICTURE, lambda c: len(seen(c.got["tracks"][-1])) == 3)

    loader = client.node.create_client(LoadAdapter, "sa2va_tracker/load_adapter")
    assert loader.wait_for_service(20)
    began = time.monotonic()
    answer = loader.call_async(LoadAdapter.Request(path=""))
    status = client.status_after(lambda s: "adapter is being loaded" in s.message)
    before = status.received
    refused = call(LoadAdapter, "load_adapter", path="")
    assert "an adapter is being loaded" in refused.message
    assert goal.result()[1].error_code == ErrorCode.CANCELED
    wait_for(lambda: node.output.count("the adapter is changed"), 10, "the goal's end in the log")
    refused = call(SetTarget, "set_target", expression="the box")
    assert not refused.accepted
    assert "an adapter is being loaded" in refused.message
    asked = AskScene.Goal(question="what is there?")
    _, told = client.goal(AskScene, "sa2va_tracker/ask_scene", asked).result()
    assert told.error_code == ErrorCode.NOT_ACTIVE
    assert "an adapter is being loaded" in told.error_msg
    assert call(RemoveTrack, "remove_track", track_id=bowl).success  # it does not come back
    for _ in range(5):  # the camera goes on
        client.send("image", client.image(PICTURE))
        time.sleep(0.05)
    client.status_after(lambda s: s.received >= before + 5)
    heard = time.monotonic() - began
    assert not answer.done(), f"all this took {heard:.1f} s"

    wait_for(answer.done, 60, "the answer of load_adapter")
    assert time.monotonic() - began >= SECONDS
    assert answer.result().success, answer.result().message
    client.got["tracks"].clear()
    client.stream_until(PICTURE, lambda c: seen(c.got["tracks"][-1]))
    assert [track.id for track in client.got["tracks"][-1].tracks] == [mug]
    assert call(SetTarget, "set_target", expression="the bowl").track_id not in (bowl, mug)

    # A second one, and the node is paused and asked to be cleaned up meanwhile.
    answer = loader.call_async(LoadAdapter.Request(path=""))
    client.status_after(lambda s: "adapter is being loaded" in s.message)
    client.change_state(Transition.TRANSITION_DEACTIVATE)
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_CLEANUP
    assert not client.call(ChangeState, "sa2va_tracker/change_state", request).success
    wait_for(answer.done, 60, "the answer of load_adapter")
    assert answer.result().success, answer.result().message
    client.change_state(Transition.TRANSITION_ACTIVATE)
    client.wait_connected()
    client.got["tracks"].clear()
    client.stream_until(PICTURE, lambda c: seen(c.got["tracks"][-1]))

    # And a third: Ctrl-C does not wait for it.
    loader.call_async(LoadAdapter.Request(path=""))
    client.status_after(lambda s: "adapter is being loaded" in s.message)
    assert node.stop(seconds=30.0) == 0, node.output
    assert "it is not waited for" in node.output
    assert "Traceback" not in node.output
