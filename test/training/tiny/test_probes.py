# SPDX-License-Identifier: Apache-2.0
"""What is shipped beside the weights says what the head in training says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sa2va_training.tiny.data.scenes import COLOUR_NAMES, SHAPE_NAMES
from sa2va_training.tiny.nano import small_learner
from sa2va_training.tiny.shipping.probes import take_probes, word_probes


def test_probes_are_the_heads_log_odds_against_the_mean() -> None:
    learner = small_learner()
    held, hidden = word_probes(learner), learner.mllm.hidden_size
    object_ = torch.randn(hidden)
    colours, kinds = learner.word_aids.visual_object(object_).split(
        [len(COLOUR_NAMES), len(SHAPE_NAMES)]
    )
    kettle = kinds[SHAPE_NAMES.index("kettle")] - kinds.mean()
    red = colours[COLOUR_NAMES.index("red")] - colours.mean()
    everywhere = torch.ones(8, 8, dtype=torch.bool)
    for words, expected in ((["kettle"], kettle), (["red", "kettle"], kettle + (red - 2) / 2)):
        likeness = held.likeness(object_.expand(16, -1), words)
        assert likeness is not None
        assert likeness.of(everywhere) == pytest.approx(float(expected.detach()), abs=1e-4)


def test_a_synonym_means_the_same_rows_and_a_wide_noun_several() -> None:
    nouns = word_probes(small_learner()).nouns
    assert nouns["tin"] == nouns["can"]
    assert nouns["smartphone"] == (SHAPE_NAMES.index("phone"),)
    assert set(nouns["bottle"]) >= {SHAPE_NAMES.index(name) for name in ("bottle", "spray bottle")}


def test_a_head_comes_back_from_its_probes() -> None:
    held, other = word_probes(small_learner()), small_learner(seed=1)
    assert take_probes(other, held)
    again = word_probes(other)
    torch.testing.assert_close(again.weight, held.weight)
    torch.testing.assert_close(again.bias, held.bias)
    before = other.word_aids.visual_object.weight.clone()
    assert not take_probes(other, replace(held, weight=held.weight[1:], bias=held.bias[1:]))
    assert torch.equal(other.word_aids.visual_object.weight, before)
