# SPDX-License-Identifier: Apache-2.0
"""Cheap 2D scenes of the tabletop world: painted with OpenCV in a few milliseconds, for training in bulk.

A scene is a backdrop (table, wall) with one to six objects seen obliquely, partly hidden by each other and by things
that no sentence names (arms, grey and brown clutter). The same words as in the simulator.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sa2va_sim.painted.paint import FlatScene, PaintedObject, Pattern, paint
from sa2va_sim.painted.shapes import BUILDERS, Face, View
from sa2va_sim.textures import backdrop_colour, surface
from sa2va_sim.words.facts import LabelledImage
from sa2va_sim.words.vocabulary import COLOURS, SHAPES, sample_colour

MAX_OBJECTS = 6


def flat_scene(rng: np.random.Generator, size: int = 192) -> LabelledImage:
    """One still scene.

    Args:
        size: side of the square image in pixels.
    """
    while True:
        scene = _sample_scene(rng, size, margin=0.0)
        image = paint(scene, size, scene.things, rng, moving=frozenset())
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
            replace(thing, x=float(path[t, 0]), y=float(path[t, 1]))
            for thing, path in zip(scene.things, paths, strict=True)
        )
        clip.append(
            paint(scene, size, things, rng, moving, camera=(pans[t, 0], pans[t, 1], pans[t, 2]))
        )
    return clip


def _sample_scene(rng: np.random.Generator, size: int, margin: float) -> FlatScene:
    horizon = rng.uniform(0.08, 0.45) if rng.random() < 0.5 else -1.0
    pitch = rng.uniform(0.2, 0.65) if horizon > 0 else rng.uniform(0.45, 1.25)
    perspective = rng.uniform(0.0, 0.9) if pitch < 1.0 else 0.0
    things = _sample_things(rng, max(horizon, 0.05), pitch)
    if rng.random() < 0.35:
        things += [_clutter(rng) for _ in range(int(rng.integers(1, 4)))]
    return FlatScene(
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


def _sample_things(rng: np.random.Generator, top: float, pitch: float) -> list[PaintedObject]:
    """Objects with colours and shapes from a small set, so that they share attributes and need to be told apart."""
    count = 1 + int(rng.choice(MAX_OBJECTS, p=(0.06, 0.13, 0.22, 0.24, 0.20, 0.15)))
    colours = rng.choice(list(COLOURS), int(rng.integers(2, 6)), replace=False)
    shapes = rng.choice(SHAPES, int(rng.integers(2, 6)), replace=False)
    base, spacing = np.exp(rng.uniform(np.log(0.065), np.log(0.19))), rng.uniform(0.45, 1.0)
    things: list[PaintedObject] = []
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
) -> PaintedObject:
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
    pattern = Pattern(kind, rng.uniform(0.08, 0.3), rng.uniform(0, np.pi), rng.uniform(0.2, 0.6))
    return PaintedObject(
        (colour, shape), sample_colour(rng, colour), tuple(faces), scale, angle, x, y, pattern
    )


def _clutter(rng: np.random.Generator) -> PaintedObject:
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
        faces, scale = [face, fist], rng.uniform(0.06, 0.1)
    else:
        tone = 0.75 * backdrop_colour(rng, vivid=0.0)  # never white
        turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 9))))
        radius = rng.uniform(0.6, 1.1, len(turns))
        faces = [Face(np.stack([radius * np.cos(turns), radius * np.sin(turns)], 1))]
        scale = rng.uniform(0.05, 0.15)
    return PaintedObject(None, tone, tuple(faces), scale, 0.0, x, y, Pattern(3, 0.15, 0.0, 0.3))


def _path(thing: PaintedObject, rng: np.random.Generator, frames: int) -> np.ndarray:
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
