# SPDX-License-Identifier: Apache-2.0
"""What a scene is: what stands where on the table, in which colour and light, who moves, and where the camera is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sa2va_sim.world import World

SEEDS_PER_WORLD = 24  # neighbouring seeds share a room and a stock of objects, so that a room is compiled only once
ASPECT = 4 / 3
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Motion:
    """Where a body is at given times, between them on a smooth way.

    Attributes:
        times: seconds, rising.
        positions: [K, 3] metres, of the middle of the base.
        yaws: [K] radians about z, on top of the item's own rotation.
    """

    times: tuple[float, ...]
    positions: tuple[Triple, ...]
    yaws: tuple[float, ...]

    def at(self, time: float) -> tuple[np.ndarray, float]:
        """Position [3] and yaw at a time; it stays at the ends outside the times."""
        points = np.column_stack([np.asarray(self.positions), np.asarray(self.yaws)])
        value = smooth_way(np.asarray(self.times), points, time)
        return value[:3], float(value[3])


@dataclass(frozen=True)
class Item:
    """One object (or piece of clutter) on the table.

    Attributes:
        slot: which of the world's stock (or clutter).
        colour: the colour's name; "" for clutter.
        rgb: its shade, 0..1.
        position: metres, of the body's origin (the middle of the base of an upright object).
        rotation: [3, 3].
        motion: the way it is carried along; None = it rests, or falls if the scene has physics.
        moving: whether it moves in the world at some time.
    """

    slot: int
    colour: str
    rgb: Triple
    position: Triple
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    motion: Motion | None = None
    moving: bool = False


@dataclass(frozen=True)
class Light:
    """A spot light; position and aim in metres, colour 0..1."""

    position: Triple
    aim: Triple
    rgb: Triple


@dataclass(frozen=True)
class CameraTrack:
    """The camera's way: eye and aim in metres, roll in radians, at rising times in seconds."""

    times: tuple[float, ...]
    eyes: tuple[Triple, ...]
    aims: tuple[Triple, ...]
    rolls: tuple[float, ...]
    fovy: float  # radians

    def pose(self, time: float) -> np.ndarray:
        """world_from_camera, float64 [4, 4], optical axes: x right, y down, z forward."""
        points = np.column_stack([self.eyes, self.aims, self.rolls])
        value = smooth_way(np.asarray(self.times), points, time)
        return look_at(value[:3], value[3:6], float(value[6]))


@dataclass(frozen=True)
class Scene:
    """Everything that is to be seen; a function of its seed.

    Attributes:
        items: the objects of the facts, in the order of their index.
        physics: whether what is not carried obeys gravity (slower); without it resting things stay as placed.
        shadows: whether light 0 casts shadows.
        ambient: light from everywhere, 0..1.
        period: seconds after which motions and camera begin again; None = they come to rest at their ends.
    """

    world: World
    items: tuple[Item, ...]
    clutter: tuple[Item, ...]
    lights: tuple[Light, ...]
    ambient: float
    camera: CameraTrack
    physics: bool = False
    shadows: bool = True
    period: float | None = None

    def clock(self, time: float) -> float:
        """The time by which carried things and the camera go."""
        return time if self.period is None else time % self.period


@dataclass(frozen=True)
class SceneConfig:
    """What to draw from.

    Attributes:
        objects: fewest and most objects.
        clutter: most unnamed things.
        shadows: probability of cast shadows (they cost most of the rendering time).
        camera: any, fixed, moving or wrist (near, steep, rolled and moving).
        moving: probability that an object moves.
        seconds: length of the scene, for motions.
        falling: probability that something is dropped (turns physics on).
    """

    objects: tuple[int, int] = (1, 6)
    clutter: int = 4
    shadows: float = 0.5
    camera: str = "any"
    moving: float = 0.0
    seconds: float = 4.0
    falling: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: naming the field, its value and what was expected.
        """
        if not 1 <= self.objects[0] <= self.objects[1] <= 10:
            raise ValueError(
                f"SceneConfig.objects = {self.objects}: expected 1 <= fewest <= most <= 10"
            )
        if self.camera not in ("any", "fixed", "moving", "wrist"):
            raise ValueError(
                f"SceneConfig.camera = {self.camera!r}: expected any, fixed, moving or wrist"
            )


STILL = SceneConfig()


def smooth_way(times: np.ndarray, points: np.ndarray, time: float) -> np.ndarray:
    """Interpolate rows of `points` with rest at every key, so that nothing jerks."""
    if time <= times[0] or len(times) == 1:
        return points[0]
    if time >= times[-1]:
        return points[-1]
    k = int(np.searchsorted(times, time, side="right")) - 1
    s = (time - times[k]) / (times[k + 1] - times[k])
    s = s * s * (3 - 2 * s)
    return points[k] * (1 - s) + points[k + 1] * s


def look_at(eye: np.ndarray, aim: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """world_from_camera [4, 4] of a camera at `eye` that looks at `aim` (x right, y down, z forward)."""
    forward = (aim - eye) / np.linalg.norm(aim - eye)
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.999 else np.array([0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([c * right + s * down, c * down - s * right, forward], 1)
    pose[:3, 3] = eye
    return pose


def turn_z(yaw: float) -> np.ndarray:
    """Rotation about z, [3, 3]."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
