# SPDX-License-Identifier: Apache-2.0
"""What a model that was taught few words makes of a sentence: never a guess at a word it does not know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.testing import nano_model

WORDS = Vocabulary(
    frozenset({"mug", "teddy bear", "box", "bowl of fruit"}),
    frozenset({"red", "blue"}),
    frozenset({"object", "leftmost", "find", "where", "left"}),
    (("What is on the table?", "What is in this image?"),),
    frozenset({"kettle", "tea pot", "mug tree"}),
)


@pytest.mark.parametrize(
    ("said", "text", "unknown"),
    [
        ("the red mug", "the red mug", ()),
        ("THE RED MUG", "the red mug", ()),
        ("Mug", "mug", ()),
        ("Red Mug", "red mug", ()),
        ("Where is the Teddy Bear?", "Where is the teddy bear?", ()),
        ("the boxes", "the boxes", ()),
        ("the red teddy bears left of the box", "the red teddy bears left of the box", ()),
        ("the teddy", "", ("teddy",)),
        ("the bear left of the mug", "", ("bear",)),
        ("the red bear", "the red object", ("bear",)),
        ("the teddy red bear", "the red object", ("teddy", "bear")),
        ("the mug left of the bear", "the mug", ("bear",)),
        ("the shiny teddy bear", "the teddy bear", ("shiny",)),
        ("the teddy bear box", "the teddy bear box", ()),
        ("the fruit", "", ("fruit",)),
        ("the bowl of fruit", "the bowl of fruit", ()),
        ("the shiny bowl of fruit", "the bowl of fruit", ("shiny",)),
        ("the xylophone", "", ("xylophone",)),
        ("the leftmost xylophone", "", ("xylophone",)),
        ("the xylophone left of the mug", "", ("xylophone",)),
        ("Find the red sneakers", "find the red object", ("sneakers",)),
        ("the shiny mug", "the mug", ("shiny",)),
        ("the mug left of the trombone", "the mug", ("trombone",)),
        ("das rote Auto", "", ("das", "rote", "auto")),
        ("the object left of the kettle", "the object left of the kettle", ()),
        ("the red mug left of the kettles", "the red mug left of the kettles", ()),
        ("the tea pot", "", ("tea", "pot")),
        ("the object left of the tea", "", ("tea",)),
        ("the mug tree", "", ("mug", "tree")),
        ("the red mug tree", "the red object", ("mug", "tree")),
        ("the mug left of the mug tree", "the mug left of the mug tree", ()),
        ("the leftmost kettle", "", ("kettle",)),
        ("the left kettle", "", ("kettle",)),
        ("the kettle left of the mug", "", ("kettle",)),
        ("the red kettle left of the tea pot", "the red object left of the tea pot", ("kettle",)),
        ("the object left of the trombone", "", ("trombone",)),
        ("the red object left of the trombone", "the red object", ("trombone",)),
    ],
)
def test_only_what_is_known_is_asked_for(said: str, text: str, unknown: tuple[str, ...]) -> None:
    reading = WORDS.read_sentence(said)
    assert (reading.text, reading.unknown) == (text, unknown)
    for word in unknown:
        assert repr(word) in reading.note


@pytest.mark.parametrize(
    ("said", "thing"),
    [
        ("the red mug left of the box", "the red mug"),
        ("the teddy bear behind the mug", "the teddy bear"),
        ("the bowl of fruit on the box", "the bowl of fruit"),
        ("the red one left of the mug", "the red one"),
    ],
)
def test_the_words_of_the_thing_itself_end_where_its_place_begins(said: str, thing: str) -> None:
    assert " ".join(WORDS.thing(said)) == thing


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ("what is on the table?", "What is in this image?"),
        ("What's on the table", "What is in this image?"),
        ("What is on the tables?", "What is on the tables?"),
        ("Which of them is red?", "Which of them is red?"),
    ],
)
def test_a_question_is_read_as_it_was_taught(asked: str, read: str) -> None:
    assert WORDS.read_question(asked) == read


def test_the_model_that_ships_says_what_is_on_the_table() -> None:
    """The question of the README's table of commands; a red mug and a blue ball are among five things."""
    from sa2va_model import load_model
    from sa2va_sim.scripted import demo_scene
    from sa2va_sim.simulator import Simulator

    simulator = Simulator(demo_scene(0).scene, 320, 240)
    picture = simulator.render().rgb
    simulator.close()
    answer = load_model().ask([picture], "what is on the table?").text
    assert "red mug" in answer, answer
    assert "blue ball" in answer, answer


def test_a_vocabulary_survives_its_file(tmp_path: Path) -> None:
    assert Vocabulary.read(tmp_path) is None
    file = WORDS.write(tmp_path)
    assert Vocabulary.read(tmp_path) == WORDS
    replace(WORDS, plurals=True).write(tmp_path)
    assert Vocabulary.read(tmp_path) == replace(WORDS, plurals=True)
    file.write_text("[]")
    with pytest.raises(InputError, match=r"vocabulary\.json: holds a list; expected a JSON object"):
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
