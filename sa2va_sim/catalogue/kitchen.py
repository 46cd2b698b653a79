# SPDX-License-Identifier: Apache-2.0
"""The demo's minute with things of a kitchen, where the furniture catalogue is installed."""

from __future__ import annotations

import numpy as np

from sa2va_model.errors import InputError
from sa2va_sim.catalogue.furniture import read_furniture
from sa2va_sim.catalogue.stock import build_model
from sa2va_sim.scripted import DemoScene, play
from sa2va_sim.world import sample_world

# Name in the catalogue, what the user says, factor on its size. The first wanders, the second leaves.
_CAST = (
    ("boiler", "the kettle", 0.85),
    ("plastic cup", "the cup", 1.0),
    ("toaster", "the toaster", 0.7),
    ("wine bottle", "the wine bottle", 0.7),
    ("pottery", "the jar", 1.1),
)
ABSENT = "the scissors"
_ROOM = 3  # a wooden table


def kitchen_scene(seed: int = 0) -> DemoScene:
    """The scripted scene. The seed changes the room and the light.

    Raises:
        InputError: the catalogue is not installed, or lacks one of the things.
    """
    rng = np.random.default_rng([seed, 0xC17C])
    by_name = {item.name: item for item in reversed(read_furniture()) if not item.held_out}
    missing = [name for name, _, _ in _CAST if name not in by_name]
    if missing:
        raise InputError(f"furniture catalogue: has no {', '.join(missing)}; expected version 1.8")
    models = tuple(
        build_model(by_name[name], rng, repaint=0.0, scale=scale) for name, _, scale in _CAST
    )
    world = sample_world([0xC17C, seed + _ROOM], (), clutter=1, extra=models)
    names = [model.colour or "" for model in models]
    said = tuple(words for _, words, _ in _CAST)
    return play(world, names, [(1.0, 1.0, 1.0)] * len(models), said, ABSENT, rng)
