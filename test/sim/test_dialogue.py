# SPDX-License-Identifier: Apache-2.0
"""Dialogues say only what the facts say."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from sa2va_sim.painted.scene import flat_scene
from sa2va_sim.words.dialogue import KINDS, Dialogue, converse
from sa2va_sim.words.expressions import describe, is_referable, seen
from sa2va_sim.words.facts import LabelledImage, ObjectFact


def scenes(count: int = 40) -> Iterator[tuple[LabelledImage, list[Dialogue]]]:
    for seed in range(count):
        rng = np.random.default_rng(seed)
        image = flat_scene(rng, 128)
        yield image, converse(image.facts, rng, describe(image.facts, rng, motion=False))


def fact(index: int, colour: str, shape: str, x: float, visible: float = 1.0) -> ObjectFact:
    return ObjectFact(index, colour, shape, 0.1, (x, 0.4, x + 0.1, 0.5), visible, 0.01)


def test_every_kind_is_written() -> None:
    assert {d.kind for _, found in scenes() for d in found} == set(KINDS)


@pytest.mark.parametrize("kind", ["colour", "shape", "which", "region"])
def test_names_are_those_of_the_object(kind: str) -> None:
    checked = 0
    for image, found in scenes():
        by_index = {f.index: f for f in image.facts}
        for talk in found:
            if talk.kind == kind:
                [index] = talk.objects
                named = {by_index[index].colour, by_index[index].shape, "a", "an"}
                assert set(talk.answer.split()) <= named
                checked += 1
    assert checked > 20


def test_counts_are_true() -> None:
    facts = [fact(0, "red", "mug", 0.1), fact(1, "red", "box", 0.4), fact(2, "blue", "mug", 0.7)]
    counts = {
        d.question: d.answer for d in converse(facts, np.random.default_rng(0)) if d.kind == "count"
    }
    assert counts["How many objects are there?"] == "3"
    assert counts["How many mugs are there?"] == "2"
    assert counts["How many boxes are there?"] == "1"
    assert counts["How many red objects are there?"] == "2"


def test_half_hidden_object_makes_its_counts_and_names_doubtful() -> None:
    facts = [fact(0, "red", "mug", 0.1), fact(1, "blue", "mug", 0.4, visible=0.1)]
    talks = converse(facts, np.random.default_rng(0))
    questions = {d.question for d in talks}
    assert "How many mugs are there?" not in questions
    assert "What colour is the mug?" not in questions
    assert "How many red objects are there?" in questions


def test_grounded_caption_has_a_mask_for_each_object_from_left_to_right() -> None:
    facts = [fact(0, "red", "mug", 0.8), fact(1, "orange", "box", 0.1)]
    [grounded] = [d for d in converse(facts, np.random.default_rng(0)) if d.kind == "grounded"]
    assert grounded.objects == (1, 0)
    assert grounded.answer == "<p> an orange box </p> [SEG] and <p> a red mug </p> [SEG]."
    for image, found in scenes(15):
        clear = [f for f in seen(image.facts) if is_referable(f, 0.35, 0.0025)]
        for talk in found:
            if talk.kind == "grounded":
                assert len(re.findall(r"\[SEG\]", talk.answer)) == len(talk.objects) == len(clear)


def test_empty_table_is_silent_but_for_the_count() -> None:
    [only] = converse([], np.random.default_rng(0))
    assert (only.question, only.answer) == ("How many objects are there?", "0")
