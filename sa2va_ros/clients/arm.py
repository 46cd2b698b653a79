# SPDX-License-Identifier: Apache-2.0
"""The simulated gantry as a consumer drives it: goals as joint trajectories, joint states as answers.

What a real arm puts in this place (MoveIt, a vendor's driver) needs the same three verbs: go, close, open.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from builtin_interfaces.msg import Duration
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sa2va_ros.support.deadline import Deadline
from sa2va_ros.support.qos import reliable

if TYPE_CHECKING:
    from rclpy.node import Node

JOINTS = ("gantry_x", "gantry_y", "gantry_z", "gantry_yaw", "gripper")
PARKED = (-0.48, -0.46, 0.45, 0.0)  # beside the camera, out of its sight
OPENING = 0.13  # metres between the open fingers
SPEED = (0.5, 0.5, 0.3, 2.5)  # metres or radians a second
SLOW = 0.4  # factor on the speed of the last bit before an object
CLOSING = 0.16  # metres a second
_NEAR = (0.004, 0.004, 0.004, 0.03)


class ArmError(Exception):
    """The arm did not arrive; the message says where it is."""


class Arm:
    """Drives the gantry; calls block until it arrived and belong on a thread of the user's own.

    Args:
        stop_requested: whether to give up; looked at while it moves.
    """

    def __init__(self, node: Node, stop_requested: Callable[[], bool]) -> None:
        self._node, self._stop_requested = node, stop_requested
        self._changed = threading.Condition()
        self._state: dict[str, float] = {}
        self._effort = 0.0
        self._goal: tuple[float, ...] = (*PARKED, OPENING)
        self._trajectory = node.create_publisher(JointTrajectory, "joint_trajectory", reliable(10))
        node.create_subscription(JointState, "joint_states", self._on_state, reliable(10))

    def _on_state(self, message: JointState) -> None:
        with self._changed:
            self._state = dict(zip(message.name, message.position, strict=True))
            efforts = dict(zip(message.name, message.effort, strict=False))
            self._effort = efforts.get("gripper", 0.0)
            self._changed.notify_all()

    def wait_ready(self, seconds: float) -> None:
        """Wait for the first joint states and for somebody who takes goals.

        Raises:
            ArmError: nothing came.
        """
        deadline = Deadline(self._node, seconds)
        while not (self._state and self._trajectory.get_subscription_count()):
            if deadline.passed or self._stop_requested():
                raise ArmError("no joint_states, or nobody takes joint_trajectory")
            time.sleep(0.02)

    @property
    def opening(self) -> float:
        """Metres between the fingers now."""
        return self._state.get("gripper", OPENING)

    @property
    def position(self) -> np.ndarray:
        """The tool point now, float [3] in `world`."""
        return np.array([self._state[name] for name in JOINTS[:3]])

    def go(
        self,
        position: tuple[float, float, float],
        yaw: float,
        *,
        opening: float,
        slow: bool = False,
    ) -> None:
        """Move the tool point there on a straight line.

        Raises:
            ArmError: it did not arrive.
        """
        goal = (*position, yaw)
        now = [self._state[name] for name in JOINTS[:4]]
        moves = zip(goal, now, SPEED, strict=True)
        seconds = max(abs(a - b) / speed for a, b, speed in moves) / (SLOW if slow else 1.0)
        self._send((*goal, opening), max(seconds, 0.15))
        self._arrive(goal, seconds + 2.0)

    def grip(self, opening: float = 0.0) -> float:
        """Bring the fingers to an opening (0 = press) and return how far they are apart when they rest."""
        began, last = self.opening, np.inf
        seconds = abs(began - opening) / CLOSING + 0.1
        self._send((*self._goal[:4], opening), seconds)
        deadline = Deadline(self._node, 4 * seconds + 5)
        # Until they are there, or have moved and rest: a goal may reach the driver late.
        while not (deadline.passed or self._stop_requested()):
            self._sleep(0.1)
            here = self.opening
            rests = abs(here - last) < 0.0005 and abs(here - began) > 0.002
            if rests or abs(here - opening) < 0.002:
                break
            last = here
        return self.opening

    def _send(self, goal: tuple[float, ...], seconds: float) -> None:
        self._goal = goal
        point = JointTrajectoryPoint(positions=[float(value) for value in goal])
        point.time_from_start = Duration(sec=int(seconds), nanosec=int(seconds % 1 * 1e9))
        self._trajectory.publish(JointTrajectory(joint_names=list(JOINTS), points=[point]))

    def _arrive(self, goal: tuple[float, ...], seconds: float) -> None:
        deadline = Deadline(self._node, 4 * seconds + 5)
        with self._changed:
            while True:
                gaps = [
                    abs(self._state[n] - g) / near
                    for n, g, near in zip(JOINTS, goal, _NEAR, strict=False)
                ]
                if max(gaps) < 1:
                    return
                if self._stop_requested():
                    raise ArmError("stopped")
                if deadline.passed:
                    here = ", ".join(f"{name} {self._state[name]:.3f}" for name in JOINTS[:4])
                    wanted = ", ".join(f"{value:.3f}" for value in goal)
                    raise ArmError(f"did not arrive at {wanted}: {here}")
                self._changed.wait(0.1)

    def _sleep(self, seconds: float) -> None:
        deadline = Deadline(self._node, seconds)
        while not (deadline.passed or self._stop_requested()):
            time.sleep(0.01)
