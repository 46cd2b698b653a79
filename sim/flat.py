# SPDX-License-Identifier: Apache-2.0
"""Cheap 2D scenes of the tabletop world: painted with OpenCV in a few milliseconds, for training in bulk.

A scene is a backdrop (table, wall) with one to six objects seen obliquely, partly hidden by each other and by things
that no sentence names (arms, grey and brown clutter). The same words as in the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .facts import LabelledImage, ObjectFact, measure
from .flat_shapes import BUILDERS, Face, View
from .textures import backdrop_colour, surface
from .vocabulary import COLOURS, SHAPES, sample_colour

MAX_OBJECTS = 6
_Camera = tuple[float, float, float]  # pan x, pan y (fractions of the image), zoom
_SUBPIXEL = 4  # fractional bits of cv2's polygon coordinates


@dataclass(frozen=True)
class _Pattern:
    kind: int  # 0 plain, 1 stripes, 2 checks, 3 speckles
    strength: float
    angle: float
    period: float


@dataclass(frozen=True)
class _Thing:
    """Something to paint. Lengths are fractions of the image width; `name` is None for clutter."""

    name: tuple[str, str] | None  # (colour, shape)
    rgb: np.ndarray
    faces: tuple[Face, ...]
    scale: float  # half size at the middle of the table
    angle: float  # in the image plane
    x: float
    y: float  # of the base
    pattern: _Pattern

    @property
    def size(self) -> float:
        points = np.concatenate([face.points for face in self.faces])
        return float(np.ptp(points, axis=0).max() * self.scale)


@dataclass(frozen=True)
class _Scene:
    backdrop: np.ndarray  # float32 [H, W, 3]; `margin` wider than the image on every side
    margin: float
    things: tuple[_Thing, ...]
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
        return None if self.pitch > 1.0 else float(np.exp(1.0 - 1.3 * y))


def flat_scene(rng: np.random.Generator, size: int = 192) -> LabelledImage:
    """One still scene.

    Args:
        size: side of the square image in pixels.
    """
    while True:
        scene = _sample_scene(rng, size, margin=0.0)
        image = _paint(scene, size, scene.things, rng, moving=frozenset())
        if any(fact.visible > 0.3 for fact in image.facts):
            return image


def flat_clip(rng: np.random.Generator, size: int = 192, frames: int = 8) -> list[LabelledImage]:
    """A short clip: objects that move, hide each other, leave and come back, under a camera that pans and zooms.

    The objects keep their index (and instance value) over the clip.
    """
    scene = _sample_scene(rng, size, margin=0.3)
    paths = [_path(thing, rng, frames) for thing in scene.things]
    moving = frozenset(i for i, path in enumerate(paths) if np.ptp(path, axis=0).max() > 0)
    pans = _camera_path(rng, frames)
    clip = []
    for t in range(frames):
        things = tuple(
            _placed(thing, float(path[t, 0]), float(path[t, 1]))
            for thing, path in zip(scene.things, paths, strict=True)
        )
        clip.append(
            _paint(scene, size, things, rng, moving, camera=(pans[t, 0], pans[t, 1], pans[t, 2]))
        )
    return clip


def _placed(thing: _Thing, x: float, y: float) -> _Thing:
    return _Thing(thing.name, thing.rgb, thing.faces, thing.scale, thing.angle, x, y, thing.pattern)


# --- sampling ------------------------------------------------------------------------------------


def _sample_scene(rng: np.random.Generator, size: int, margin: float) -> _Scene:
    horizon = rng.uniform(0.08, 0.45) if rng.random() < 0.5 else -1.0
    pitch = rng.uniform(0.2, 0.65) if horizon > 0 else rng.uniform(0.45, 1.25)
    perspective = rng.uniform(0.0, 0.9) if pitch < 1.0 else 0.0
    things = _sample_things(rng, max(horizon, 0.05), pitch)
    if rng.random() < 0.35:
        things += [_clutter(rng) for _ in range(int(rng.integers(1, 4)))]
    return _Scene(
        backdrop=_backdrop(rng, size, horizon, margin),
        margin=margin,
        things=tuple(things),
        pitch=pitch,
        perspective=perspective,
        light=(rng.uniform(-1, 1), rng.uniform(-1, -0.2)),
        shadow=rng.uniform(0.0, 0.6),
        gain=(rng.uniform(0.7, 1.15) * rng.uniform(0.93, 1.07, 3)).astype(np.float32),
        gamma=rng.uniform(0.85, 1.2),
        noise=rng.uniform(0.5, 7.0) if rng.random() < 0.8 else 0.0,
        blur=rng.uniform(0.4, 1.1) if rng.random() < 0.3 else 0.0,
    )


def _backdrop(rng: np.random.Generator, size: int, horizon: float, margin: float) -> np.ndarray:
    side = round(size * (1 + 2 * margin))
    image = surface(rng, side, side)
    if horizon > 0:
        wall_rows = round(side * (horizon + margin) / (1 + 2 * margin))
        wall = surface(rng, side, side)
        slope = rng.uniform(-0.06, 0.06) * side if rng.random() < 0.4 else 0.0
        edge = (wall_rows + np.linspace(-slope, slope, side)).astype(np.int32)
        image = np.where((np.arange(side)[:, None] < edge[None])[..., None], wall, image)
    return np.ascontiguousarray(image)


def _sample_things(rng: np.random.Generator, top: float, pitch: float) -> list[_Thing]:
    """Objects with colours and shapes from a small set, so that they share attributes and need to be told apart."""
    count = 1 + int(rng.choice(MAX_OBJECTS, p=(0.06, 0.13, 0.22, 0.24, 0.20, 0.15)))
    colours = rng.choice(list(COLOURS), int(rng.integers(2, 6)), replace=False)
    shapes = rng.choice(SHAPES, int(rng.integers(2, 6)), replace=False)
    base, spacing = np.exp(rng.uniform(np.log(0.065), np.log(0.19))), rng.uniform(0.45, 1.0)
    things: list[_Thing] = []
    for _ in range(20 * count):
        if len(things) == count:
            break
        scale = float(np.clip(base * rng.uniform(0.65, 1.5), 0.04, 0.23))
        x, y = rng.uniform(0.04, 0.96), rng.uniform(min(max(top + 0.1, 0.28), 0.6), 1.03)
        if any(np.hypot(x - o.x, y - o.y) < spacing * (scale + o.scale) for o in things):
            continue
        colour, shape = str(rng.choice(colours)), str(rng.choice(shapes))
        things.append(make_thing(rng, colour, shape, scale, x, y, pitch))
    return things


def make_thing(
    rng: np.random.Generator,
    colour: str,
    shape: str,
    scale: float,
    x: float,
    y: float,
    pitch: float,
) -> _Thing:
    """One object of a named colour and shape; its details are random.

    Args:
        scale: half size as a fraction of the image width.
        x, y: of its base, fractions of the image.
        pitch: of the view, radians below the horizon.
    """
    view = View(
        float(np.clip(pitch + rng.uniform(-0.1, 0.1), 0.15, 1.35)), rng.uniform(0, 2 * np.pi)
    )
    faces = BUILDERS[shape](view, rng)
    lying = shape in ("bottle", "can", "mug") and rng.random() < 0.2
    angle = rng.uniform(-np.pi, np.pi) if lying else rng.normal(0, 0.08)
    kind = int(rng.choice(4, p=(0.6, 0.12, 0.08, 0.2)))
    pattern = _Pattern(kind, rng.uniform(0.08, 0.3), rng.uniform(0, np.pi), rng.uniform(0.2, 0.6))
    return _Thing(
        (colour, shape), sample_colour(rng, colour), tuple(faces), scale, angle, x, y, pattern
    )


def _clutter(rng: np.random.Generator) -> _Thing:
    """An arm from the border, or a grey or brown lump: in the picture, but in no sentence."""
    x, y = rng.uniform(0, 1), rng.uniform(0.2, 1.0)
    if rng.random() < 0.4:
        tone = np.array([224.0, 172, 140]) * rng.uniform(0.35, 1.05)
        side = -1.0 if x < 0.5 else 1.0
        bend = rng.uniform(-2, 2)
        t = np.linspace(0, 1, 10)
        path = np.stack([side * t * 16, bend * t + 0.8 * np.sin(2 * t)], 1)
        across = np.stack([np.zeros(10), 0.45 + 0.35 * t], 1)
        face = Face(np.concatenate([path + across, (path - across)[::-1]]), bare=True)
        fist = Face(
            np.stack(
                [
                    0.75 * np.cos(np.arange(14) / 14 * 6.28),
                    0.62 * np.sin(np.arange(14) / 14 * 6.28),
                ],
                1,
            )
        )
        faces, scale = (face, fist), rng.uniform(0.06, 0.1)
    else:
        tone = 0.75 * backdrop_colour(rng, vivid=0.0)  # never white
        turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 9))))
        radius = rng.uniform(0.6, 1.1, len(turns))
        faces = (Face(np.stack([radius * np.cos(turns), radius * np.sin(turns)], 1)),)
        scale = rng.uniform(0.05, 0.15)
    return _Thing(None, tone, faces, scale, 0.0, x, y, _Pattern(3, 0.15, 0.0, 0.3))


def _path(thing: _Thing, rng: np.random.Generator, frames: int) -> np.ndarray:
    """Where a thing's base is at each frame, [frames, 2]; constant for one that stays."""
    start = np.array([thing.x, thing.y])
    time = np.arange(frames)[:, None] / max(frames - 1, 1)
    choice = rng.random()
    heading = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(heading), 0.6 * np.sin(heading)])
    if choice < 0.4:
        return np.repeat(start[None], frames, 0)
    if choice < 0.65:
        return start + direction * time * rng.uniform(0.012, 0.06) * frames
    if choice < 0.82 or frames < 6:
        wave = np.sin(2 * np.pi * time * rng.uniform(0.3, 1.2))
        return start + direction * wave * rng.uniform(0.08, 0.3)
    side = 1.0 if thing.x > 0.5 else -1.0  # leaves over the nearer edge and comes back
    reach = abs((1.0 if side > 0 else 0.0) - thing.x) + 2.2 * thing.scale + 0.12
    return start + np.array([side, 0.0]) * reach * np.sin(np.pi * np.clip(time * 1.15 - 0.05, 0, 1))


