# SPDX-License-Identifier: Apache-2.0
"""Sentences about all of a kind mean what they say; crowds have kinds of several things."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from sa2va_sim.crowd import crowd_scene, render_crowd
from sa2va_sim.painted.scene import flat_scene
from sa2va_sim.words.expressions import describe
from sa2va_sim.words.facts import ObjectFact, is_referable
from sa2va_sim.words.plurals import MIN_AREA, MIN_VISIBLE, describe_all, plural
from sa2va_sim.words.vocabulary import ABSENT_WORDS, COLOURS, SHAPES
from sa2va_training.data.readers.simple import open_simple
from sa2va_training.data.synth import write_scenes


def _read(text: str, facts: tuple[ObjectFact, ...]) -> set[int]:
    """What a sentence means, by the plain meaning of its words."""
    said = re.fullmatch(r"(?:every|each|all(?: of)?(?: the)?) (.+)", text)
    assert said, text
    found = [fact for fact in facts if fact.area > 0]
    for word in said[1].split():
        shape = next((s for s in (*SHAPES, *ABSENT_WORDS) if word in (s, plural(s))), None)
        if word in COLOURS:
            found = [fact for fact in found if fact.colour == word]
        elif shape is not None:
            found = [fact for fact in found if fact.shape == shape]
        elif not any(s for s in ABSENT_WORDS if word in s.split()):
            assert word.removesuffix("s") in ("object", "thing", "one"), f"{word!r} in {text!r}"
    return {fact.index for fact in found}


def test_they_mean_what_they_say() -> None:
    sizes: dict[int, int] = {}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        facts = flat_scene(rng, 96).facts
        nothing = [e for e in describe(facts, rng, 20, motion=False) if e.target is None]
        for said in describe_all(facts, rng, absent=nothing):
            meant = set() if said.target is None else {said.target, *said.others}
            if said.target is not None:
                assert _read(said.text, facts) == meant, said
                assert all(is_referable(facts[i], MIN_VISIBLE, MIN_AREA) for i in meant)
            assert said.kind == ("all" if meant else "none")
            sizes[len(meant)] = sizes.get(len(meant), 0) + 1
    assert min(sizes[count] for count in range(3)) > 20
    assert sizes[3] > 5


def test_what_is_absent_is_a_kind() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        facts = flat_scene(rng, 96).facts
        nothing = [e for e in describe(facts, rng, 20, motion=False) if e.target is None]
        for said in describe_all(facts, rng, absent=nothing):
            if said.target is None:
                assert not re.search(
                    r"\b(left|right|near|far|larg|big|small|top|low|bottom)", said.text
                )


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("red mug", "red mugs"),
        ("box", "boxes"),
        ("dish", "dishes"),
        ("berry", "berries"),
        ("toy", "toys"),
        ("glass", "glasses"),
    ],
)
def test_plural(one: str, many: str) -> None:
    assert plural(one) == many


def test_a_crowd_has_two_colours_and_several_of_a_kind() -> None:
    several = 0
    for seed in range(48, 60):
        colours = {item.colour for item in crowd_scene(seed).items}
        assert len(colours) <= 3  # the third: what has a colour of its own
        image = render_crowd(seed, 128)
        kinds = [(fact.colour, fact.shape) for fact in image.facts]
        several += len(kinds) - len(set(kinds)) >= 2
        np.testing.assert_array_equal(image.rgb, render_crowd(seed, 128).rgb)
    assert several >= 6


def test_a_folder_of_crowds_has_masks_of_several_things(tmp_path: Path) -> None:
    write_scenes(tmp_path, "crowd", range(48, 52), size=96)
    several = 0
    for sample in open_simple(tmp_path, "crowd"):
        for said in sample.referrings:
            if said.kind == "all" and said.target is not None:
                meant = said.target.read(*sample.size())[0]
                parts = [thing.read(*sample.size())[0] for thing in sample.objects]
                inside = [part for part in parts if (part & meant).any()]
                np.testing.assert_array_equal(np.any(inside, axis=0), meant)
                several += len(inside) > 1
    assert several > 4
