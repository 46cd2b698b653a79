# SPDX-License-Identifier: Apache-2.0
"""What an object of the catalogue touches others with: a few upright boxes and cylinders, one above the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from sa2va_sim.assets.parts import Collision
from sa2va_sim.catalogue.meshes import Surface

LAYERS = 4
_POINTS = 4000
_FEWEST = 8  # points of a layer; what has fewer is left out
_EQUAL, _CIRCLE = (
    0.85,
    0.86,
)  # sides of a round layer; share of the square around it (of a circle .785)


def solids(surfaces: Sequence[Surface]) -> tuple[Collision, ...]:
    """A box or an upright cylinder for each layer of equal height, as wide as the object is there.

    Args:
        surfaces: in metres, z up, the base at 0.
    """
    points = _scattered(surfaces)
    edges = np.linspace(0.0, float(points[:, 2].max()), LAYERS + 1)
    layers = [
        (low, high, points[(points[:, 2] >= low) & (points[:, 2] <= high), :2])
        for low, high in pairwise(edges)
    ]
    return tuple(_solid(*layer) for layer in layers if len(layer[2]) >= _FEWEST)


def _solid(low: float, high: float, outline: np.ndarray) -> Collision:
    near, far = outline.min(0), outline.max(0)
    half, thick = np.maximum((far - near) / 2, 1e-3), max((high - low) / 2, 1e-3)
    middle = (near + far) / 2
    position = (float(middle[0]), float(middle[1]), float(low + high) / 2)
    if half.min() > _EQUAL * half.max() and _area(outline) < _CIRCLE * 4 * half.prod():
        return Collision("cylinder", (float(half.mean()), float(thick)), position)
    return Collision("box", (float(half[0]), float(half[1]), float(thick)), position)


def _area(outline: np.ndarray) -> float:
    """Of the convex hull; infinite if it is a line."""
    try:
        return float(ConvexHull(outline).volume)
    except QhullError:
        return np.inf


def _scattered(surfaces: Sequence[Surface]) -> np.ndarray:
    """Points on the triangles and their corners, float64 [N, 3]; the same each time."""
    rng = np.random.default_rng(0)
    corners = np.concatenate([s.vertices[s.faces] for s in surfaces]).astype(np.float64)
    sides = corners[:, 1:] - corners[:, :1]
    areas = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    chosen = rng.choice(len(corners), _POINTS, p=areas / areas.sum())
    u, v = rng.random((2, _POINTS, 1))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    inside = corners[chosen, 0] + u * sides[chosen, 0] + v * sides[chosen, 1]
    return np.concatenate([inside, corners.reshape(-1, 3)])
