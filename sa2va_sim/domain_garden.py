# SPDX-License-Identifier: Apache-2.0
"""A domain of its own on the same tables: six shapes and their names that the vocabulary does not have.

What a model that was trained on the vocabulary has to learn anew. Importing this changes no scene of the others:
shapes are only drawn by worlds that ask for them.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np

from sa2va_sim.assets import Collision, Geom, ObjectModel, register_shape
from sa2va_sim.assets.parts import AROUND, Rgb, cylinder, revolved, tube
from sa2va_sim.layout import STILL, SceneConfig
from sa2va_sim.scene import sample_scene
from sa2va_sim.simulator import SimFrame, Simulator
from sa2va_sim.words.facts import LabelledImage
from sa2va_sim.world import World, sample_world

SHAPES: tuple[str, ...] = ("pear", "mushroom", "carrot", "mallet", "dumbbell", "donut")
_STEM: Rgb = (0.33, 0.23, 0.12)
_CREAM: Rgb = (0.90, 0.86, 0.76)
_LEAF: Rgb = (0.20, 0.42, 0.16)
_WOOD: Rgb = (0.66, 0.48, 0.29)
_STEEL: Rgb = (0.55, 0.56, 0.58)
_WORLDS = 0x6A2D
_SCENES_PER_WORLD = 8
_RENDER = (320, 240)


def _moved(part: Geom, shift: tuple[float, float, float], lie: str = "") -> Geom:
    """A mesh somewhere else; with `lie` its axis is turned from z to x or y."""
    turns = {
        "": np.eye(3),
        "x": np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
        "y": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    }
    assert part.vertices is not None
    turn = turns[lie].T
    return replace(
        part,
        vertices=part.vertices @ turn + shift,
        hulls=tuple(hull @ turn + shift for hull in part.hulls),
    )


def _disc(radius: float, length: float, rgb: Rgb | None = None) -> Geom:
    """A closed cylinder as a mesh, its middle in the origin."""
    half = length / 2
    return revolved([(0.0, -half), (radius, -half), (radius, half), (0.0, half)], rgb)


def _pear(rng: np.random.Generator, scale: float) -> ObjectModel:
    radius = rng.uniform(0.036, 0.043) * scale
    height = radius * rng.uniform(2.5, 2.9)
    neck = radius * rng.uniform(0.42, 0.52)
    shape = [(0.0, 0.0), (0.5, 0.02), (0.86, 0.13), (1.0, 0.3), (0.88, 0.48)]
    profile = [(r * radius, z * height) for r, z in shape]
    profile += [(neck, 0.7 * height), (neck * 0.9, 0.88 * height), (neck * 0.45, 0.98 * height)]
    profile += [(0.0, height)]
    stem = cylinder(0.004 * scale, height * 0.98, height * 1.16, _STEM)
    solid = Collision("cylinder", (radius, height / 2), (0, 0, height / 2))
    return ObjectModel("pear", (revolved(profile), stem), (solid,), radius, height * 1.16)


def _mushroom(rng: np.random.Generator, scale: float) -> ObjectModel:
    cap, stem = rng.uniform(0.048, 0.06) * scale, rng.uniform(0.016, 0.021) * scale
    under, rise = rng.uniform(0.05, 0.062) * scale, cap * rng.uniform(0.6, 0.8)
    foot = revolved(
        [(0.0, 0.0), (stem * 1.25, 0.0), (stem, under * 0.5), (stem, under * 1.05), (0.0, under)],
        _CREAM,
    )
    heights = np.linspace(0, 1, 7)
    dome = [(cap * float(np.sqrt(1 - h * h)), under + rise * float(h)) for h in heights]
    roof = revolved([(0.0, under * 1.02), (cap * 0.9, under * 0.94), *dome])
    solid = Collision("cylinder", (cap * 0.8, (under + rise) / 2), (0, 0, (under + rise) / 2))
    return ObjectModel("mushroom", (foot, roof), (solid,), cap, under + rise)


def _carrot(rng: np.random.Generator, scale: float) -> ObjectModel:
    """Lies on the table along x, leaves behind it."""
    radius, length = rng.uniform(0.021, 0.026) * scale, rng.uniform(0.13, 0.17) * scale
    shape = [(0.0, 0.5), (0.8, 0.485), (1.0, 0.42), (0.78, 0.05), (0.4, -0.32), (0.0, -0.5)]
    body = _moved(revolved([(r * radius, z * length) for r, z in shape]), (0, 0, radius), "x")
    leaves = [
        _moved(
            revolved([(0.0, 0.0), (0.006 * scale, 0.02 * scale), (0.0, 0.055 * scale)], _LEAF),
            (length * 0.48, 0.011 * scale * side, radius + 0.004 * scale * abs(side)),
            "x",
        )
        for side in (-1, 0, 1)
    ]
    solid = Collision("box", (length / 2, radius, radius), (0, 0, radius))
    return ObjectModel("carrot", (body, *leaves), (solid,), length * 0.55, 2 * radius)


def _mallet(rng: np.random.Generator, scale: float) -> ObjectModel:
    """Lies on the table: a wooden handle along x, a thick coloured head across it."""
    radius, width = rng.uniform(0.028, 0.034) * scale, rng.uniform(0.085, 0.105) * scale
    handle = rng.uniform(0.15, 0.19) * scale
    head = _moved(_disc(radius, width), (handle / 2, 0, radius), "y")
    path = np.stack([np.linspace(-handle / 2, handle / 2, 5), np.zeros(5), np.full(5, radius)], 1)
    grip = tube(path, 0.0095 * scale)
    solid = Collision("box", (handle / 2, width / 2, radius), (0, 0, radius))
    parts = (head, replace(grip, rgb=_WOOD))
    return ObjectModel("mallet", parts, (solid,), handle * 0.6, 2 * radius)


def _dumbbell(rng: np.random.Generator, scale: float) -> ObjectModel:
    """Lies on the table along x: two coloured discs on each end of a steel bar."""
    radius, length = rng.uniform(0.033, 0.042) * scale, rng.uniform(0.13, 0.165) * scale
    thick = rng.uniform(0.02, 0.026) * scale
    discs = []
    for side in (-1, 1):
        end = side * (length - thick) / 2
        discs.append(_moved(_disc(radius, thick), (end, 0, radius), "x"))
        inner = end - side * thick
        discs.append(_moved(_disc(radius * 0.72, thick * 0.8), (inner, 0, radius), "x"))
    bar = _moved(_disc(0.009 * scale, length, _STEEL), (0, 0, radius), "x")
    solid = Collision("box", (length / 2, radius, radius), (0, 0, radius))
    return ObjectModel("dumbbell", (*discs, bar), (solid,), length * 0.6, 2 * radius)


def _donut(rng: np.random.Generator, scale: float) -> ObjectModel:
    """Lies on the table; its hull is given piece by piece, so that the hole is seen through."""
    middle, radius = rng.uniform(0.040, 0.048) * scale, rng.uniform(0.017, 0.021) * scale
    around, turn = AROUND, np.linspace(0, 2 * np.pi, 10, endpoint=False)
    angles = np.linspace(0, 2 * np.pi, around, endpoint=False)
    reach = middle + radius * np.cos(turn)  # [10]
    rings = np.stack(
        [
            np.cos(angles)[:, None] * reach,
            np.sin(angles)[:, None] * reach,
            np.tile(radius + radius * np.sin(turn), (around, 1)),
        ],
        -1,
    )  # [around, 10, 3]
    first, here = np.arange(around)[:, None] * 10, np.arange(10)[None]
    after, nxt = (np.arange(around)[:, None] + 1) % around * 10, (here + 1) % 10
    a, b, c, d = first + here, after + here, after + nxt, first + nxt
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    hulls = tuple(np.concatenate([rings[k], rings[(k + 1) % around]]) for k in range(around))
    part = Geom("mesh", (), (0.0, 0.0, 0.0), np.eye(3), None, rings.reshape(-1, 3), faces, hulls)
    side = middle + radius
    solid = Collision("cylinder", (side, radius), (0, 0, radius))
    return ObjectModel("donut", (part,), (solid,), side, 2 * radius)


for _name, _builder in {
    "pear": _pear,
    "mushroom": _mushroom,
    "carrot": _carrot,
    "mallet": _mallet,
    "dumbbell": _dumbbell,
    "donut": _donut,
}.items():
    register_shape(_name, _builder)


@lru_cache(maxsize=4)
def garden_world(number: int) -> World:
    """A room whose stock has only shapes of this domain, some of them twice."""
    rng = np.random.default_rng([_WORLDS, number])
    names = [*SHAPES, *rng.choice(SHAPES, 4)]
    shapes = tuple(str(name) for name in rng.permutation(names))
    return sample_world([_WORLDS, number], shapes, scales=(0.9, 1.4))


_local = threading.local()  # OpenGL contexts belong to threads


def garden_frames(seed: int, count: int, config: SceneConfig = STILL) -> list[SimFrame]:
    """Pictures of one arrangement, taken one after the other; 4:3, `count` of them over `config.seconds`."""
    number = seed // _SCENES_PER_WORLD
    world = garden_world(number)
    scene = sample_scene(seed, config, world)
    held: tuple[int, Simulator] | None = getattr(_local, "held", None)
    if held is None or held[0] != number:
        if held is not None:
            held[1].close()
        held = _local.held = (number, Simulator(scene, *_RENDER))
    simulator = held[1]
    simulator.arrange(scene)
    frames = []
    for _ in range(count):
        frames.append(simulator.render())
        simulator.step(config.seconds / max(count, 1))
    return frames


def render_garden(seed: int, size: int = 192) -> LabelledImage:
    """One still scene, the 4:3 picture squashed to a square."""
    frame = garden_frames(seed, 1)[0]
    rgb = cv2.resize(frame.rgb, (size, size), interpolation=cv2.INTER_AREA)
    labels = cv2.resize(frame.instances, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    return LabelledImage(rgb, labels, frame.facts)
