# SPDX-License-Identifier: Apache-2.0
"""Sentences that mean all of a kind: "every red mug", "all the mugs"; one, several or none of them are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from sa2va_sim.words.expressions import (
    ANY_NOUN,
    Expression,
    NounPhrase,
    function_words,
    noun_phrases,
)
from sa2va_sim.words.facts import ObjectFact, is_referable, seen

KIND = "all"
MIN_VISIBLE, MIN_AREA = 0.3, 0.0015
_EVERY = ("every {one}", "each {one}")
_ALL = ("all {many}", "all the {many}", "all of the {many}")
_BY_ES = ("ch", "sh", "x", "s")
_ALONE = 0.3  # of the kinds with one member are written


def plural(words: str) -> str:
    """What several of a thing are called: "red boxes" for "red box"; the last word changes."""
    if words.endswith("y") and words[-2:-1] not in "aeiou":
        return f"{words[:-1]}ies"
    return f"{words}es" if words.endswith(_BY_ES) else f"{words}s"


def describe_all(
    facts: Sequence[ObjectFact],
    rng: np.random.Generator,
    limit: int = 12,
    *,
    absent: Sequence[Expression] = (),
    min_visible: float = MIN_VISIBLE,
    min_area: float = MIN_AREA,
) -> list[Expression]:
    """Sentences about kinds of things, in random order; those of kinds with one member are fewer.

    A kind of which a member can hardly be seen is left out: nobody knows whether it is meant.

    Args:
        absent: expressions that nothing fits, from `describe`; those of a kind are said of all of it as well.
        min_visible, min_area: what every member must show of itself (see `ObjectFact`).
    """
    present = seen(facts)
    found: list[Expression] = []
    for noun in noun_phrases(present):
        members = noun.members(present)
        clear = all(is_referable(fact, min_visible, min_area) for fact in members)
        if members and clear and (len(members) > 1 or rng.random() < _ALONE):
            found.append(_meaning(noun, members, rng))
    found += [replace(e, text=_said(head, rng), kind="none") for e, head in _kinds(absent)]
    return [found[i] for i in rng.permutation(len(found))[:limit]]


def _meaning(
    noun: NounPhrase, members: Sequence[ObjectFact], rng: np.random.Generator
) -> Expression:
    first, *others = (fact.index for fact in members)
    return Expression(
        _said(noun.say(rng), rng), KIND, first, noun.colour, noun.shape, tuple(others)
    )


def _said(one: str, rng: np.random.Generator) -> str:
    templates = _EVERY if rng.random() < 0.6 else _ALL
    template = templates[int(rng.integers(len(templates)))]
    return template.format(one=one, many=plural(one))


def _kinds(absent: Sequence[Expression]) -> Iterator[tuple[Expression, str]]:
    """Those that are a plain noun, with it."""
    relative = function_words() - set(ANY_NOUN)
    for expression in absent:
        head = expression.text.removeprefix("the ")
        if expression.target is None and relative.isdisjoint(head.split()):
            yield expression, head
