# SPDX-License-Identifier: Apache-2.0
"""Questions and captions about scenes whose facts are known are answerable and right."""

from __future__ import annotations

import numpy as np

from sa2va_sim.facts import ObjectFact
from sa2va_sim.flat import flat_scene
from sa2va_training.scene_words import captions, questions, region_questions


def fact(index: int, colour: str, shape: str, x: float, visible: float = 1.0) -> ObjectFact:
    box = (x, 0.4, x + 0.1, 0.5)
    return ObjectFact(index, colour, shape, 0.1, box, visible, 0.01 * visible)


SCENE = [fact(0, "red", "mug", 0.1), fact(1, "blue", "box", 0.4), fact(2, "red", "box", 0.8)]


def asked(facts: list[ObjectFact]) -> dict[str, object]:
    found: dict[str, object] = {}
    for seed in range(20):
        for entry in questions(facts, np.random.default_rng(seed), 4):
            assert found.setdefault(entry["question"], entry["answer"]) == entry["answer"]
    return found


def test_questions_have_one_right_answer() -> None:
    found = asked(SCENE)
    assert found["What colour is the mug?"] == "red"
    assert "What colour is the box?" not in found  # there are two
    assert found["How many boxes are there?"] == ["two", "2"]
    assert found["How many objects are there?"] == ["three", "3"]
    assert found["How many red objects are there?"] == ["two", "2"]
    assert found["Which object is on the far left?"] == ["the red mug", "red mug"]
    assert found["Which object is on the far right?"] == ["the red box", "red box"]
    assert ["zero", "0"] in found.values()


def test_nothing_doubtful_is_asked() -> None:
    hidden = [*SCENE, fact(3, "green", "can", 0.6, visible=0.3)]
    assert set(asked(hidden)) == {"What colour is the mug?"}
    close = [fact(0, "red", "mug", 0.40), fact(1, "blue", "box", 0.45)]
    assert not any(question.startswith("Which") for question in asked(close))
    assert (
        captions([fact(0, "red", "mug", 0.1), fact(1, "red", "mug", 0.5)], np.random.default_rng(0))
        == []
    )


def test_captions_name_objects_from_left_to_right() -> None:
    [caption] = captions(SCENE, np.random.default_rng(0))
    assert caption == {
        "text": "<p>A red mug</p>, <p>a blue box</p> and <p>a red box</p> on a table.",
        "objects": [["1"], ["2"], ["3"]],
    }
    [orange] = captions([fact(4, "orange", "can", 0.2)], np.random.default_rng(0))
    assert orange == {"text": "<p>An orange can</p> on a table.", "objects": [["5"]]}


def test_regions_are_called_what_they_are() -> None:
    [entry] = region_questions(SCENE[:1], np.random.default_rng(0))
    assert entry["regions"] == ["1"]
    assert entry["answer"] == ["a red mug", "red mug"]


def test_painted_scenes_get_all_kinds() -> None:
    kinds = set()
    for seed in range(15):
        scene = flat_scene(np.random.default_rng(seed), 64)
        kinds |= {entry["kind"] for entry in questions(scene.facts, np.random.default_rng(seed))}
    assert kinds == {"colour", "count", "which"}
