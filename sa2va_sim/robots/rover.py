# SPDX-License-Identifier: Apache-2.0
"""A wheeled base with a camera on a mast, driven by speeds; things stand and move on a level floor around it.

The base is kinematic: it does what it is told, within its limits of speed and acceleration. Base frame: x forward, y to
the left, z up, origin on the floor between the wheels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sa2va_sim.layout import CameraTrack, Scene, look_at
from sa2va_sim.simulator import SimFrame, Simulator

MAST = 0.45  # metres, height of the camera over the floor
PITCH = np.deg2rad(25.0)  # that it looks down
FOVY = 0.85  # radians
MAX_SPEED, MAX_TURN = 0.6, 1.6  # metres and radians a second
ACCELERATION, TURN_ACCELERATION = 1.2, 5.0  # a second squared
_STEP = 0.01  # seconds


def base_from_camera() -> np.ndarray:
    """Where the camera is on the base, float64 [4, 4], optical axes."""
    eye = np.array([0.0, 0.0, MAST])
    return look_at(eye, eye + np.array([np.cos(PITCH), 0.0, -np.sin(PITCH)]))


@dataclass
class Base:
    """Pose and speed of the base on the floor; metres, radians, seconds."""

    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0
    speed: float = 0.0
    turn: float = 0.0

    def advance(self, speed: float, turn: float, seconds: float) -> None:
        """Move on with the speeds that are wanted."""
        speed = float(np.clip(speed, -MAX_SPEED, MAX_SPEED))
        turn = float(np.clip(turn, -MAX_TURN, MAX_TURN))
        step, twist = ACCELERATION * seconds, TURN_ACCELERATION * seconds
        self.speed += float(np.clip(speed - self.speed, -step, step))
        self.turn += float(np.clip(turn - self.turn, -twist, twist))
        middle = self.yaw + self.turn * seconds / 2
        self.x += self.speed * float(np.cos(middle)) * seconds
        self.y += self.speed * float(np.sin(middle)) * seconds
        self.yaw = float((self.yaw + self.turn * seconds + np.pi) % (2 * np.pi) - np.pi)

    def pose(self) -> np.ndarray:
        """world_from_base, float64 [4, 4]."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        pose = np.eye(4)
        pose[:2, :2] = [[c, -s], [s, c]]
        pose[:2, 3] = self.x, self.y
        return pose


@dataclass(frozen=True)
class Mounted(CameraTrack):
    """A camera that goes where its base goes; the times of the way are not looked at."""

    base: Base | None = None

    def pose(self, time: float) -> np.ndarray:
        """world_from_camera now."""
        assert self.base is not None
        return self.base.pose() @ base_from_camera()


class RoverSimulator(Simulator):
    """A scene seen from the rover; things move by their own scripts, the base by `drive`."""

    def __init__(self, scene: Scene, width: int = 320, height: int = 240) -> None:
        """As `Simulator`; the scene's own camera is not used."""
        self.base = Base()
        self.wanted = (0.0, 0.0)
        super().__init__(self._mounted(scene), width, height)

    def _mounted(self, scene: Scene) -> Scene:
        here = (0.0, 0.0, 0.0)
        return replace(
            scene, camera=Mounted((0.0,), (here,), (here,), (0.0,), FOVY, self.base), physics=False
        )

    def drive(self, speed: float, turn: float) -> None:
        """Speeds that are wanted from now on, m/s forward and rad/s to the left.

        Raises:
            ValueError: one of them is no number.
        """
        if not np.isfinite([speed, turn]).all():
            raise ValueError(f"speed {speed}, turn {turn}: expected finite numbers")
        self.wanted = (speed, turn)

    def step(self, seconds: float) -> None:
        """Move the world on, the base in it."""
        for _ in range(max(1, round(seconds / _STEP))):
            self.base.advance(*self.wanted, _STEP)
        super().step(seconds)

    def place(self, index: int) -> np.ndarray:
        """Where an object is, float [3] in the world."""
        return self._stage.body_pose(f"object_{self.scene.items[index].slot}")[0]

    def distance(self, index: int) -> float:
        """Metres on the floor from the base to an object."""
        return float(np.hypot(*(self.place(index)[:2] - (self.base.x, self.base.y))))

    def seen(self, frame: SimFrame, index: int) -> float:
        """How much of an object a frame shows, 0..1 of its silhouette."""
        return frame.facts[index].visible
