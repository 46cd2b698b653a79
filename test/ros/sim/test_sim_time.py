# SPDX-License-Identifier: Apache-2.0
"""Simulated time waits for the tracker, and who acts in it waits by it: a busy machine changes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

PACE, RATE = 0.3, 10.0
ROBOT = """
import sys
from types import SimpleNamespace
import numpy as np
from sa2va_ros.sim.camera import run
from sa2va_ros.sim.robot import TABLE, SimRobot
class Robot(SimRobot):
    def __init__(self):
        super().__init__("robot", TABLE)
    def _begin(self, seed):
        rgb = np.zeros((12, 16, 3), np.uint8)
        places = {"camera_matrix": np.eye(3), "world_from_camera": np.eye(4)}
        picture = SimpleNamespace(rgb=rgb, depth=None, instances=None, **places)
        scene = SimpleNamespace(items=(), world=SimpleNamespace(stock=()))
        nothing = lambda *_: None
        return SimpleNamespace(scene=scene, step=nothing, close=nothing, render=lambda: picture), "", 0, {}
    def _looked(self):
        pass
    def _tell_state(self, stamp):
        pass
    def _score(self):
        return {}
sys.exit(run(Robot, "robot", None))
"""


@pytest.fixture(scope="module")
def robot(start_node: Callable[..., Any], start_client: Callable[[str], Any], wait_for: Any) -> Any:
    """A robot without physics; `time()` is the newest of its clock, seconds."""
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import Image

    from sa2va_ros.messages.images import fill_time, nanoseconds
    from sa2va_ros.msg import TrackArray
    from sa2va_ros.support.qos import reliable

    client = start_client("/paced")
    client.listen(Clock, "clock", reliable(50))
    client.listen(Image, "image", reliable(5))
    tracks = client.node.create_publisher(TrackArray, "tracks", reliable(10))
    remaps = ("__ns:=/paced", "/clock:=/paced/clock")
    node = start_node(ROBOT, remaps=remaps, pace=PACE, rate=RATE, width=16, height=16)

    def seconds() -> float:
        return nanoseconds(client.got["clock"][-1].clock) / 1e9 if client.got["clock"] else 0.0

    def tracked(stamp: float) -> None:
        message = TrackArray()
        fill_time(message.header.stamp, round(stamp * 1e9))
        tracks.publish(message)

    def taken() -> float:
        return nanoseconds(client.got["image"][-1].header.stamp) / 1e9

    wait_for(lambda: len(client.got["clock"]) > 5, 240, f"a clock: {node.output}")
    wait_for(tracks.get_subscription_count, 60, "the robot's ear for tracks")
    yield SimpleNamespace(time=seconds, tracked=tracked, taken=taken)
    assert node.stop() == 0, node.output


def test_time_waits_for_the_tracker_but_not_for_ever(robot: Any, wait_for: Any) -> None:
    stamp = robot.taken()  # nobody tracked yet: time has run
    robot.tracked(stamp)
    time.sleep(0.6)
    stood = robot.time()
    time.sleep(0.5)
    assert robot.time() == stood, "it went on without the tracker"
    robot.tracked(stood)
    wait_for(lambda: robot.time() > stood + 0.2, 20, "time to go on")
    time.sleep(0.5)
    assert robot.time() <= stood + PACE + 1e-6
    assert robot.taken() >= stood, "no image to go on with"
    stood = robot.time()
    wait_for(lambda: robot.time() > stood, 20, "time to go on although a result got lost")
    assert robot.time() <= stood + 1.1 / RATE


class SlowClock:
    """A node whose clock goes on when it is told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def get_clock(self) -> SlowClock:
        return self

    def now(self) -> Any:
        return SimpleNamespace(nanoseconds=round(self.seconds * 1e9))


def test_a_deadline_is_in_the_time_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    from sa2va_ros.support import deadline

    wall = 1000.0
    monkeypatch.setattr(deadline.time, "monotonic", lambda: wall)
    node: Any = SlowClock()
    waits = deadline.Deadline(node, 10.0)
    node.seconds = 1.7e9  # the first of /clock
    assert not waits.passed
    wall += 250.0
    node.seconds += 9.0
    assert not waits.passed, "by the wall's clock"
    node.seconds += 1.0
    assert waits.passed
    stands = deadline.Deadline(node, 10.0)
    wall += 301.0
    assert stands.passed, "held by a clock that stands still"


def test_fingers_that_begin_late_are_waited_for() -> None:
    import rclpy
    from sensor_msgs.msg import JointState

    from sa2va_ros.clients.arm import CLOSING, JOINTS, OPENING, PARKED, Arm

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("late_arm", context=context)
    arm = Arm(node, lambda: False)
    ended = threading.Event()
    late, held = OPENING / CLOSING + 0.6, 0.05  # beyond the time that closing takes

    def driver() -> None:
        began = time.monotonic()
        while not ended.wait(0.02):
            gone = max(0.0, time.monotonic() - began - late) * CLOSING
            opening = max(held, OPENING - gone)
            arm._on_state(JointState(name=list(JOINTS), position=[*PARKED, opening]))

    arm._on_state(JointState(name=list(JOINTS), position=[*PARKED, OPENING]))
    thread = threading.Thread(target=driver)
    thread.start()
    try:
        assert arm.grip() == pytest.approx(held, abs=0.002)
    finally:
        ended.set()
        thread.join()
        node.destroy_node()
        context.try_shutdown()
