# SPDX-License-Identifier: Apache-2.0
"""Nouns that a model mixes up are not among the words that it says it knows."""

from __future__ import annotations

import numpy as np

from sa2va_training.tiny.data.language import vocabulary
from sa2va_training.tiny.shipping.word_choice import WordRecord, WordRule, chosen

TRUTH = np.zeros((8, 8), bool)
TRUTH[:4] = True
NOTHING, ELSEWHERE, HALF = np.zeros_like(TRUTH), ~TRUTH, TRUTH.copy()
HALF[2:4] = False


def record(*answers: tuple[np.ndarray, np.ndarray | None]) -> WordRecord:
    held = WordRecord()
    for mask, truth in answers:
        held.add(mask, truth)
    return held


def test_what_is_counted() -> None:
    held = record((TRUTH, TRUTH), (NOTHING, TRUTH), (ELSEWHERE, TRUTH), (HALF, TRUTH))
    assert held == WordRecord(
        there=4, found=1, asked=4, wrong=1
    )  # half of the thing is not another thing
    assert record((NOTHING, None), (TRUTH, None)) == WordRecord(there=0, found=0, asked=2, wrong=1)


def test_a_noun_stays_if_it_is_found_and_seldom_mistaken() -> None:
    rule = WordRule(least=2, found=0.5, wrong=0.25)
    good, bad = (TRUTH, TRUTH), (ELSEWHERE, TRUTH)
    assert record(good, good).fits(rule)
    assert record(bad).fits(rule)  # too few to say
    assert not record(good, (NOTHING, TRUTH), (NOTHING, TRUTH)).fits(rule)  # seldom found
    assert not record(good, good, good, bad, bad).fits(rule)  # often mistaken
    assert not record(good, good, (TRUTH, None)).fits(rule)  # marked though it is not there


def test_the_toy_worlds_nouns_stay_and_weak_ones_go() -> None:
    words = vocabulary(("kettle", "teddy bear", "shoe"))
    records = {"kettle": record(*[(TRUTH, TRUTH)] * 4), "shoe": record(*[(ELSEWHERE, TRUTH)] * 4)}
    kept = chosen(words, records, WordRule())
    assert kept.things == vocabulary().things | {"kettle", "teddy bear"}  # a bear was never there
    assert kept.landmarks == {"shoe"}
    assert (kept.colours, kept.others) == (words.colours, words.others)
    assert kept.read_sentence("the shoe").text == ""
    assert kept.read_sentence("the red shoe").text == "the red object"
