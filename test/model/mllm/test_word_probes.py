# SPDX-License-Identifier: Apache-2.0
"""A mask that does not look like what was asked for is no answer, in whatever way it was asked."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_model import LiveConfig, LiveTracker
from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.errors import InputError
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.mllm.word_probes import FILE, Likeness, WordProbes
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracks import EventKind, Reason

WORDS = Vocabulary(
    frozenset({"bottle", "wine bottle", "glass", "knife"}),
    frozenset({"green"}),
    frozenset({"find", "left", "one"}),
)
ROWS = {"bottle": (0, 1), "wine bottle": (0,), "glass": (2,), "knife": (3,)}


def probes(hidden: int = 4, floor: float = 0.0, bias: float = 0.0) -> WordProbes:
    weight = torch.randn(5, hidden, generator=torch.Generator().manual_seed(3))
    return WordProbes(ROWS, {"green": 4}, weight, torch.full((5,), bias), floor, floor)


def probed_model(floor: float) -> Sa2VA:
    model = nano_model()
    model.vocabulary, model.word_probes = WORDS, probes(model.mllm.hidden_size, floor)
    return model


@pytest.mark.parametrize(
    ("said", "noun"),
    [
        ("the bottle", "bottle"),
        ("Find the green wine bottle", "wine bottle"),
        ("the wine bottles", "wine bottle"),
        ("the glass left of the knife", "glass"),
        ("the left glass", "glass"),
        ("the green one left of the knife", "green"),
        ("find it", None),
    ],
)
def test_the_longest_noun_of_the_thing_itself_is_meant_or_its_colour(
    said: str, noun: str | None
) -> None:
    found = probes().likeness(torch.zeros(4, 4), WORDS.thing(said))
    assert (found.word if found else None) == noun


def test_a_map_is_the_noun_and_its_colour_in_log_odds() -> None:
    tokens, held = torch.randn(9, 4), probes(bias=0.5)
    found = held.likeness(tokens, ("green", "bottle"))
    assert found is not None
    rows = tokens @ held.weight.T + 0.5
    expected = torch.stack([rows[:, 0] + rows[:, 4], rows[:, 1] + rows[:, 4]]).unflatten(1, (3, 3))
    torch.testing.assert_close(found.cells, expected)


def test_a_mask_is_the_mean_of_its_cells_for_the_kind_that_fits_best() -> None:
    left = torch.tensor([[4.0, 0.0], [2.0, 0.0]])
    likeness = Likeness("bottle", torch.stack([left, -left]), floor=2.0)
    mask = np.zeros((48, 64), bool)
    mask[:, :32] = True
    assert likeness.of(mask) == 3.0
    assert likeness.fits(mask)
    assert not likeness.fits(~mask)
    mask[24:, 16:] = (
        False  # three quarters of the upper left cell's weight, one half of the lower's
    )
    assert likeness.of(mask) == pytest.approx((4 + 0.5 * 2) / 1.5)
    speck = np.zeros((48, 64), bool)
    speck[0, 60] = True
    assert math.isnan(likeness.of(speck))
    assert likeness.fits(speck), "too small to tell"


def test_a_mask_that_shows_another_kind_rather_is_refused() -> None:
    own = torch.tensor([[[4.0, 4.0], [4.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    other = torch.tensor([[[0.0, 9.0], [0.0, 9.0]]])
    likeness = Likeness("bottle", own, floor=2.0, rivals=other, odds=-3.0)
    left = np.zeros((48, 64), bool)
    left[:, :32] = True
    assert likeness.fits(left)
    assert likeness.against_rivals(left) == pytest.approx(
        -math.log1p(1 / (math.exp(4) + 1)), abs=1e-5
    )
    assert not likeness.fits(~left)
    asked = np.logaddexp(4, 0)
    assert likeness.against_rivals(~left) == pytest.approx(asked - np.logaddexp(asked, 9), abs=1e-5)
    assert replace(likeness, rivals=None).fits(~left)
    speck = np.zeros((48, 64), bool)
    speck[0, 60] = True
    assert math.isnan(likeness.against_rivals(speck))
    assert likeness.fits(speck), "too small to tell"


def test_rivals_are_the_other_kinds_that_the_image_shows_most_of() -> None:
    tokens = torch.randn(9, 4)
    held = replace(probes(), odds=-2.0)
    rows = (tokens @ held.weight.T).T.unflatten(1, (3, 3))
    found = held.likeness(tokens, ("wine", "bottle"))
    assert found is not None
    assert found.rivals is not None
    assert found.odds == -2.0
    others = torch.stack([rows[kind] for kind in (1, 2, 3)])
    order = others.amax((1, 2)).argsort(descending=True)
    torch.testing.assert_close(found.rivals, others[order])
    coloured = held.likeness(tokens, ("green", "one"))
    assert coloured is not None
    assert coloured.rivals is None, "any kind may be green"


@pytest.mark.parametrize("floor", [-math.inf, math.inf])
def test_every_way_of_asking_holds_the_answer_against_its_words(floor: float) -> None:
    model, [frame] = probed_model(floor), noisy_clip(1)
    unasked = nano_model()
    assert unasked.segment(frame.rgb, "the knife").found, "a model without probes finds it"
    kept = floor < 0
    one = model.segment(frame.rgb, "the knife")
    assert one.found == kept
    asked = ["the knife", "find the green one", "find it"]
    many = model.segment_many(frame.rgb, asked)
    assert [answer.found for answer in many] == [kept, kept, True], "nothing to hold it against"
    clip = model.segment_video([frame.rgb, frame.rgb], "the knife")
    assert len(clip.targets) == clip.masks.shape[0] == kept
    if not kept:
        assert one.text == clip.text == "What comes nearest to 'knife' looks like something else."
    for words in ("the knife", "every knife"):
        live = LiveTracker(model, LiveConfig(verify_period=0))
        live.track(words)
        [event] = [e for e in live.process(frame).events if e.kind != EventKind.STARTED]
        if kept:
            assert event.kind == EventKind.FOUND
        else:
            assert (event.kind, event.reason) == (EventKind.NOT_FOUND, Reason.ABSENT)
            assert "looks like something else" in event.detail
        live.close()


def test_several_who_ask_together_get_the_same_maps() -> None:
    model, frames = probed_model(1.0), noisy_clip(2)
    alone = [model.ground([f.rgb], "the glass").likeness for f in frames]
    sessions = [model.new_session() for _ in frames]
    asked = [(s, [f.rgb], ["the glass"]) for s, f in zip(sessions, frames, strict=True)]
    for one, [reply] in zip(alone, model.ground_together(asked), strict=True):
        assert one is not None
        assert reply.likeness is not None
        torch.testing.assert_close(reply.likeness.cells, one.cells, rtol=1e-4, atol=1e-5)


def test_they_come_back_from_a_folder(tmp_path: Path) -> None:
    model = probed_model(1.25)
    save_model(model, tmp_path)
    held = load_model(tmp_path, device="cpu").word_probes
    assert held is not None
    assert (held.nouns, held.colours) == (ROWS, {"green": 4})
    assert (held.floor, held.colour_floor) == (1.25, 1.25)
    assert held.odds == -math.inf
    torch.testing.assert_close(held.weight, probes(model.mllm.hidden_size).weight.half().float())
    replace(held, odds=-4.5).write(tmp_path)
    again = WordProbes.read(tmp_path, model.mllm.hidden_size)
    assert again is not None
    assert again.odds == -4.5
    replace(held, floor=-math.inf).write(tmp_path)
    never = WordProbes.read(tmp_path, model.mllm.hidden_size)
    assert never is not None
    assert (never.floor, never.odds) == (-math.inf, -math.inf), (
        "a floor that refuses nothing is kept"
    )


@pytest.mark.parametrize("fault", ["cut", "hidden", "row", "words"])
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, fault: str) -> None:
    held = probes()
    if fault == "row":
        held = replace(held, colours={"green": 5})
    file = held.write(tmp_path)
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    if fault == "words":
        file.write_bytes(file.read_bytes().replace(b"nouns", b"verbs"))
    with pytest.raises(InputError, match=FILE):
        WordProbes.read(tmp_path, 5 if fault == "hidden" else 4)
