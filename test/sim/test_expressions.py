# SPDX-License-Identifier: Apache-2.0
"""Sentences mean what they say: a reader written independently of the writer must find the same object."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sa2va_sim.painted.scene import flat_scene
from sa2va_sim.words.expressions import KINDS, describe
from sa2va_sim.words.facts import ObjectFact
from sa2va_sim.words.vocabulary import ABSENT_WORDS, COLOURS, SHAPES, words


def _noun(text: str, facts: list[ObjectFact]) -> list[ObjectFact]:
    """The objects a bare noun phrase may mean."""
    found = facts
    for word in text.split():
        if word in COLOURS:
            found = [f for f in found if f.colour == word]
        elif word in SHAPES:
            found = [f for f in found if f.shape == word]
        elif word in ABSENT_WORDS:
            found = []
        else:
            assert word in ("object", "thing", "one"), f"{word!r} in {text!r}"
    return found


def _centre(fact: ObjectFact) -> tuple[float, float]:
    return (fact.box[0] + fact.box[2]) / 2, (fact.box[1] + fact.box[3]) / 2


_SUPERLATIVES = (  # pattern, value of which the largest wins
    (r"leftmost (?P<n>.+)|(?P<m>.+) on the far left", lambda f: -_centre(f)[0]),
    (r"rightmost (?P<n>.+)|(?P<m>.+) on the far right", lambda f: _centre(f)[0]),
    (r"topmost (?P<n>.+)|(?P<m>.+) at the top", lambda f: -_centre(f)[1]),
    (r"lowest (?P<n>.+)|(?P<m>.+) at the bottom", lambda f: _centre(f)[1]),
    (r"nearest (?P<n>.+)|(?P<m>.+) closest to the camera", lambda f: -f.depth),
    (r"farthest (?P<n>.+)|(?P<m>.+) farthest from the camera", lambda f: f.depth),
    (r"(?:largest|biggest|larger|bigger) (?P<n>.+)", lambda f: f.size),
    (r"(?:smallest|smaller) (?P<n>.+)", lambda f: -f.size),
)
_RELATIONS = (
    (r"(?P<n>.+?) (?:to the )?left of the (?P<a>.+)", lambda f, a: _centre(f)[0] < _centre(a)[0]),
    (r"(?P<n>.+?) (?:to the )?right of the (?P<a>.+)", lambda f, a: _centre(f)[0] > _centre(a)[0]),
    (r"(?P<n>.+?) in front of the (?P<a>.+)", lambda f, a: f.depth < a.depth),
    (r"(?P<n>.+?) behind the (?P<a>.+)", lambda f, a: f.depth > a.depth),
)


def read(text: str, facts: list[ObjectFact]) -> list[int]:
    """Indices of the objects a sentence can mean, by the plain meaning of its words."""
    text = re.sub("^the ", "", text)
    motion = re.fullmatch(r"moving (?P<n>.+)|(?P<m>.+) that (?:moves|is moving)", text)
    if motion:
        group = _noun(motion["n"] or motion["m"], facts)
        return [f.index for f in group if f.moving]
    for pattern, holds in _RELATIONS:
        if match := re.fullmatch(pattern, text):
            anchors = _noun(match["a"], facts)
            assert len(anchors) == 1, f"the anchor of {text!r} is not unique"
            group = [f for f in _noun(match["n"], facts) if f is not anchors[0]]
            return [f.index for f in group if holds(f, anchors[0])]
    for pattern, value in _SUPERLATIVES:
        if match := re.fullmatch(pattern, text):
            names = match.groupdict()
            group = _noun(names["n"] or names["m"], facts)
            return [max(group, key=value).index] if group else []
    return [f.index for f in _noun(text, facts)]


@pytest.fixture(scope="module")
def written() -> list[tuple[list[ObjectFact], list]]:
    found = []
    for seed in range(150):
        facts = [f for f in flat_scene(np.random.default_rng(seed), 96).facts if f.area > 0]
        moving = [ObjectFact(**{**f.__dict__, "moving": f.index == facts[0].index}) for f in facts]
        found.append((moving, describe(moving, np.random.default_rng(seed), 25)))
    return found


def test_every_sentence_has_exactly_its_referent(written) -> None:
    for facts, expressions in written:
        for expression in expressions:
            wanted = [] if expression.target is None else [expression.target]
            assert read(expression.text, facts) == wanted, (expression, facts)


def test_all_kinds_are_written(written) -> None:
    kinds = [e.kind for _, expressions in written for e in expressions]
    assert {kind: kinds.count(kind) > 20 for kind in KINDS} == dict.fromkeys(KINDS, True)


def test_names_are_the_targets(written) -> None:
    for facts, expressions in written:
        by_index = {f.index: f for f in facts}
        for e in expressions:
            if e.target is None:
                assert e.colour is None
                assert e.shape is None
            else:
                assert (e.colour, e.shape) == (by_index[e.target].colour, by_index[e.target].shape)


def test_vocabulary_covers_all_sentences(written) -> None:
    known = set(words())
    assert {w for _, expressions in written for e in expressions for w in e.text.split()} <= known


def _fact(index: int, x: float, **changes) -> ObjectFact:
    values = {
        "index": index, "colour": "red", "shape": "mug", "size": 0.1, "box": (x, 0.4, x + 0.1, 0.5),
        "visible": 1.0, "area": 0.01, "depth": 1.0,
    }  # fmt: skip
    return ObjectFact(**{**values, **changes})


def test_close_calls_are_not_written() -> None:
    twins = [_fact(0, 0.40), _fact(1, 0.45)]
    assert [e for e in describe(twins, np.random.default_rng(0), 50) if e.target is not None] == []


def test_hardly_visible_objects_compete_but_are_not_meant() -> None:
    facts = [_fact(0, 0.1), _fact(1, 0.7, visible=0.05, area=0.0004)]
    for seed in range(20):
        for e in describe(facts, np.random.default_rng(seed), 50):
            assert e.target != 1
            assert e.text not in ("the mug", "the red mug", "the red one")


def test_motion_only_where_it_can_be_seen() -> None:
    facts = [_fact(0, 0.1, moving=True), _fact(1, 0.7)]
    assert any(e.kind == "motion" for e in describe(facts, np.random.default_rng(0), 50))
    still = describe(facts, np.random.default_rng(0), 50, motion=False)
    assert not any(e.kind == "motion" for e in still)


def test_same_seed_same_sentences() -> None:
    facts = flat_scene(np.random.default_rng(4), 96).facts
    first, second = (describe(facts, np.random.default_rng(1)) for _ in range(2))
    assert first == second


def test_empty_picture_has_only_absent_things() -> None:
    assert {e.kind for e in describe([], np.random.default_rng(0))} == {"none"}
