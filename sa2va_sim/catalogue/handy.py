# SPDX-License-Identifier: Apache-2.0
"""Objects of the catalogue for robots, at their true size: what a gripper can take, what a base sees from afar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sa2va_sim.assets.parts import ObjectModel
from sa2va_sim.catalogue.furniture import Furniture
from sa2va_sim.catalogue.nouns import nouns
from sa2va_sim.catalogue.stock import TABLE, build_model, trained_names, usable

SHAPES, KITCHEN = SCENES = ("shapes", "kitchen")  # what robots' scenes are made of
# Metres: the narrower side of the base, the height, the longest side.
_HANDY = ((0.02, 0.085), (0.04, 0.2), (0.0, 0.2))
_LARGE = ((0.08, 0.3), (0.1, 0.22), (0.16, 0.32))  # what is higher is cut by the border at 0.7 m
Spans = tuple[tuple[float, float], ...]


def handy() -> tuple[Furniture, ...]:
    """What fits between the fingers, from above, and stands high enough for them."""
    return _sized(_HANDY)


def large() -> tuple[Furniture, ...]:
    """What a base sees from metres away."""
    return _sized(_LARGE)


def _sized(spans: Spans) -> tuple[Furniture, ...]:
    return tuple(
        item
        for item in usable("all", TABLE)
        if all(low <= side <= high for side, (low, high) in zip(_sides(item), spans, strict=True))
        and taught(nouns()[item.name].names)
    )


def _sides(item: Furniture) -> tuple[float, float, float]:
    return min(item.size[:2]), item.size[2], max(item.size)


def differing(
    rng: np.random.Generator, count: int, items: Sequence[Furniture]
) -> tuple[ObjectModel, ...]:
    """As many objects at random, of which no two may be called the same: any name means one."""
    found: list[ObjectModel] = []
    said: set[str] = set()
    for k in rng.permutation(len(items)):
        noun = nouns()[items[k].name]
        words = {*noun.names, *noun.doubtful}
        if said & words:
            continue
        said |= words
        found.append(build_model(items[k], rng, repaint=0.0, scale=1.0))
        if len(found) == count:
            break
    return tuple(found)


def taught(names: Sequence[str]) -> tuple[str, ...]:
    """Those of an object's names by which some object was trained on."""
    every = set(trained_names())
    return tuple(name for name in names if name in every)
