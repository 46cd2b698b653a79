# SPDX-License-Identifier: Apache-2.0
"""From poses of a target to speeds of a base that keeps its distance. Pure numpy, no ROS.

What Nav2's `following_server` does with a pose topic, in small: poses are put into a fixed frame with the odometry of
their own stamp, so that a late pose is not a wrong one; between two poses the target is taken to go on as it went.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Follow:
    """How to follow.

    Attributes:
        distance: metres to keep.
        distance_gain, turn_gain: 1/s.
        max_speed, max_turn: m/s and rad/s.
        coast: seconds for which a target that is not seen is taken to go on.
        search_turn: rad/s with which it is looked for after that.
    """

    distance: float = 0.7
    distance_gain: float = 1.4
    turn_gain: float = 2.2
    max_speed: float = 0.5
    max_turn: float = 1.4
    coast: float = 1.5
    search_turn: float = 0.6


@dataclass(frozen=True)
class Pose2:
    """A base on the floor: metres and radians in the fixed frame, at a time in seconds."""

    time: float
    x: float
    y: float
    yaw: float


class PoseHistory:
    """Where the base was, for as long as a pose may be late."""

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._kept: deque[Pose2] = deque()

    def add(self, pose: Pose2) -> None:
        """One more; a time before the newest means another clock, and everything is forgotten."""
        if self._kept and pose.time <= self._kept[-1].time:
            self._kept.clear()
        self._kept.append(pose)
        while pose.time - self._kept[0].time > self._seconds:
            self._kept.popleft()

    @property
    def newest(self) -> Pose2 | None:
        """The latest pose."""
        return self._kept[-1] if self._kept else None

    def at(self, time: float, tolerance: float = 0.3) -> Pose2 | None:
        """The pose at a time, interpolated; None if it is more than `tolerance` seconds outside what is known."""
        if not self._kept:
            return None
        first, last = self._kept[0], self._kept[-1]
        if not first.time - tolerance <= time <= last.time + tolerance:
            return None
        if time <= first.time or time >= last.time:
            return first if time <= first.time else last
        kept = list(self._kept)
        k = bisect_left([pose.time for pose in kept], time)
        one, two = kept[k - 1], kept[k]
        share = (time - one.time) / (two.time - one.time)
        turn = (two.yaw - one.yaw + np.pi) % (2 * np.pi) - np.pi
        return Pose2(
            time,
            one.x + share * (two.x - one.x),
            one.y + share * (two.y - one.y),
            one.yaw + share * float(turn),
        )


def in_fixed_frame(point: np.ndarray, base_from_camera: np.ndarray, base: Pose2) -> np.ndarray:
    """A point [3] in the camera's frame, as [2] on the floor of the fixed frame."""
    forward, left = (base_from_camera[:3, :3] @ point + base_from_camera[:3, 3])[:2]
    c, s = np.cos(base.yaw), np.sin(base.yaw)
    return np.array([base.x + c * forward - s * left, base.y + s * forward + c * left])


class TargetFilter:
    """Place and speed of the target on the floor: an alpha-beta filter over its poses."""

    def __init__(self, alpha: float = 0.6, beta: float = 0.2, jump: float = 0.8) -> None:
        self._alpha, self._beta, self._jump = alpha, beta, jump
        self._place: np.ndarray | None = None
        self._speed = np.zeros(2)
        self.time = float("-inf")

    def update(self, time: float, place: np.ndarray) -> None:
        """One more pose. A leap of more than `jump` metres, or a pause of over three seconds, begins anew."""
        step = time - self.time
        if self._place is None or step > 3.0:
            self._place, self._speed, self.time = place.copy(), np.zeros(2), time
            return
        if step <= 0:
            return
        guess = self._place + self._speed * step
        error = place - guess
        if np.hypot(*error) > self._jump:
            self._place, self._speed = place.copy(), np.zeros(2)
        else:
            self._place = guess + self._alpha * error
            self._speed = self._speed + self._beta * error / max(step, 0.05)
        self.time = time

    def at(self, time: float, coast: float) -> np.ndarray | None:
        """Where it should be, [2]; None before the first pose."""
        if self._place is None:
            return None
        return self._place + self._speed * float(np.clip(time - self.time, 0.0, coast))

    @property
    def speed(self) -> np.ndarray:
        """Metres a second, [2]."""
        return self._speed


def steer(target: TargetFilter, base: Pose2, follow: Follow) -> tuple[float, float]:
    """Speeds m/s and rad/s of the base now: towards the distance to keep, or in search of the target."""
    place = target.at(base.time, follow.coast)
    if place is None:
        return 0.0, 0.0
    way = place - (base.x, base.y)
    distance = float(np.hypot(*way))
    bearing = float((np.arctan2(way[1], way[0]) - base.yaw + np.pi) % (2 * np.pi) - np.pi)
    if base.time - target.time > follow.coast:  # look where it was last, then all around
        turn = follow.turn_gain * bearing if abs(bearing) > 0.3 else follow.search_turn
        side = 1.0 if bearing >= 0 else -1.0
        return 0.0, float(np.clip(abs(turn) * side, -follow.search_turn, follow.search_turn))
    along = float(target.speed @ way) / max(distance, 1e-3)
    speed = follow.distance_gain * (distance - follow.distance) + along
    speed *= max(0.0, float(np.cos(bearing)))  # first turn, then drive
    turn = follow.turn_gain * bearing
    return (
        float(np.clip(speed, -follow.max_speed / 2, follow.max_speed)),
        float(np.clip(turn, -follow.max_turn, follow.max_turn)),
    )
