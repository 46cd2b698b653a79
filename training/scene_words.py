# SPDX-License-Identifier: Apache-2.0
"""What else can be said about a generated scene whose facts are known: short questions, plain and grounded captions.

In the form of docs/datasets.md. Expressions are in `sa2va_sim.expressions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from sa2va_sim.facts import ObjectFact
from sa2va_sim.vocabulary import COLOURS, SHAPES

CLEAR_VISIBLE, CLEAR_AREA = 0.5, 0.004  # an object that nobody would overlook …
HIDDEN_AREA = 0.0008  # … and one that everybody would; between the two nothing is asked
_MARGIN = 0.1  # of the image, between the one that is meant and the next
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def questions(
    facts: Sequence[ObjectFact], rng: np.random.Generator, limit: int = 4
) -> list[dict[str, Any]]:
    """Questions with one right short answer, in random order: kinds colour, count and which.

    colour: "What colour is the mug?" → "red"; count: "How many balls are there?" → "two"; which: "Which object is on
    the far left?" → "the red mug".

    Args:
        facts: of all objects of the picture.
        limit: at most so many.
    """
    clear, doubtful = _seen(facts)
    if doubtful:  # whatever is half hidden may or may not count
        return _shuffled(_colours(clear, doubtful), rng)[:limit]
    by_kind = [_colours(clear, []), _counts(clear, rng), _which(clear)]
    mixed: list[dict[str, Any]] = []
    for found in by_kind:
        mixed += _shuffled(found, rng)[: max(1, limit // 2)]
    return _shuffled(mixed, rng)[:limit]


def captions(facts: Sequence[ObjectFact], rng: np.random.Generator) -> list[dict[str, Any]]:
    """One grounded caption that names up to three objects from left to right, and the same without masks.

    Nothing where two of the objects would have the same name.
    """
    clear, _ = _seen(facts)
    names = Counter(_name(fact) for fact in facts if fact.area > 0)
    named = [fact for fact in clear if names[_name(fact)] == 1]
    if not named:
        return []
    chosen = [named[int(i)] for i in rng.permutation(len(named))[:3]]
    chosen.sort(key=lambda fact: fact.centre[0])
    phrases = [f"<p>{_with_article(_name(fact))}</p>" for fact in chosen]
    text = f"{_listed(phrases)} on a table."
    text = text.replace("<p>a", "<p>A", 1)  # the article
    objects = [[str(fact.index + 1)] for fact in chosen]
    return [{"text": text, "objects": objects}]


def region_questions(
    facts: Sequence[ObjectFact], rng: np.random.Generator, limit: int = 1
) -> list[dict[str, Any]]:
    """ "What is region1?" → "a red mug", for some of the objects."""
    clear, _ = _seen(facts)
    return [
        {
            "question": "What is region1?",
            "answer": [_with_article(_name(clear[int(i)])), _name(clear[int(i)])],
            "kind": "region",
            "regions": [str(clear[int(i)].index + 1)],
        }
        for i in rng.permutation(len(clear))[:limit]
    ]


def _seen(facts: Sequence[ObjectFact]) -> tuple[list[ObjectFact], list[ObjectFact]]:
    """Objects that are plainly there, and those that are there but hardly."""
    clear = [f for f in facts if f.visible >= CLEAR_VISIBLE and f.area >= CLEAR_AREA]
    doubtful = [f for f in facts if f not in clear and f.area > HIDDEN_AREA]
    return clear, doubtful


def _name(fact: ObjectFact) -> str:
    return f"{fact.colour} {fact.shape}"


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _colours(clear: Sequence[ObjectFact], doubtful: Sequence[ObjectFact]) -> list[dict[str, Any]]:
    shapes = Counter(fact.shape for fact in (*clear, *doubtful))
    return [
        {
            "question": f"What colour is the {fact.shape}?",
            "answer": fact.colour,
            "kind": "colour",
        }
        for fact in clear
        if shapes[fact.shape] == 1
    ]


def _counts(clear: Sequence[ObjectFact], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Shapes and colours that are there, one that is not, and everything."""
    shapes = Counter(fact.shape for fact in clear)
    colours = Counter(fact.colour for fact in clear)
    absent = [shape for shape in SHAPES if shape not in shapes]
    asked: list[tuple[str, int]] = [(_plural(shape), count) for shape, count in shapes.items()]
    asked += [(f"{colour} objects", colours[colour]) for colour in COLOURS if colour in colours]
    if absent:
        asked.append((_plural(absent[int(rng.integers(len(absent)))]), 0))
    asked.append(("objects", len(clear)))
    return [
        {
            "question": f"How many {what} are there?",
            "answer": [_NUMBERS[count], str(count)],
            "kind": "count",
        }
        for what, count in asked
        if count < len(_NUMBERS)
    ]


def _which(clear: Sequence[ObjectFact]) -> list[dict[str, Any]]:
    """Which object is at one end of the picture."""
    if len(clear) < 2:
        return []
    ordered = sorted(clear, key=lambda fact: fact.centre[0])
    ends = {"left": ordered[:2], "right": ordered[:-3:-1]}
    return [
        {
            "question": f"Which object is on the far {side}?",
            "answer": [f"the {_name(end[0])}", _name(end[0])],
            "kind": "which",
        }
        for side, end in ends.items()
        if abs(end[0].centre[0] - end[1].centre[0]) > _MARGIN
    ]


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("x") else f"{shape}s"


def _listed(phrases: Sequence[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _shuffled(found: Sequence[dict[str, Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
    return [found[int(i)] for i in rng.permutation(len(found))]
