# SPDX-License-Identifier: Apache-2.0
"""Paints a 2D scene, far to near, and measures what came out. Sampling the scene is the business of `flat`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from sa2va_sim.painted.shapes import Face
from sa2va_sim.words.facts import LabelledImage, ObjectFact, measure

Camera = tuple[float, float, float]  # pan x, pan y (fractions of the image), zoom
_SUBPIXEL = 4  # fractional bits of cv2's polygon coordinates


@dataclass(frozen=True)
class Pattern:
    """The figure on an object's surface; period in units of its half size, angle in radians."""

    kind: int  # 0 plain, 1 stripes, 2 checks, 3 speckles
    strength: float
    angle: float
    period: float


@dataclass(frozen=True)
class PaintedObject:
    """Something to paint. Lengths are fractions of the image width; `name` is None for clutter."""

    name: tuple[str, str] | None  # (colour, shape)
    rgb: np.ndarray
    faces: tuple[Face, ...]
    scale: float  # half size at the middle of the table
    angle: float  # in the image plane
    x: float
    y: float  # of the base
    pattern: Pattern

    @property
    def size(self) -> float:
        """Largest extent at the middle of the table, fraction of the image width."""
        points = np.concatenate([face.points for face in self.faces])
        return float(np.ptp(points, axis=0).max() * self.scale)


@dataclass(frozen=True)
class FlatScene:
    """Everything of a scene but the positions, which a clip changes from frame to frame."""

    backdrop: np.ndarray  # float32 [H, W, 3]; `margin` wider than the image on every side
    margin: float
    things: tuple[PaintedObject, ...]
    pitch: float
    perspective: float
    light: tuple[float, float]
    shadow: float
    gain: np.ndarray  # float32 [3]
    gamma: float
    noise: float
    blur: float

    def zoom(self, y: float) -> float:
        """Apparent over true size of something that stands at height `y` of the image."""
        return max(0.3, 1.0 + self.perspective * (y - 0.6))

    def depth(self, y: float) -> float | None:
        """A number that rises with the distance of what stands at height `y`; None in a view from above."""
        return None if self.pitch > 1.0 else float(np.exp(1.0 - 1.3 * y))


def paint(
    scene: FlatScene,
    size: int,
    things: tuple[PaintedObject, ...],
    rng: np.random.Generator,
    moving: frozenset[int],
    camera: Camera = (0.0, 0.0, 1.0),
) -> LabelledImage:
    """Paint `things` over the scene's backdrop; facts count the named ones in their order."""
    image = _look(scene, size, camera)
    _cast_shadows(image, scene, things, camera)
    instances = np.zeros((size, size), np.uint8)
    named = [i for i, thing in enumerate(things) if thing.name is not None]
    full = dict.fromkeys(named, 0)
    for i in sorted(range(len(things)), key=lambda k: things[k].y):  # far to near
        label = named.index(i) + 1 if i in full else 0
        pixels = _paint_thing(image, instances, scene, things[i], label, camera)
        if label:
            full[i] = pixels
    boxes = measure(instances, len(named))
    facts = []
    for k, i in enumerate(named):
        colour, shape = things[i].name or ("", "")
        box, pixels = boxes[k]
        visible = min(1.0, pixels / max(full[i], 1))
        depth = scene.depth(things[i].y)
        facts.append(
            ObjectFact(
                k, colour, shape, things[i].size, box, visible, pixels / size**2, depth, i in moving
            )
        )
    return LabelledImage(_expose(image, scene, rng), instances, tuple(facts))


