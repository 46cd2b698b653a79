# SPDX-License-Identifier: Apache-2.0
"""Word probes out of a head that trained with the eye: `aids.WordAids.visual_object` names the cells of an object.

A head that is fitted to the finished eye, on 20,000 objects, tells less (log.md): the tokens were made for this one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sa2va_model.errors import InputError
from sa2va_model.mllm.word_probes import WordProbes
from sa2va_model.sa2va import Sa2VA
from sa2va_sim.catalogue.nouns import nouns
from sa2va_sim.catalogue.room import SEEDS_PER_ROOM, render_things
from sa2va_sim.words.facts import LabelledImage, is_referable, seen
from sa2va_training.tiny.data.language import SYNONYMS
from sa2va_training.tiny.data.scenes import COLOUR_NAMES, SHAPE_NAMES
from sa2va_training.tiny.learner import TinyLearner
from sa2va_training.tiny.shipping.word_choice import FIRST, MIN_AREA, MIN_VISIBLE, names_of

FLOORS = (5.0, 0.5)
"""Of things and of colours, in log-odds, until `with_floors` has measured them."""
_REFUSED = (
    0.04,
    0.01,
    0.04,
)  # shares of the right answers that the floors take away, and the odds against rivals
_COLOUR = 0.5  # weight of a colour beside a noun
_NEUTRAL = 2.0  # log-odds of a colour that speaks neither for a mask nor against it


def word_probes(learner: TinyLearner) -> WordProbes:
    """The learner's head as probes: every kind against the mean of all kinds, every colour against that of colours."""
    head, count = learner.word_aids.visual_object, len(COLOUR_NAMES)
    weight, bias = head.weight.detach().float(), head.bias.detach().float()
    colours, kinds = (
        _centred(weight[part], bias[part]) for part in (slice(count), slice(count, None))
    )
    named = defaultdict[str, list[int]](list)
    for row, name in enumerate(SHAPE_NAMES):
        for word in {name, SYNONYMS.get(name, name)}:
            named[word].append(row)
    for noun in nouns().values():
        for word in noun.names[1:]:
            named[word].append(SHAPE_NAMES.index(noun.name))
    return WordProbes(
        {word: tuple(sorted(set(rows))) for word, rows in named.items()},
        {name: len(SHAPE_NAMES) + row for row, name in enumerate(COLOUR_NAMES) if name},
        torch.cat([kinds[0], _COLOUR * colours[0]]),
        torch.cat([kinds[1], _COLOUR * (colours[1] - _NEUTRAL)]),
        *FLOORS,
    )


@torch.no_grad()
def take_probes(learner: TinyLearner, probes: WordProbes) -> bool:
    """The way back: a head that names cells as `probes` do; False if they are for other words."""
    head, kinds = learner.word_aids.visual_object, len(SHAPE_NAMES)
    if probes.weight.shape != head.weight.shape:
        return False
    colours = probes.weight[kinds:] / _COLOUR, probes.bias[kinds:] / _COLOUR + _NEUTRAL
    head.weight.copy_(torch.cat([colours[0], probes.weight[:kinds]]))
    head.bias.copy_(torch.cat([colours[1], probes.bias[:kinds]]))
    return True


def _centred(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight - weight.mean(0), bias - bias.mean()


@torch.inference_mode()
def with_floors(model: Sa2VA, scenes: int, first: int = FIRST) -> WordProbes:
    """The probes of a model with floors that take few right answers away, on tables of training objects.

    Raises:
        InputError: it has no probes, or found nothing on these tables.
    """
    probes = model.word_probes
    if probes is None:
        raise InputError("the model has no word probes; expected one that `export` wrote")
    right: tuple[list[float], list[float], list[float]] = [], [], []  # of things, of colours; odds
    model.word_probes = None  # every answer counts
    try:
        seeds = range(
            first, first + scenes * SEEDS_PER_ROOM, SEEDS_PER_ROOM
        )  # each with a room and objects of its own
        for seed in tqdm(seeds, "scenes", leave=False):
            image = render_things(seed, "train")
            asked = [*_things(image, seed), *_colours(image)]
            answers = model.segment_many(image.rgb, [f"the {words}" for words, _ in asked])
            tokens = model.visual_tokens(image.rgb)
            for (words, truth), answer in zip(asked, answers, strict=True):
                likeness = probes.likeness(tokens, words.split())
                mask = np.any(np.asarray(answer.masks, bool).reshape(-1, *truth.shape), axis=0)
                shared, both = (mask & truth).sum(), (mask | truth).sum()
                if likeness is not None and shared > 0.5 * both:
                    right[likeness.rivals is None].append(likeness.of(mask))
                    if likeness.rivals is not None:
                        right[2].append(likeness.against_rivals(mask))
    finally:
        model.word_probes = probes
    if not all(right):
        raise InputError(
            f"nothing was found on {scenes} tables; expected a model that was taught their nouns"
        )
    things, colours, odds = (
        round(float(np.nanquantile(r, share)), 2) for r, share in zip(right, _REFUSED, strict=True)
    )
    return replace(probes, floor=things, colour_floor=colours, odds=odds)


def _things(image: LabelledImage, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, truth in names_of(image, np.random.default_rng([seed, 0xC401])):
        if truth is not None:
            yield name, truth


def _colours(image: LabelledImage) -> Iterator[tuple[str, np.ndarray]]:
    """Things that their colour tells from all others."""
    facts = seen(image.facts)
    for fact in facts:
        others = {word for f in facts if f is not fact for word in (f.colour, *f.doubtful)}
        if fact.colour and fact.colour not in others and is_referable(fact, MIN_VISIBLE, MIN_AREA):
            yield f"{fact.colour} object", image.instances == fact.index + 1
