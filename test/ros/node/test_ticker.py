# SPDX-License-Identifier: Apache-2.0
"""A node that has nothing to do is not woken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")


@pytest.fixture
def context() -> Iterator[Any]:
    made = rclpy.Context()
    rclpy.init(context=made)
    yield made
    rclpy.try_shutdown(context=made)


def test_it_ticks_from_a_wake_on_another_thread_until_nothing_is_wanted(context: Any) -> None:
    from rclpy.executors import SingleThreadedExecutor

    from sa2va_ros.support.ticker import Ticker

    node = rclpy.create_node("ticking", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    work: list[int] = []
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(time.monotonic())
        work.pop()

    ticker = Ticker(node, 0.01, tick, wanted=lambda: bool(work))
    executor.spin_once(timeout_sec=0.05)
    assert not ticks
    for _ in range(2):  # it can be woken again
        work += [1, 2, 3]
        waker = threading.Timer(0.05, ticker.wake)
        waker.start()
        end = time.monotonic() + 20.0
        while work and time.monotonic() < end:
            executor.spin_once(timeout_sec=10.0)
        waker.join()
        assert not work
        assert ticker.resting
    assert len(ticks) == 6
    executor.remove_node(node)
    node.destroy_node()


def test_a_tracker_node_without_goals_and_tracks_has_no_timer_that_runs_often(context: Any) -> None:
    from sa2va_ros.tracker_node import TrackerNode

    node = TrackerNode(context=context)
    often = [timer for timer in node.timers if timer.timer_period_ns < 0.4e9]
    assert len(often) == 3  # both actions, and predicted poses
    assert all(timer.is_canceled() for timer in often)
    node.close()
    node.destroy_node()