def _look(scene: FlatScene, size: int, camera: Camera) -> np.ndarray:
    """The part of the backdrop that the camera sees, float32 [size, size, 3]."""
    if scene.margin == 0.0:
        return scene.backdrop.copy()
    pan_x, pan_y, zoom = camera
    middle, side = size / 2, scene.backdrop.shape[0] / 2
    left, top = middle - zoom * (side + pan_x * size), middle - zoom * (side + pan_y * size)
    shift = np.array([[zoom, 0, left], [0, zoom, top]])
    return cv2.warpAffine(
        scene.backdrop, shift, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def _on_screen(
    thing: PaintedObject, scene: FlatScene, size: int, camera: Camera
) -> tuple[float, float, float]:
    """Base x, base y and half size in pixels."""
    pan_x, pan_y, zoom = camera
    x, y = (
        ((thing.x - 0.5 - pan_x) * zoom + 0.5) * size,
        ((thing.y - 0.5 - pan_y) * zoom + 0.5) * size,
    )
    return x, y, thing.scale * scene.zoom(thing.y) * zoom * size


def _cast_shadows(
    image: np.ndarray, scene: FlatScene, things: tuple[PaintedObject, ...], camera: Camera
) -> None:
    if scene.shadow < 0.08 or not things:
        return
    size = image.shape[0]
    small = np.zeros((size // 2, size // 2), np.uint8)
    for thing in things:
        if thing.name is None:
            continue
        x, y, half = _on_screen(thing, scene, size, camera)
        centre = (int((x - scene.light[0] * half * 0.45) / 2), int((y - half * 0.1) / 2))
        cv2.ellipse(
            small,
            centre,
            (int(half * 0.5), int(half * 0.5 * np.sin(scene.pitch)) + 1),
            0,
            0,
            360,
            255,
            -1,
        )
    small = cv2.blur(small, (size // 32 | 1, size // 32 | 1))
    mask = cv2.resize(small, (size, size)).astype(np.float32)
    image *= (1.0 - scene.shadow / 255.0 * mask)[..., None]


def _paint_thing(
    image: np.ndarray,
    instances: np.ndarray,
    scene: FlatScene,
    thing: PaintedObject,
    label: int,
    camera: Camera,
) -> int:
    """Paint one thing over what is there. Returns its pixels if nothing hid it and the image had no borders."""
    size = image.shape[0]
    x, y, half = _on_screen(thing, scene, size, camera)
    c, s = np.cos(thing.angle) * half, np.sin(thing.angle) * half
    turn = np.array([[c, s], [-s, c]])  # row vectors
    polygons = [face.points @ turn for face in thing.faces]
    corners = np.concatenate(polygons)
    low, high = np.floor(corners.min(0)).astype(int) - 2, np.ceil(corners.max(0)).astype(int) + 3
    left, top = int(np.floor(x)), int(np.floor(y))
    offset = np.array([x - left, y - top]) - low
    height, width = int(high[1] - low[1]), int(high[0] - low[0])
    paint = np.empty((height, width, 3), np.uint8)
    paint[:] = np.clip(thing.rgb * 0.7, 0, 255).astype(np.uint8)
    alpha = np.zeros((height, width), np.uint8)
    mode = np.zeros((height, width), np.uint8)
    for face, points in zip(thing.faces, polygons, strict=True):
        fixed = [np.round((points + offset) * (1 << _SUBPIXEL)).astype(np.int32)]
        own = thing.rgb if face.tint is None else np.asarray(face.tint)
        lifted = own * face.shade + 26.0 * (face.shade - 0.75)  # faces of black things differ too
        colour = np.clip(lifted, 0, 255).tolist()
        cv2.fillPoly(alpha, fixed, 255, cv2.LINE_AA, _SUBPIXEL)
        cv2.fillPoly(paint, fixed, colour, cv2.LINE_AA, _SUBPIXEL)
        cv2.fillPoly(mode, fixed, face.round * 2 + int(face.bare), cv2.LINE_8, _SUBPIXEL)
    solid = alpha > 127
    pixels = int(np.count_nonzero(solid))
    x0, y0 = left + int(low[0]), top + int(low[1])
    inside = slice(max(0, -y0), min(height, size - y0)), slice(max(0, -x0), min(width, size - x0))
    if inside[0].start >= inside[0].stop or inside[1].start >= inside[1].stop:
        return pixels
    lit = paint[inside] * _shading(scene, thing, mode, offset, half)[inside][..., None]
    region = (
        slice(y0 + inside[0].start, y0 + inside[0].stop),
        slice(x0 + inside[1].start, x0 + inside[1].stop),
    )
    weight = alpha[inside].astype(np.float32)[..., None] / 255.0
    image[region] += (np.minimum(lit, 255.0) - image[region]) * weight
    instances[region][solid[inside]] = label
    return pixels


def _shading(
    scene: FlatScene, thing: PaintedObject, mode: np.ndarray, offset: np.ndarray, half: float
) -> np.ndarray:
    """Light on round faces and the surface pattern, as a factor, float32 [h, w]."""
    height, width = mode.shape
    columns = (np.arange(width, dtype=np.float32) - np.float32(offset[0])) / np.float32(half)
    rows = (np.arange(height, dtype=np.float32) - np.float32(offset[1])) / np.float32(half)
    c, s = np.float32(np.cos(thing.angle)), np.float32(np.sin(thing.angle))
    u = columns[None] * c + rows[:, None] * s
    v = rows[:, None] * c - columns[None] * s
    light_x, light_y = scene.light
    factor = np.ones((height, width), np.float32)
    turned = mode >> 1
    if (turned == 1).any():
        reach = float(np.abs(u[turned == 1]).max()) + 1e-3
        w = u / reach
        factor = np.where(turned == 1, 1.05 + 0.25 * light_x * w - 0.35 * w * w, factor)
    if (turned == 2).any():
        m = v + np.float32(0.85 * np.cos(scene.pitch))
        ball = 0.95 + 0.32 * (light_x * u + light_y * m) - 0.2 * (u * u + m * m)
        spot = np.maximum(0.0, 1.0 - 14.0 * ((u - 0.4 * light_x) ** 2 + (m - 0.4 * light_y) ** 2))
        factor = np.where(turned == 2, ball + 0.6 * spot, factor)
    pattern = thing.pattern
    if pattern.kind:
        figured = (mode & 1) == 0
        factor = factor * np.where(figured, 1.0 - pattern.strength * _figure(pattern, u, v), 1.0)
    return np.asarray(factor, np.float32)


def _figure(pattern: Pattern, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The darker part of a surface pattern, 0..1, [h, w]."""
    turn = np.float32(2 * np.pi / pattern.period)
    along = (u * np.float32(np.cos(pattern.angle)) + v * np.float32(np.sin(pattern.angle))) * turn
    if pattern.kind == 1:
        return (np.sin(along) > 0).astype(np.float32)
    across = (v * np.float32(np.cos(pattern.angle)) - u * np.float32(np.sin(pattern.angle))) * turn
    if pattern.kind == 2:
        return (np.sin(along) * np.sin(across) > 0).astype(np.float32)
    return np.abs(
        np.sin(3.7 * along + 2.1 * np.sin(1.3 * across))
        * np.sin(2.9 * across + 1.7 * np.sin(2.3 * along))
    )


def _expose(image: np.ndarray, scene: FlatScene, rng: np.random.Generator) -> np.ndarray:
    """Camera: exposure, white balance, gamma, softness, noise; uint8 [H, W, 3]."""
    size = image.shape[0]
    image = image * scene.gain
    if scene.blur:
        image = cv2.GaussianBlur(image, (0, 0), scene.blur)
    if scene.noise:
        pool = _noise_pool(size)
        y, x = (int(v) for v in rng.integers(0, pool.shape[0] - size, 2))
        image = image + scene.noise * pool[y : y + size, x : x + size]
    table = np.clip(255.0 * (np.arange(256) / 255.0) ** scene.gamma, 0, 255).astype(np.uint8)
    return cv2.LUT(np.clip(image, 0, 255).astype(np.uint8), table)


@lru_cache(maxsize=4)
def _noise_pool(size: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((size + 64, size + 64, 3), dtype=np.float32)
