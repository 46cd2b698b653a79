# SPDX-License-Identifier: Apache-2.0
"""Which of the nouns that were taught a model may be asked for: all but those that it was seen to miss.

    python -m sa2va_training.tiny choose weights=DIR scenes=240

A small model learns some nouns and mixes others up. Asked for a noun of the second kind it marks some other thing; left
out of `vocabulary.json` it says that it does not know the word, which is true. Such nouns stay there as landmarks: the
place of "the thing left of the kettle" is found more often than the kettle. Scenes are of training objects, with
seeds that neither training nor the benchmarks draw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sa2va_model.checkpoints.load import load_model
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.sa2va import Sa2VA
from sa2va_sim.catalogue.room import render_things
from sa2va_sim.catalogue.stock import trained_names
from sa2va_sim.words.facts import LabelledImage, is_referable, seen
from sa2va_training.tiny.data.language import vocabulary

FIRST = 600_000
_IN_VAIN = 3  # nouns of a scene that are not there
MIN_VISIBLE, MIN_AREA = 0.4, 0.003


@dataclass(frozen=True)
class WordRule:
    """What a noun must show; a stricter rule leaves fewer, with as many wrong answers for each right one (log.md).

    Attributes:
        least: times that it has to be asked for and there before it is judged.
        found: least share of these with an IoU above one half.
        wrong: at most this share of all its answers marks something else, asked in vain or not.
    """

    least: int = 4
    found: float = 0.25
    wrong: float = 0.7


@dataclass
class WordRecord:
    """What came of asking for a noun."""

    there: int = 0
    found: int = 0
    asked: int = 0
    wrong: int = 0

    def add(self, mask: np.ndarray, truth: np.ndarray | None) -> None:
        """Counts an answer, bool [H, W]; `truth` is None where the thing is not there."""
        self.asked += 1
        right = False
        if truth is not None:
            self.there += 1
            right = bool((mask & truth).sum() > 0.5 * max((mask | truth).sum(), 1))
            self.found += right
        on_it = False if truth is None else bool((mask & truth).sum() > 0.5 * mask.sum())
        self.wrong += bool(mask.any()) and not right and not on_it

    def fits(self, rule: WordRule) -> bool:
        """Whether robots may be asked for it; one that was seldom there has the benefit of the doubt."""
        if self.there < rule.least:
            return True
        return self.found >= rule.found * self.there and self.wrong <= rule.wrong * self.asked


@torch.inference_mode()
def word_records(model: Sa2VA, scenes: int, first: int = FIRST) -> dict[str, WordRecord]:
    """Asks for every noun that stands on the tables of `scenes` seeds, and for some that do not."""
    held, records = model.vocabulary, defaultdict[str, WordRecord](WordRecord)
    model.vocabulary = None  # every word is asked for, and no answer is held against its word
    try:
        for seed in tqdm(range(first, first + scenes), "scenes", leave=False):
            image = render_things(seed, "train")
            asked = list(names_of(image, np.random.default_rng([seed, 0xC401])))
            answers = model.segment_many(image.rgb, [f"the {name}" for name, _ in asked])
            for (name, truth), answer in zip(asked, answers, strict=True):
                masks = np.asarray(answer.masks, bool).reshape(-1, *image.instances.shape)
                records[name].add(np.any(masks, axis=0), truth)
    finally:
        model.vocabulary = held
    return dict(records)


def names_of(
    image: LabelledImage, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Every noun that names one thing of a table, with its mask, and some that name nothing there, with None."""
    facts = seen(image.facts)
    for fact in facts:
        others = {word for f in facts if f is not fact for word in (*f.called, *f.doubtful)}
        for name in fact.called:
            if name not in others and is_referable(fact, MIN_VISIBLE, MIN_AREA):
                yield name, image.instances == fact.index + 1
    there = {word for fact in facts for word in (*fact.called, *fact.doubtful)}
    absent = [name for name in trained_names() if name not in there]
    for name in rng.choice(absent, min(_IN_VAIN, len(absent)), replace=False) if absent else ():
        yield str(name), None


def chosen(words: Vocabulary, records: Mapping[str, WordRecord], rule: WordRule) -> Vocabulary:
    """The vocabulary with nouns that do not fit the rule as landmarks; those of the toy world have their own tests."""
    toys = vocabulary().things
    weak = {n for n in words.things - toys if n in records and not records[n].fits(rule)}
    return replace(words, things=words.things - weak, landmarks=frozenset(weak))


def choose(folder: Path, scenes: int, rule: WordRule | None = None) -> Vocabulary:
    """Measures the model in `folder` and writes its `vocabulary.json` anew."""
    records = word_records(load_model(folder, device="cpu"), scenes)
    words = chosen(vocabulary(trained_names()), records, rule or WordRule())
    words.write(folder)
    return words
