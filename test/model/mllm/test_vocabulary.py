# SPDX-License-Identifier: Apache-2.0
"""What a model that was taught few words makes of a sentence: never a guess at a word it does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.testing import nano_model

WORDS = Vocabulary(
    frozenset({"mug", "teddy bear", "box"}),
    frozenset({"red", "blue"}),
    frozenset({"object", "leftmost", "find", "where", "left"}),
)


@pytest.mark.parametrize(
    ("said", "text", "unknown"),
    [
        ("the red mug", "the red mug", ()),
        ("THE RED MUG", "the red mug", ()),
        ("Where is the Teddy Bear?", "Where is the teddy bear?", ()),
        ("the boxes", "the boxes", ()),
        ("the xylophone", "", ("xylophone",)),
        ("the leftmost xylophone", "", ("xylophone",)),
        ("the xylophone left of the mug", "", ("xylophone",)),
        ("Find the red sneakers", "find the red object", ("sneakers",)),
        ("the shiny mug", "the mug", ("shiny",)),
        ("the mug left of the trombone", "the mug", ("trombone",)),
        ("das rote Auto", "", ("das", "rote", "auto")),
    ],
)
def test_only_what_is_known_is_asked_for(said: str, text: str, unknown: tuple[str, ...]) -> None:
    reading = WORDS.read_sentence(said)
    assert (reading.text, reading.unknown) == (text, unknown)
    for word in unknown:
        assert repr(word) in reading.note


def test_a_vocabulary_survives_its_file(tmp_path: Path) -> None:
    assert Vocabulary.read(tmp_path) is None
    file = WORDS.write(tmp_path)
    assert Vocabulary.read(tmp_path) == WORDS
    file.write_text("[]")
    with pytest.raises(InputError, match=r"vocabulary\.json: expected an object"):
        Vocabulary.read(tmp_path)


def test_an_unknown_thing_has_no_mask_and_its_name_is_said() -> None:
    model, image = nano_model(), np.zeros((32, 48, 3), np.uint8)
    plain = model.segment(image, "the mug")
    model.vocabulary = WORDS
    unknown, known = model.segment_many(image, ["the xylophone", "the mug"])
    assert not unknown.found
    assert unknown.text == "I do not know the word 'xylophone'."
    assert unknown.unknown == ("xylophone",)
    assert unknown.masks.shape == (0, 32, 48)
    assert known.text == plain.text
    assert np.array_equal(known.masks, plain.masks)
    part = model.ground([image], "the shiny mug")
    assert part.note == "I do not know the word 'shiny'; I looked for 'the mug'."
    assert part.said.endswith(part.note)
