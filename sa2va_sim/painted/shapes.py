# SPDX-License-Identifier: Apache-2.0
"""The nine shapes as painted faces, seen obliquely.

Each shape is built from 3D points (x right, y away from the viewer, z up; unit about the object's half size) and
projected orthographically by a camera that looks down at `pitch`. Faces are listed from back to front.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

CIRCLE = 28  # points per ellipse
Rgb = tuple[float, float, float]
_TURN = np.linspace(0, 2 * np.pi, CIRCLE, endpoint=False)


@dataclass(frozen=True)
class Face:
    """One polygon of a drawn object.

    Attributes:
        points: float [N, 2] in object coordinates (x right, y down).
        shade: factor on the object's colour.
        round: 0 flat; 1 shaded like a standing cylinder; 2 like a sphere.
        tint: None = the object's own colour, else RGB (pages, lids, dark insides).
        bare: leave the surface pattern off.
    """

    points: np.ndarray
    shade: float = 1.0
    round: int = 0
    tint: Rgb | None = None
    bare: bool = False


@dataclass(frozen=True)
class View:
    """Where the viewer stands: `pitch` down from the horizon in radians, `yaw` of the object."""

    pitch: float
    yaw: float

    @property
    def sin(self) -> float:
        """How much of a length on the table is seen."""
        return float(np.sin(self.pitch))

    @property
    def cos(self) -> float:
        """How much of an upright length is seen."""
        return float(np.cos(self.pitch))

    def project(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] -> [N, 2] (x right, y down)."""
        points = np.asarray(points, np.float64)
        return np.stack([points[:, 0], -self.sin * points[:, 1] - self.cos * points[:, 2]], 1)

    def turn(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] turned by the object's yaw about z."""
        points = np.asarray(points, np.float64)
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack(
            [
                c * points[:, 0] - s * points[:, 1],
                s * points[:, 0] + c * points[:, 1],
                points[:, 2],
            ],
            1,
        )

    def ellipse(self, radius: float, z: float) -> np.ndarray:
        """A level circle about the object's axis, projected, [CIRCLE, 2]."""
        ring = np.stack([radius * np.cos(_TURN), radius * np.sin(_TURN), np.full(CIRCLE, z)], 1)
        return self.project(ring)


def _hull(points: np.ndarray) -> np.ndarray:
    return cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)


def _revolved(
    view: View, profile: list[tuple[float, float]], shade: float = 1.0, **style: object
) -> list[Face]:
    """The outside of a surface of revolution from (radius, height) pairs, bottom first."""
    faces = []
    for (r0, z0), (r1, z1) in pairwise(profile):
        both = np.concatenate([view.ellipse(r0, z0), view.ellipse(r1, z1)])
        faces.append(Face(_hull(both), shade, 1, **style))  # type: ignore[arg-type]
    return faces


def _cuboid(
    view: View,
    half: tuple[float, float, float],
    shades: tuple[float, float, float],
    open_top: bool = False,
) -> list[Face]:
    """The visible sides and the top of a box that stands on z = 0."""
    hx, hy, hz = half
    corners = view.turn(np.array([[-hx, -hy, 0], [hx, -hy, 0], [hx, hy, 0], [-hx, hy, 0]]))
    up = np.array([0, 0, 2 * hz])
    faces = []
    if open_top:
        faces += _inside(view, corners, up)
    for i in range(4):
        a, b = corners[i], corners[(i + 1) % 4]
        normal = np.array([b[1] - a[1], a[0] - b[0]])
        if normal[1] < 0:  # faces the viewer
            side = shades[1] if abs(normal[0]) < abs(normal[1]) or normal[0] < 0 else shades[2]
            faces.append(Face(view.project(np.array([a, b, b + up, a + up])), side))
    if not open_top:
        faces.append(Face(view.project(corners + up), shades[0]))
    return faces


def _inside(view: View, corners: np.ndarray, up: np.ndarray) -> list[Face]:
    """What the open top of a box shows: its far inner walls and its floor."""
    opening = view.project(corners + up)
    faces = [Face(opening, 0.5, bare=True)]
    for i in range(4):
        a, b = corners[i], corners[(i + 1) % 4]
        if a[0] - b[0] > 0:  # a far wall
            wall = _clip(view.project(np.array([a, b, b + up, a + up])), opening)
            if wall is not None:
                faces.append(Face(wall, 0.45 if b[1] > a[1] else 0.6, bare=True))
    floor = _clip(view.project(corners + up * 0.05), opening)
    return faces if floor is None else [*faces, Face(floor, 0.33, bare=True)]


