# SPDX-License-Identifier: Apache-2.0
"""Objects of the catalogue for a scene: which ones, how large, in which colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
from scipy.spatial import ConvexHull, QhullError

from sa2va_sim.assets.parts import Geom, ObjectModel
from sa2va_sim.catalogue.colours import EXTRA_COLOURS, MAIN, shares, spoken
from sa2va_sim.catalogue.furniture import Furniture, read_furniture
from sa2va_sim.catalogue.meshes import Surface, load_surfaces
from sa2va_sim.catalogue.nouns import nouns
from sa2va_sim.catalogue.solids import solids
from sa2va_sim.words.vocabulary import COLOURS, sample_colour

SPLITS = {"train": (False,), "unseen": (True,), "all": (False, True)}
TABLE, FLOOR = "table", "floor"
_LONGEST_ON_TABLE, _SHORTEST_ON_FLOOR = 0.5, 0.4  # metres
_FLOOR_SCALE = 0.13  # a room as a doll's house, so that cameras and ways are those of a table
_SIDES = (0.05, 0.34)
_NATURAL = frozenset((
    "apple", "fruit", "bread", "cake", "cupcake", "plant", "flowers", "bonsai", "banana", "chicken", "sushi",
    "steak", "hamburger", "logs", "rock", "banknote", "snowman", "deer", "rabbit", "dog", "cat", "horse",
    "salad", "milk", "cactus", "crate", "french fries", "hot dog", "roast chicken", "fruit bowl",
    "christmas tree", "fire hydrant",
))  # fmt: skip


def usable(split: str, place: str) -> tuple[Furniture, ...]:
    """The objects of a split ("train", "unseen" or "all") that have a noun and belong on a "table" or the "floor"."""
    known, wanted = nouns(), SPLITS[split]
    fits = {
        TABLE: lambda longest: longest <= _LONGEST_ON_TABLE,
        FLOOR: lambda longest: longest >= _SHORTEST_ON_FLOOR,
    }[place]
    return tuple(
        item
        for item in read_furniture()
        if item.name in known and item.held_out in wanted and fits(max(item.size))
    )


def trained_items() -> tuple[Furniture, ...]:
    """The objects that may be trained on."""
    return tuple(dict.fromkeys(item for place in (TABLE, FLOOR) for item in usable("train", place)))


def trained_names() -> tuple[str, ...]:
    """What they are called."""
    names = (name for item in trained_items() for name in nouns()[item.name].names)
    return tuple(dict.fromkeys(names))


@lru_cache(maxsize=64)
def _surfaces(item: Furniture) -> tuple[Surface, ...]:
    return load_surfaces(item)


def draw_items(
    rng: np.random.Generator,
    count: int,
    split: str,
    place: str,
    *,
    even: bool = True,
) -> list[Furniture]:
    """Objects at random, each noun as often as any other; now and then one noun twice.

    Args:
        even: False = each object as often as any other.
    """
    if not even:
        every = usable(split, place)
        return [every[int(k)] for k in rng.choice(len(every), min(count, len(every)), False)]
    by_noun: dict[str, list[Furniture]] = {}
    for item in usable(split, place):
        by_noun.setdefault(nouns()[item.name].name, []).append(item)
    names = [str(name) for name in rng.choice(sorted(by_noun), min(count, len(by_noun)), False)]
    if len(names) > 2 and rng.random() < 0.5:
        names[-1] = names[0]
    return [by_noun[name][int(rng.integers(len(by_noun[name])))] for name in names]


def build_model(
    item: Furniture,
    rng: np.random.Generator,
    place: str = TABLE,
    repaint: float = 0.35,
    scale: float | None = None,
) -> ObjectModel:
    """One object in metres.

    Args:
        repaint: chance that what has one colour, and may have any, gets another.
        scale: factor on its true size; None = a random one, and nothing tiny or huge.
    """
    noun = nouns()[item.name]
    surfaces = _surfaces(item)
    if noun.name not in _NATURAL and rng.random() < repaint:
        surfaces = _repainted(surfaces, rng)
    if scale is None:
        longest = max(item.size) * (1.0 if place == TABLE else _FLOOR_SCALE)
        scale = float(np.clip(longest, *_SIDES)) / max(item.size) * float(rng.uniform(0.85, 1.2))
    surfaces = tuple(replace(s, vertices=s.vertices * scale) for s in surfaces)
    colour, others = spoken(surfaces)
    every = np.concatenate([s.vertices for s in surfaces])
    return ObjectModel(
        noun.name,
        tuple(_part(surface) for surface in surfaces),
        solids(surfaces),
        radius=float(np.linalg.norm(every[:, :2], axis=1).max()) * 0.9,
        height=float(every[:, 2].max()),
        colour=colour,
        names=noun.names,
        doubtful=(*noun.doubtful, *others),
        held_out=item.held_out,
    )


def _part(surface: Surface) -> Geom:
    points = surface.vertices.astype(np.float64)
    try:
        hull = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):  # flat
        hull = points
    texture = surface.texture[::-1] if not surface.plain else surface.texture
    return Geom(
        "mesh", (), (0.0, 0.0, 0.0), np.eye(3), None, points, surface.faces, (hull,),
        surface.places, np.ascontiguousarray(texture), surface.alpha,
    )  # fmt: skip


def _repainted(surfaces: tuple[Surface, ...], rng: np.random.Generator) -> tuple[Surface, ...]:
    """The main colour becomes another; light and shade of it stay."""
    found = shares(surfaces)
    main = max(found, key=lambda name: found[name], default="")
    if not main or found[main] < MAIN or (main in EXTRA_COLOURS and rng.random() < 0.5):
        return surfaces
    shade = sample_colour(rng, str(rng.choice(list(COLOURS))))
    return tuple(replace(s, texture=_tinted(s.texture, main, shade)) for s in surfaces)


def _tinted(texture: np.ndarray, main: str, shade: np.ndarray) -> np.ndarray:
    from sa2va_sim.catalogue.colours import NAMES, colour_names

    flat = texture.reshape(-1, 3)
    where = colour_names(flat) == NAMES.index(main)
    if not where.any():
        return texture
    grey = cv2.cvtColor(texture, cv2.COLOR_RGB2GRAY).reshape(-1)[where].astype(np.float64)
    light = np.clip(grey / max(float(np.percentile(grey, 90)), 1.0), 0.5, 1.1)[:, None]
    painted = flat.copy()
    painted[where] = np.clip(light * shade, 0, 255).astype(np.uint8)
    return painted.reshape(texture.shape)


def stock(
    rng: np.random.Generator,
    count: int,
    split: str,
    place: str,
    *,
    even: bool = True,
) -> tuple[ObjectModel, ...]:
    """Objects for a world's stock; see `draw_items`."""
    items: Sequence[Furniture] = draw_items(rng, count, split, place, even=even)
    return tuple(build_model(item, rng, place) for item in items)
