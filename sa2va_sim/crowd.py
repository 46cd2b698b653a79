# SPDX-License-Identifier: Apache-2.0
"""Tables with several of a kind: shapes repeat, and all things have one of two colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sa2va_sim.layout import Scene, SceneConfig
from sa2va_sim.scene import sample_scene
from sa2va_sim.words.facts import LabelledImage
from sa2va_sim.words.vocabulary import SHAPES, sample_colour
from sa2va_sim.world import World, sample_world

CROWD = SceneConfig(objects=(5, 9), camera="fixed")
_STOCK = 10


def crowd_scene(seed: int, world: World | None = None) -> Scene:
    """A table of five to nine things of two colours.

    Args:
        world: as for `sample_scene`; its own shapes decide how many are alike.
    """
    scene = sample_scene(seed, CROWD, world)
    rng = np.random.default_rng(seed)
    colours = sorted({item.colour for item in scene.items if item.colour})
    if not colours:
        return scene
    kept = rng.choice(colours, min(2, len(colours)), replace=False)
    items = []
    for item in scene.items:
        if scene.world.stock[item.slot].colour is None:
            colour = str(rng.choice(kept))
            red, green, blue = (sample_colour(rng, colour) / 255.0).tolist()
            item = replace(item, colour=colour, rgb=(red, green, blue))
        items.append(item)
    return replace(scene, items=tuple(items))


def crowd_world(number: int) -> World:
    """A room whose stock has two to four shapes, three of ten things aside."""
    rng = np.random.default_rng([number, 0xC0FFEE])
    few = rng.choice(SHAPES, int(rng.integers(2, 5)), replace=False)
    alike, others = rng.choice(few, _STOCK - 3), rng.choice(SHAPES, 3)
    return sample_world([number, 1], tuple(str(shape) for shape in (*alike, *others)))


def render_crowd(seed: int, size: int) -> LabelledImage:
    """A crowd, squashed to a square; seeds in rising order are fastest."""
    from sa2va_sim.simulator import render_squashed

    return render_squashed(seed, size, crowd_scene, crowd_world)
