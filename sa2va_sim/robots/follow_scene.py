# SPDX-License-Identifier: Apache-2.0
"""Seeded scenes for following: one thing wanders over the floor, others stand about, and a sentence means the one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sa2va_sim.assets.parts import ObjectModel
from sa2va_sim.catalogue.handy import KITCHEN, SHAPES, differing, large, taught
from sa2va_sim.layout import CameraTrack, Item, Light, Motion, Scene, Triple, turn_z
from sa2va_sim.robots.rover import FOVY, MAST
from sa2va_sim.words.vocabulary import COLOURS, sample_colour
from sa2va_sim.world import World, sample_world

LEADERS = ("ball", "mug", "can", "bottle", "block")
OTHERS = 4
ARENA = 3.0  # metres, half width
REST = 4.0  # seconds for which the leader waits at the start
SPEED = 0.16  # metres a second, on average while it moves
_RADIUS = 1.7  # metres within which the leader stays


@dataclass(frozen=True)
class FollowScene:
    """A scene, who leads (index 0), and the words for it."""

    scene: Scene
    expression: str
    target: int = 0


def follow_scene(seed: int, seconds: float = 40.0, scene: str = SHAPES) -> FollowScene:
    """A function of its seed. The base stands at the origin and looks along x.

    Args:
        seconds: length of the leader's way; it rests at its end.
        scene: shapes, or kitchen: things of the furniture catalogue.

    Raises:
        InputError: the catalogue is asked for and is not installed.
    """
    rng = np.random.default_rng([seed, 0xF0110])
    world = (_kitchen if scene == KITCHEN else _shapes)(rng, seed)
    colours = [str(c) for c in rng.choice(list(COLOURS), len(world.stock), replace=False)]
    way = _way(rng, seconds)
    places = _stand_apart(rng, way)
    items = []
    for k, (colour, model) in enumerate(zip(colours, world.stock, strict=True)):
        red, green, blue = (float(v) for v in sample_colour(rng, colour) / 255.0)
        if model.colour is not None:
            colour, red, green, blue = model.colour, 1.0, 1.0, 1.0
        place = way.positions[0] if k == 0 else places[k - 1]
        rotation = turn_z(float(rng.uniform(0, 2 * np.pi)))
        motion = way if k == 0 else None
        items.append(Item(k, colour, (red, green, blue), place, rotation, motion, k == 0))
    strength = float(rng.uniform(0.4, 0.55))
    lights = tuple(
        Light((x, y, 2.6), (x, y, 0.0), (strength, strength, strength))
        for x, y in ((0.8, 0.0), (-0.8, 0.9), (-0.8, -0.9))
    )
    camera = CameraTrack((0.0,), ((0.0, 0.0, MAST),), ((1.0, 0.0, 0.0),), (0.0,), FOVY)
    shown = Scene(world, tuple(items), (), lights, 0.4, camera, shadows=False)
    return FollowScene(shown, f"the {_called(rng, colours[0], world.stock[0])}")


def _shapes(rng: np.random.Generator, seed: int) -> World:
    shapes = [str(rng.choice(LEADERS)), *(str(s) for s in rng.choice(LEADERS, OTHERS))]
    return sample_world(
        [seed, 0xF0110], tuple(shapes), clutter=0, plain=True, scales=(1.3, 1.6), arena=ARENA
    )


def _kitchen(rng: np.random.Generator, seed: int) -> World:
    models = differing(rng, 1 + OTHERS, large())
    return sample_world([seed, 0xF0110], (), clutter=0, arena=ARENA, extra=models)


def _called(rng: np.random.Generator, colour: str, model: ObjectModel) -> str:
    """Colour and shape; of the catalogue's things a name that was taught."""
    return str(rng.choice(taught(model.names))) if model.names else f"{colour} {model.shape}"


def _way(rng: np.random.Generator, seconds: float) -> Motion:
    """A walk that begins in sight of the base, turns by at most a right angle and stays near the origin."""
    heading = float(rng.uniform(-0.6, 0.6))
    place = np.array([rng.uniform(0.8, 1.1), rng.uniform(-0.2, 0.2)])
    times, points, yaws = [0.0, REST], [place, place], [0.0, 0.0]
    while times[-1] < seconds:
        length = float(rng.uniform(0.25, 0.6))
        for _ in range(60):
            turn = float(rng.uniform(-np.pi / 2, np.pi / 2))
            step = length * np.array([np.cos(heading + turn), np.sin(heading + turn)])
            if np.hypot(*(place + step)) < _RADIUS:
                break
        else:
            turn, step = np.pi, -length * np.array([np.cos(heading), np.sin(heading)])
        heading, place = heading + turn, place + step
        times.append(times[-1] + length / SPEED)
        points.append(place)
        yaws.append(yaws[-1] + 0.3 * turn)
    positions: tuple[Triple, ...] = tuple((float(x), float(y), 0.0) for x, y in points)
    return Motion(tuple(times), positions, tuple(yaws))


def _stand_apart(rng: np.random.Generator, way: Motion) -> list[Triple]:
    """Places for the others: beside the leader's way, where the camera passes them, but not on it nor on each other."""
    track = np.array([way.at(time)[0][:2] for time in np.arange(0, way.times[-1], 0.2)])
    places: list[Triple] = []
    gap = 0.4
    while len(places) < OTHERS:
        angle = rng.uniform(0, 2 * np.pi)
        away = rng.uniform(0.4, 0.9) * np.array([np.cos(angle), np.sin(angle)])
        spot = track[int(rng.integers(len(track)))] + away
        near = np.hypot(*(track - spot).T).min()
        others = [np.hypot(spot[0] - x, spot[1] - y) for x, y, _ in places]
        inside = np.abs(spot).max() < ARENA - 0.3
        if inside and near > gap and np.hypot(*spot) > 0.5 and all(o > 0.35 for o in others):
            places.append((float(spot[0]), float(spot[1]), 0.0))
        gap *= 0.998
    return places