def _camera_path(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Pan x, pan y (fractions of the image) and zoom per frame, [frames, 3]; small enough for the backdrop's margin."""
    if rng.random() < 0.3:
        return np.tile([0.0, 0.0, 1.0], (frames, 1))
    time = np.linspace(-0.5, 0.5, frames)[:, None]
    ends = np.array([rng.uniform(-0.2, 0.2), rng.uniform(-0.12, 0.12), rng.uniform(-0.15, 0.15)])
    jitter = rng.normal(0, 0.004, (frames, 3)) * (rng.random() < 0.5)
    return np.array([0.0, 0.0, 1.0]) + ends * time * 2 * 0.5 + jitter


# --- painting ------------------------------------------------------------------------------------


def _paint(
    scene: _Scene,
    size: int,
    things: tuple[_Thing, ...],
    rng: np.random.Generator,
    moving: frozenset[int],
    camera: _Camera = (0.0, 0.0, 1.0),
) -> LabelledImage:
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


def _look(scene: _Scene, size: int, camera: _Camera) -> np.ndarray:
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
    thing: _Thing, scene: _Scene, size: int, camera: _Camera
) -> tuple[float, float, float]:
    """Base x, base y and half size in pixels."""
    pan_x, pan_y, zoom = camera
    x, y = (
        ((thing.x - 0.5 - pan_x) * zoom + 0.5) * size,
        ((thing.y - 0.5 - pan_y) * zoom + 0.5) * size,
    )
    return x, y, thing.scale * scene.zoom(thing.y) * zoom * size


def _cast_shadows(
    image: np.ndarray, scene: _Scene, things: tuple[_Thing, ...], camera: _Camera
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
    scene: _Scene,
    thing: _Thing,
    label: int,
    camera: _Camera,
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
    scene: _Scene, thing: _Thing, mode: np.ndarray, offset: np.ndarray, half: float
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


def _figure(pattern: _Pattern, u: np.ndarray, v: np.ndarray) -> np.ndarray:
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


def _expose(image: np.ndarray, scene: _Scene, rng: np.random.Generator) -> np.ndarray:
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
