# SPDX-License-Identifier: Apache-2.0
"""Seeded tables for grasping: four to six objects that stand apart, a fixed camera, and a sentence for one of them.

On a table of shapes the sentence is one of `expressions`, in a kitchen the name of an ordinary object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sa2va_sim.catalogue.handy import KITCHEN, SHAPES, differing, handy, taught
from sa2va_sim.layout import CameraTrack, Item, Light, Scene, turn_z
from sa2va_sim.robots.gantry import GantrySimulator, with_gantry
from sa2va_sim.words.expressions import KINDS, Expression, describe
from sa2va_sim.words.facts import ObjectFact
from sa2va_sim.words.vocabulary import COLOURS, sample_colour
from sa2va_sim.world import World, sample_world

GRASPABLE = ("block", "ball", "mug", "bottle", "can")  # what fits between the fingers, from above
_BULKY = ("bowl", "plate", "book", "box")
OBJECTS = (4, 6)
REACH = (0.23, 0.16)  # metres: half width and half depth of the area in which things stand
SETTLE = 0.3  # seconds in which everything comes to rest
GAP = 0.05  # metres between footprints: room for a finger
_VISIBLE = 0.6  # of what is asked for
EYE, AIM, FOVY = (0.0, -0.56, 0.52), (0.0, -0.01, 0.03), 0.74


def grasp_scene(seed: int, scene: str = SHAPES) -> Scene:
    """A table with 4 to 6 objects, at least two of them graspable and at most one bulky; a function of its seed.

    Args:
        scene: shapes, or kitchen: things of the furniture catalogue that all can be grasped.

    Raises:
        InputError: the catalogue is asked for and is not installed.
    """
    rng = np.random.default_rng([seed, 0x66A5])
    for _ in range(200):  # until everything has found a place
        count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
        world = (_kitchen if scene == KITCHEN else _shapes)(rng, seed, count)
        items = _place(rng, world)
        if items is not None:
            return Scene(
                world=with_gantry(world),
                items=items,
                clutter=(),
                lights=_lights(rng),
                ambient=float(rng.uniform(0.2, 0.35)),
                camera=CameraTrack((0.0,), (EYE,), (AIM,), (0.0,), FOVY),
                physics=True,
                shadows=bool(rng.random() < 0.5),
            )
    raise RuntimeError(f"seed {seed}: no room for the objects on the table")


def _shapes(rng: np.random.Generator, seed: int, count: int) -> World:
    shapes = [str(s) for s in rng.choice(GRASPABLE, count)]
    if rng.random() < 0.6:
        shapes[-1] = str(rng.choice(_BULKY))
    number = [seed, int(rng.integers(1 << 30)), 0x66A5]
    return sample_world(number, tuple(shapes), clutter=0, scales=(0.8, 1.05))


def _kitchen(rng: np.random.Generator, seed: int, count: int) -> World:
    models = differing(rng, count, handy())
    number = [seed, int(rng.integers(1 << 30)), 0x66A5]
    return sample_world(number, (), clutter=0, extra=models)


def _place(rng: np.random.Generator, world: World) -> tuple[Item, ...] | None:
    colours = rng.choice(list(COLOURS), int(rng.integers(3, 7)), replace=False)
    placed: list[tuple[float, float, float]] = []
    items = []
    for slot, model in enumerate(world.stock):
        for _ in range(60):
            x, y = rng.uniform(-REACH[0], REACH[0]), rng.uniform(-REACH[1], REACH[1])
            if all(np.hypot(x - a, y - b) > model.radius + r + GAP for a, b, r in placed):
                break
        else:
            return None
        placed.append((x, y, model.radius))
        colour = str(rng.choice(colours))
        red, green, blue = (float(v) for v in sample_colour(rng, colour) / 255.0)
        if model.colour is not None:
            colour, red, green, blue = model.colour, 1.0, 1.0, 1.0
        yaw = float(rng.uniform(0, 2 * np.pi))
        items.append(Item(slot, colour, (red, green, blue), (float(x), float(y), 0.0), turn_z(yaw)))
    return tuple(items)


def _lights(rng: np.random.Generator) -> tuple[Light, ...]:
    strength = float(rng.uniform(0.45, 0.65))
    first = (float(rng.uniform(-0.7, 0.7)), float(rng.uniform(-0.9, -0.2)), 1.8)
    return (
        Light(first, (0.0, 0.0, 0.0), (strength, strength, strength)),
        Light((0.8, 0.7, 1.5), (0.0, 0.0, 0.0), (0.18, 0.18, 0.19)),
    )


def grasp_episode(
    seed: int,
    kinds: Sequence[str] = ("attribute",),
    width: int = 320,
    height: int = 240,
    *,
    scene: str = SHAPES,
) -> tuple[GantrySimulator, Expression]:
    """A settled table and a sentence about one of its objects; a function of the seed.

    Args:
        kinds: of sentences about shapes; things of a kitchen are named.
        scene: shapes or kitchen.

    Raises:
        InputError: the catalogue is asked for and is not installed.
        ValueError: no sentence of these kinds can be said (`kinds` holds none that is known).
    """
    for attempt in range(50):
        simulator = GantrySimulator(grasp_scene(seed + attempt * 1_000_003, scene), width, height)
        simulator.step(SETTLE)
        facts = simulator.render().facts
        sentence = by_name(facts, seed) if scene == KITCHEN else command(facts, seed, kinds)
        if sentence is not None:
            return simulator, sentence
        simulator.close()
    raise ValueError(f"kinds = {tuple(kinds)}: expected some of {KINDS[:-2]}")


def command(
    facts: Sequence[ObjectFact], seed: int, kinds: Sequence[str] = ("attribute",)
) -> Expression | None:
    """A sentence that means one graspable object of the picture and no other; None if there is none.

    Args:
        kinds: of `expressions.KINDS`, without `none`.
    """
    rng = np.random.default_rng([seed, 0xC0DE])
    found = [
        sentence
        for sentence in describe(facts, rng, limit=100, motion=False, min_visible=_VISIBLE)
        if sentence.kind in kinds and sentence.shape in GRASPABLE
    ]
    return found[int(rng.integers(len(found)))] if found else None


def by_name(facts: Sequence[ObjectFact], seed: int) -> Expression | None:
    """A taught name of one object that is seen well, no two of the picture being called the same; None without one.

    Its kind is whether training saw the object.
    """
    rng = np.random.default_rng([seed, 0xC0DE])
    found = [fact for fact in facts if fact.visible >= _VISIBLE]
    if not found:
        return None
    fact = found[int(rng.integers(len(found)))]
    name = str(rng.choice(taught(fact.called)))
    kind = "unseen object" if fact.held_out else "seen object"
    return Expression(f"the {name}", kind, fact.index, fact.colour, fact.shape)
