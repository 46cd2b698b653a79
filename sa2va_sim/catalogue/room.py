# SPDX-License-Identifier: Apache-2.0
"""Scenes with ordinary objects: tables and floors, mixed with the shapes of the toy world."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np

from sa2va_sim.catalogue.stock import FLOOR, TABLE, stock, usable
from sa2va_sim.layout import STILL, Scene, SceneConfig
from sa2va_sim.scene import sample_scene
from sa2va_sim.simulator import Simulator
from sa2va_sim.words.facts import LabelledImage
from sa2va_sim.words.vocabulary import SHAPES
from sa2va_sim.world import World, sample_world

SEEDS_PER_ROOM = 12
_FLOORS = 0.25
_OBJECTS = 8


@lru_cache(maxsize=4)
def catalogue_world(number: int, split: str = "train") -> World:
    """The random room of that number with objects of a split ("train", "unseen" or "all")."""
    rng = np.random.default_rng([number, 0xCA7A])
    place = FLOOR if rng.random() < _FLOORS and usable(split, FLOOR) else TABLE
    toys = (
        ()
        if place == FLOOR
        else tuple(str(s) for s in rng.choice(SHAPES, int(rng.integers(0, 4)), False))
    )
    extra = stock(rng, _OBJECTS - len(toys), split, place)
    arena = float(rng.uniform(1.2, 3.0)) if place == FLOOR else None
    return sample_world([number, 0xCA7A], toys, clutter=3, arena=arena, extra=extra)


def catalogue_scene(seed: int, split: str = "train", config: SceneConfig = STILL) -> Scene:
    """A random scene in the room of that seed, from gloomy to glaring."""
    scene = sample_scene(seed, config, catalogue_world(seed // SEEDS_PER_ROOM, split))
    rng = np.random.default_rng([seed, 0x11647])
    tint, strength = rng.uniform(0.85, 1.15, 3), float(np.exp(rng.uniform(-0.3, 0.4)))
    red, green, blue = (float(v) for v in strength * tint)
    lights = tuple(
        replace(light, rgb=(red * light.rgb[0], green * light.rgb[1], blue * light.rgb[2]))
        for light in scene.lights
    )
    return replace(scene, lights=lights, ambient=float(rng.uniform(0.1, 0.6)))


_RENDER = (448, 336)
_local = threading.local()  # OpenGL contexts belong to threads


def render_things(
    seed: int, split: str = "train", size: int = 256, config: SceneConfig = STILL
) -> LabelledImage:
    """One still scene, the 4:3 picture squashed to a square; seeds in rising order are fastest."""
    frame = _simulator(seed // SEEDS_PER_ROOM, split)
    frame.arrange(catalogue_scene(seed, split, config))
    return _squash(frame, size)


def things_clip(
    seed: int, frames: int = 8, size: int = 256, split: str = "train"
) -> list[LabelledImage]:
    """A clip, as `simulator.sim_clip` makes them."""
    rng = np.random.default_rng([seed, 0xC11B])
    interval = float(rng.uniform(0.08, 0.25))
    config = SceneConfig(moving=0.5, seconds=max(interval * frames, 0.5))
    simulator = _simulator(seed // SEEDS_PER_ROOM, split)
    simulator.arrange(catalogue_scene(seed, split, config))
    clip = []
    for _ in range(frames):
        clip.append(_squash(simulator, size))
        simulator.step(interval)
    return clip


def exam_scene(seed: int, width: int = 640, height: int = 480) -> LabelledImage:
    """A still table with three to seven objects, seen and unseen ones, as a camera shows it; a room for every scene."""
    rng = np.random.default_rng([seed, 0xE8A3])
    world = sample_world(
        [seed, 0xE8A3], (), clutter=2, extra=stock(rng, 8, "all", TABLE, even=False)
    )
    scene = sample_scene(seed, SceneConfig(objects=(3, 7), camera="fixed"), world)
    simulator = Simulator(replace(scene, ambient=float(rng.uniform(0.2, 0.5))), width, height)
    try:
        frame = simulator.render()
    finally:
        simulator.close()
    return LabelledImage(frame.rgb, frame.instances, frame.facts)


def _simulator(number: int, split: str) -> Simulator:
    """This thread's simulator of a room; one at a time."""
    held: tuple[int, str, Simulator] | None = getattr(_local, "held", None)
    if held is not None and held[:2] == (number, split):
        return held[2]
    if held is not None:
        held[2].close()
    scene = catalogue_scene(number * SEEDS_PER_ROOM, split)
    _local.held = number, split, Simulator(scene, *_RENDER)
    return _local.held[2]


def _squash(simulator: Simulator, size: int) -> LabelledImage:
    frame = simulator.render()
    rgb = cv2.resize(frame.rgb, (size, size), interpolation=cv2.INTER_AREA)
    instances = cv2.resize(frame.instances, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    return LabelledImage(rgb, instances, frame.facts)