def _block(view: View, rng: np.random.Generator) -> list[Face]:
    half = np.array([0.66, 0.66, 0.66]) * rng.uniform(0.88, 1.12, 3)
    light = rng.uniform(0.55, 0.8), rng.uniform(0.75, 0.95)
    shades = (1.08, light[0], light[1]) if rng.random() < 0.5 else (1.08, light[1], light[0])
    faces = _cuboid(view, (half[0], half[1], half[2]), shades)
    if rng.random() < 0.3:  # a toy block: a light panel on every side
        panel = (240.0, 232.0, 205.0)
        faces += [Face(_shrink(f.points, 0.55), f.shade, tint=panel) for f in faces]
        faces += [
            Face(_shrink(f.points, 0.3), f.shade, bare=True) for f in faces[: len(faces) // 2]
        ]
    return faces


def _shrink(points: np.ndarray, factor: float) -> np.ndarray:
    middle = points.mean(0)
    return middle + (points - middle) * factor


def _ball(view: View, rng: np.random.Generator) -> list[Face]:
    disc = 0.85 * np.stack([np.cos(_TURN), np.sin(_TURN)], 1) - [0, 0.85 * view.cos]
    faces = [Face(disc, 1.0, 2)]
    if rng.random() < 0.3:  # a beach ball's or tennis ball's seam
        shade = 0.6 if rng.random() < 0.5 else 1.3
        faces.append(Face(_arc_ribbon(rng) - [0, 0.85 * view.cos], shade, bare=True))
    return faces


def _arc_ribbon(rng: np.random.Generator) -> np.ndarray:
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5)
    t = np.linspace(-0.8, 0.8, 12)
    y = bend * np.sqrt(np.clip(1 - (t / 0.83) ** 2, 0, 1))
    path = np.stack([t, y * 0.8], 1)
    c, s = np.cos(angle), np.sin(angle)
    return _ribbon(path @ np.array([[c, -s], [s, c]]) * 0.98, 0.035)


