# SPDX-License-Identifier: Apache-2.0
"""The pieces objects are made of: primitives and small meshes, each with the convex hulls that outline it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

AROUND = 24  # segments of a circle
_TURN = np.linspace(0, 2 * np.pi, AROUND, endpoint=False)
Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Geom:
    """One visible geom in the body's frame (z up, origin under the middle of the object's base).

    Attributes:
        kind: MuJoCo geom type: box, cylinder, sphere or mesh.
        size: MuJoCo size parameters; empty for a mesh.
        axes: float [3, 3], columns are the geom's axes in the body frame.
        rgb: own colour 0..1, or None for the object's colour.
        vertices, faces: of a mesh, float [V, 3] and int [F, 3] in the body frame.
        hulls: convex point sets, float [N, 3] in the body frame, whose union has the same outline as the part.
        places, texture: of a mesh with a picture of its own: float [V, 2] texture coordinates and uint8 [H, W, 3].
        alpha: 1 = opaque; of textured meshes.
    """

    kind: str
    size: tuple[float, ...]
    position: tuple[float, float, float]
    axes: np.ndarray
    rgb: Rgb | None
    vertices: np.ndarray | None
    faces: np.ndarray | None
    hulls: tuple[np.ndarray, ...]
    places: np.ndarray | None = None
    texture: np.ndarray | None = None
    alpha: float = 1.0


@dataclass(frozen=True)
class Collision:
    """One invisible geom that touches others."""

    kind: str
    size: tuple[float, ...]
    position: tuple[float, float, float]


@dataclass(frozen=True)
class ObjectModel:
    """An object's geometry. Lengths in metres.

    Attributes:
        radius: of its footprint.
        rolling_radius: the object may lie on its side with its axis this high; None if it only stands.
        flat_top: other things can be put on it.
        colour: its own colour's name, "" = no single one; None = the scene gives it one.
        names: what it may be called; empty = `shape` alone.
        doubtful: nouns and colours that some people would use for it.
        held_out: kept from training.
    """

    shape: str
    parts: tuple[Geom, ...]
    collisions: tuple[Collision, ...]
    radius: float
    height: float
    rolling_radius: float | None = None
    flat_top: bool = False
    colour: str | None = None
    names: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    held_out: bool = False

    @property
    def extent(self) -> float:
        """The longest side of the object's own bounding box."""
        points = np.concatenate([hull for part in self.parts for hull in part.hulls])
        return float(np.ptp(points, axis=0).max())

    @property
    def outline(self) -> list[np.ndarray]:
        """All hulls of all parts, each float [N, 3]."""
        return [hull for part in self.parts for hull in part.hulls]


def box(
    half: tuple[float, float, float],
    position: tuple[float, float, float],
    rgb: Rgb | None = None,
    axes: np.ndarray | None = None,
) -> Geom:
    """A cuboid by its half sides."""
    axes = np.eye(3) if axes is None else axes
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    corners = (signs * half) @ axes.T + position
    return Geom("box", half, position, axes, rgb, None, None, (corners,))


def cylinder(radius: float, low: float, high: float, rgb: Rgb | None = None) -> Geom:
    """An upright cylinder on the object's axis between two heights."""
    position = (0.0, 0.0, (low + high) / 2)
    hull = np.concatenate([ring(radius, low), ring(radius, high)])
    size = (radius, (high - low) / 2)
    return Geom("cylinder", size, position, np.eye(3), rgb, None, None, (hull,))


def sphere(radius: float) -> Geom:
    """A ball that lies on z = 0."""
    heights = np.linspace(-1, 1, 9)
    hull = np.concatenate(
        [ring(radius * float(np.sqrt(1 - h * h)), radius * (1 + h)) for h in heights]
    )
    return Geom("sphere", (radius,), (0.0, 0.0, radius), np.eye(3), None, None, None, (hull,))


def ring(radius: float, z: float) -> np.ndarray:
    """A level circle about the axis, float [AROUND, 3]."""
    return np.stack([radius * np.cos(_TURN), radius * np.sin(_TURN), np.full(AROUND, z)], 1)


def _tube_faces(rings: int, around: int) -> np.ndarray:
    """Triangles between consecutive rings of vertices, [F, 3]."""
    first = np.arange(rings - 1)[:, None] * around
    here = np.arange(around)[None]
    nxt = (here + 1) % around
    a, b, c, d = first + here, first + nxt, first + around + nxt, first + around + here
    return np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)


def revolved(profile: list[tuple[float, float]], rgb: Rgb | None = None) -> Geom:
    """A surface of revolution from (radius, height) pairs that run from the bottom's middle round to the inside.

    The profile should begin and end near the axis, so that the surface closes.
    """
    vertices = np.concatenate([ring(max(r, 1e-4), z) for r, z in profile])
    faces = _tube_faces(len(profile), AROUND)
    hulls = [
        np.concatenate([ring(r0, z0), ring(r1, z1)]) for (r0, z0), (r1, z1) in pairwise(profile)
    ]
    return Geom("mesh", (), (0.0, 0.0, 0.0), np.eye(3), rgb, vertices, faces, tuple(hulls))


def tube(path: np.ndarray, radius: float, flat: float = 1.0) -> Geom:
    """A bent tube along a path in the plane y = 0.

    Args:
        path: float [N, 3].
        flat: width across the plane over width in it.
    """
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.array([0.0, 1.0, 0.0])
    normal = np.cross(along, across)
    turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    circle = (
        np.cos(turn)[None, :, None] * normal[:, None] + flat * np.sin(turn)[None, :, None] * across
    )
    rings = path[:, None] + radius * circle  # [N, 8, 3]
    faces = _tube_faces(len(path), 8)
    hulls = tuple(np.concatenate([a, b]) for a, b in pairwise(rings))
    return Geom("mesh", (), (0.0, 0.0, 0.0), np.eye(3), None, rings.reshape(-1, 3), faces, hulls)