def _ribbon(path: np.ndarray, half_width: float) -> np.ndarray:
    """A polygon of constant width along a path."""
    along = np.gradient(path, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    across *= half_width / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    return np.concatenate([path + across, (path - across)[::-1]])


def _mug(view: View, rng: np.random.Generator) -> list[Face]:
    height, top = rng.uniform(1.15, 1.7), rng.uniform(0.58, 0.68)
    bottom = top * rng.uniform(0.75, 1.0)
    side = 1 if rng.random() < 0.5 else -1
    azimuth = rng.uniform(-0.75, 0.55)  # negative: towards the viewer
    reach, loop = rng.uniform(0.36, 0.5), height * rng.uniform(0.27, 0.36)
    bow = np.linspace(-np.pi / 2, np.pi / 2, 14)
    out = (bottom + top) / 2 * 0.95 + reach * np.cos(bow)
    path = np.stack(
        [side * out * np.cos(azimuth), out * np.sin(azimuth), height * 0.52 + loop * np.sin(bow)], 1
    )
    handle = Face(
        _ribbon(view.project(path), rng.uniform(0.07, 0.11)), rng.uniform(0.8, 1.0), bare=True
    )
    wall = _revolved(view, [(bottom * 0.92, 0.0), (bottom, 0.08), (top, height)])
    inside = (235.0, 232.0, 225.0) if view.pitch < 0.8 and rng.random() < 0.35 else None
    rim = [
        Face(view.ellipse(top, height), 1.12, bare=True),
        *_hollow(view, top * 0.89, height, rng, inside),
    ]
    return [handle, *wall, *rim] if azimuth > 0 else [*wall, *rim, handle]


def _clip(points: np.ndarray, opening: np.ndarray) -> np.ndarray | None:
    """The part of a convex polygon that shows through a convex opening; None if nothing does."""
    area, part = cv2.intersectConvexConvex(points.astype(np.float32), opening.astype(np.float32))
    return part[:, 0].astype(np.float64) if area > 1e-3 else None


def _hollow(
    view: View,
    radius: float,
    z: float,
    rng: np.random.Generator,
    tint: Rgb | None,
    drinks: float = 0.3,
) -> list[Face]:
    """The opening of a vessel: the far wall, and what is in it where the viewer sees that deep."""
    opening = view.ellipse(radius, z)
    faces = [Face(opening, 0.55 if tint is None else 0.8, tint=tint, bare=True)]
    content = _clip(view.ellipse(radius * 0.95, z - radius * rng.uniform(0.25, 0.6)), opening)
    if content is not None and len(content) > 2:
        drink = (70.0, 42.0, 25.0) if rng.random() < drinks else None
        shade = 0.4 if drink is None and tint is None else 0.85
        faces.append(Face(content, shade, tint=drink or tint, bare=True))
    return faces


def _bottle(view: View, rng: np.random.Generator) -> list[Face]:
    body, neck = rng.uniform(0.36, 0.48), rng.uniform(0.12, 0.18)
    shoulder, top = rng.uniform(1.2, 1.5), rng.uniform(2.0, 2.4)
    start = shoulder + rng.uniform(0.25, 0.45)
    profile = [(body * 0.9, 0.0), (body, 0.06), (body, shoulder)]
    for t in np.linspace(0.2, 1, 5):  # a smooth shoulder
        radius = neck + (body - neck) * float(np.cos(t * np.pi / 2)) ** 0.9
        profile.append((radius, shoulder + t * (start - shoulder)))
    faces = _revolved(view, [*profile, (neck, top - 0.18)])
    if rng.random() < 0.45:  # a label around the belly
        low = rng.uniform(0.3, 0.5)
        paper = tuple(float(v) for v in rng.uniform(190, 245, 3))
        faces += _revolved(
            view, [(body * 1.01, low), (body * 1.01, low + 0.4)], tint=paper, bare=True
        )
        faces += _revolved(view, [(body * 1.02, low + 0.4), (body * 1.02, low + 0.44)], bare=True)
    own_cap = rng.random() < 0.5
    grey = float(rng.uniform(30, 230))
    cap = None if own_cap else (grey, grey, grey)
    faces += _revolved(
        view, [(neck * 1.25, top - 0.2), (neck * 1.25, top)], 0.75, tint=cap, bare=True
    )
    return [*faces, Face(view.ellipse(neck * 1.25, top), 0.95, tint=cap, bare=True)]


def _bowl(view: View, rng: np.random.Generator) -> list[Face]:
    height, foot = rng.uniform(0.65, 0.85), rng.uniform(0.35, 0.5)
    heights = np.linspace(0.08, 1, 6)
    curve = foot + (1 - foot) * np.sqrt(1 - (1 - heights) ** 2)
    profile = [(foot, 0.0), *zip(curve.tolist(), (heights * height).tolist(), strict=True)]
    inside = (238.0, 235.0, 228.0) if view.pitch < 0.6 and rng.random() < 0.25 else None
    rim = Face(view.ellipse(1.0, height), 1.15, bare=True)
    return [*_revolved(view, profile), rim, *_hollow(view, 0.93, height, rng, inside, drinks=0.1)]


def _can(view: View, rng: np.random.Generator) -> list[Face]:
    radius, height = rng.uniform(0.52, 0.62), rng.uniform(1.3, 1.75)
    grey = float(rng.uniform(165, 215))
    metal = (grey, grey, grey + 4)
    faces = _revolved(view, [(radius, 0.0), (radius, 0.06)], 0.9, tint=metal, bare=True)
    faces += _revolved(view, [(radius * 0.985, 0.06), (radius * 0.985, height - 0.06)])
    if rng.random() < 0.4:
        low = rng.uniform(0.4, 0.6)
        faces += _revolved(view, [(radius, low), (radius, low + 0.12)], 1.35, bare=True)
    faces += _revolved(
        view, [(radius * 1.02, height - 0.06), (radius * 1.02, height)], tint=metal, bare=True
    )
    faces += [Face(view.ellipse(radius * 1.02, height), 1.1, tint=metal, bare=True)]
    faces += [Face(view.ellipse(radius * 0.86, height - 0.02), 0.82, tint=metal, bare=True)]
    tab = np.array(
        [[-0.1, -0.06, height], [0.24, -0.06, height], [0.24, 0.06, height], [-0.1, 0.06, height]]
    )
    return [*faces, Face(view.project(view.turn(tab)), 0.55, tint=metal, bare=True)]


def _plate(view: View, rng: np.random.Generator) -> list[Face]:
    rim = rng.uniform(0.12, 0.2)
    well = rng.uniform(0.58, 0.7)
    faces = _revolved(view, [(0.6, 0.0), (1.05, rim)], 0.75)
    faces += [
        Face(view.ellipse(1.05, rim), 1.06),
        Face(view.ellipse(well + 0.05, rim * 0.55), 0.74, bare=True),
    ]
    return [*faces, Face(view.ellipse(well, rim * 0.5), 0.95)]


def _book(view: View, rng: np.random.Generator) -> list[Face]:
    width, depth, thick = rng.uniform(0.68, 0.8), rng.uniform(0.92, 1.1), rng.uniform(0.1, 0.2)
    if rng.random() < 0.5:
        width, depth = depth, width
    cover, pages = 0.035, (236.0, 228.0, 206.0)
    faces = _shift(_cuboid(view, (width, depth, cover), (0.9, 0.6, 0.7)), 0.0)
    inner = _cuboid(view, (width * 0.96, depth * 0.96, thick), (1.0, 0.78, 0.9))
    faces += [
        Face(f.points, f.shade, tint=pages, bare=True) for f in _shift(inner, -cover * view.cos * 2)
    ]
    spine = _cuboid(view, (0.05, depth, thick), (0.9, 0.65, 0.65))
    offset = view.project(view.turn(np.array([[-width + 0.05, 0.0, 2 * cover]])))[0]
    faces += [Face(f.points + offset, f.shade, bare=True) for f in spine]
    top = _shift(
        _cuboid(view, (width, depth, cover), (1.08, 0.65, 0.75)), -(cover + thick) * view.cos * 2
    )
    faces += top
    if rng.random() < 0.75:  # a title
        z = 4 * cover + 2 * thick + 0.01
        band = np.array([[-0.55, 0.2, 0], [0.55, 0.2, 0], [0.55, 0.55, 0], [-0.55, 0.55, 0]])
        band = band * [width, depth, 1] + [0, 0, z]
        light = rng.random() < 0.6
        ink = (240.0, 236.0, 220.0) if light else None
        faces.append(
            Face(view.project(view.turn(band)), 1.0 if light else 0.4, tint=ink, bare=True)
        )
    return faces


def _shift(faces: list[Face], down: float) -> list[Face]:
    offset = np.array([0.0, down])
    return [Face(f.points + offset, f.shade, f.round, f.tint, f.bare) for f in faces]


def _box(view: View, rng: np.random.Generator) -> list[Face]:
    """An open carton with flaps."""
    hx, hy, hz = rng.uniform(0.8, 1.0), rng.uniform(0.65, 0.85), rng.uniform(0.4, 0.6)
    light = rng.uniform(0.6, 0.75), rng.uniform(0.8, 0.95)
    walls = _cuboid(view, (hx, hy, hz), (1.0, *light), open_top=True)
    top = view.turn(
        np.array([[-hx, -hy, 2 * hz], [hx, -hy, 2 * hz], [hx, hy, 2 * hz], [-hx, hy, 2 * hz]])
    )
    back: list[Face] = []
    front: list[Face] = []
    for i in range(4):
        a, b = top[i], top[(i + 1) % 4]
        out = np.array([b[1] - a[1], a[0] - b[0], 0.0])
        out *= rng.uniform(0.28, 0.42) / np.linalg.norm(out)
        lift = np.array([0, 0, rng.uniform(-0.25, 0.3)])
        inset = (b - a) * 0.06
        flap = Face(
            view.project(np.array([a, b, b + out + lift - inset, a + out + lift + inset])),
            rng.uniform(0.95, 1.15),
        )
        (front if out[1] < 0 else back).append(flap)
    return [*back, *walls, *front]


BUILDERS: dict[str, Callable[[View, np.random.Generator], list[Face]]] = {
    "block": _block, "ball": _ball, "mug": _mug, "bottle": _bottle, "bowl": _bowl, "can": _can, "plate": _plate,
    "book": _book, "box": _box,
}  # fmt: skip
