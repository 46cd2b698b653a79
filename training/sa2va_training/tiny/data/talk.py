# SPDX-License-Identifier: Apache-2.0
"""Everything that is not a referring question: colours, counts, which one, captions, grounded captions, regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.config.model import ModelConfig
from sa2va_model.io.preprocessing import region_cells
from sa2va_sim.words.dialogue import Dialogue, converse
from sa2va_sim.words.expressions import Expression
from sa2va_sim.words.facts import ObjectFact
from sa2va_sim.words.vocabulary import SHAPES
from sa2va_training.objectives.gaze import queries
from sa2va_training.tiny.data.batches import AREA, VISIBLE, PictureBatch
from sa2va_training.tiny.data.packing import IGNORED, Packed, Question, block_mask, read
from sa2va_training.tiny.data.scenes import BOX, COLOUR, COLOUR_NAMES, PRESENT, SHAPE, SHAPE_NAMES
from sa2va_training.tiny.learner import TinyLearner
from sa2va_training.tiny.objectives.aids import object_shares
from sa2va_training.tiny.objectives.losses import plain
from sa2va_training.tiny.objectives.spoken import spoken_loss

SHORT, LONG = 5, 2
"""Questions of a picture in a step of short texts, and in one of captions and regions."""
_LONG_KINDS = ("caption", "grounded", "region")
_WORD_KINDS = ("colour", "shape")
_PLAIN_KINDS = ("colour", "which", "region")
_NAMING_KINDS = ("caption", "grounded")
_STOP = "<|im_end|>"
_MIN_CELLS = 4
"""Regions of fewer visual tokens were left out of the official training, too."""


def facts_of(table: np.ndarray) -> list[ObjectFact]:
    """Rows of the objects table as facts; sizes and depths are not kept on disk, and no dialogue needs them."""
    facts = []
    for index, row in enumerate(table):
        if row[PRESENT] > 0:
            cx, cy, w, h = (float(v) for v in row[BOX])
            box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
            names = COLOUR_NAMES[int(row[COLOUR])], SHAPE_NAMES[int(row[SHAPE])]
            facts.append(ObjectFact(index, *names, 0.0, box, float(row[VISIBLE]), float(row[AREA])))
    return facts


def dialogues(batch: PictureBatch, image: int, rng: np.random.Generator) -> list[Dialogue]:
    """What can be talked about in one picture of a batch."""
    known = [
        Expression(e.text, e.kind, e.target if e.target >= 0 else None)
        for e in batch.expressions[image]
    ]
    facts = facts_of(batch.objects[image].cpu().numpy())
    found = converse(facts, rng, known)
    if all(fact.shape in SHAPES for fact in facts):
        return found
    # Of ordinary things the table does not keep what else they might be called.
    every = all(fact.colour for fact in facts)
    kinds = (*_PLAIN_KINDS, *(_NAMING_KINDS if every else ()))
    return [talk for talk in found if talk.kind in kinds]


def region_tokens(
    batch: PictureBatch, image: int, target: int, config: ModelConfig
) -> tuple[int, ...]:
    """The visual tokens whose middle lies on an object, row by row, as the run time rasterises a region."""
    mask = (batch.instances[image] == target + 1).cpu().numpy()
    cells = region_cells(mask, config)
    return tuple(int(i) for i in cells.flatten().nonzero()[:, 0])


@dataclass(frozen=True)
class Spoken:
    """A question and the objects that its answer names, in that order; empty where it is not about single ones."""

    question: Question
    kind: str
    objects: tuple[int, ...]


def _chosen(
    batch: PictureBatch, image: int, long: bool, config: ModelConfig, rng: np.random.Generator
) -> list[Spoken]:
    """Questions of one kind of length; repeated if the picture gives too few.

    The long ones begin with a grounded caption: it says which thing every name is for, which a plain one leaves open.
    """
    out: list[Spoken] = []
    for talk in dialogues(batch, image, rng):
        if (talk.kind in _LONG_KINDS) != long:
            continue
        cells: tuple[int, ...] = ()
        if talk.kind == "region":
            cells = region_tokens(batch, image, talk.objects[0], config)
            if len(cells) < _MIN_CELLS:
                continue
        question = Question(talk.question, talk.answer + _STOP, free=True, cells=cells)
        out.append(Spoken(question, talk.kind, () if talk.kind == "count" else talk.objects))
    out.sort(key=lambda spoken: spoken.kind != "grounded")
    count = LONG if long else SHORT
    if not out:
        out = [Spoken(Question("Hello", "Hello" + _STOP, free=True), "chat", ())]
    return [out[i % len(out)] for i in range(count)]


def talk_loss(
    learner: TinyLearner,
    batch: PictureBatch,
    rng: np.random.Generator,
    listing: float = 0.6,
    masks: bool = False,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Losses of answers, of what they are about, of the [SEG]s within them, of their masks and of the visual tokens."""
    long = rng.random() < listing
    rows = [_chosen(batch, i, long, learner.model.config, rng) for i in range(len(batch.objects))]
    packed = learner.packer.pack([[spoken.question for spoken in row] for row in rows])
    seen = read(learner.mllm, batch.pixels, packed)
    visual, report = learner.word_aids.visual_loss(seen.visual, batch)
    graded = packed.labels != IGNORED
    logits = learner.mllm.language_model.lm_head(seen.states[graded])
    answers = F.cross_entropy(logits, packed.labels[graded])
    parts = {"visual": visual, "answers": answers}
    name = "caption" if long else "short"
    report[name] = plain(answers)
    report[f"{name}right"] = plain((logits.argmax(1) == packed.labels[graded]).float().mean())
    places = _places(learner, packed, rows)
    if any(places):
        parts["plan"], parts["gaze"], report[f"{name}iou"] = _plan(
            learner, batch, packed, seen.states, places
        )
    if long:
        states = seen.states[packed.branches == learner.mllm.seg_id]
        if len(states):
            more, told = _named(learner, batch, states, rows, masks)
            parts, report = parts | more, report | told
    return parts, report


def _places(
    learner: TinyLearner, packed: Packed, rows: Sequence[Sequence[Spoken]]
) -> list[list[tuple[int, int, int]]]:
    """Where the model has to know which thing it is naming: (branch, place, object) of each image.

    Those are the article, whose successor is the colour, and the colour, whose successor is the shape; in an answer
    of one word where it begins.
    """
    colours = learner.packer.tokens([f" {name}" for name in COLOUR_NAMES if name])
    out: list[list[tuple[int, int, int]]] = []
    for i, row in enumerate(rows):
        found: list[tuple[int, int, int]] = []
        for k, spoken in enumerate(row):
            start = int(packed.decide[i, k])
            if spoken.kind in _WORD_KINDS:
                found.append((k, start, spoken.objects[0]))
                continue
            said = packed.branches[i, k, start + 1 :]
            named = torch.isin(said, colours).nonzero()[:, 0] + start + 1
            if len(named) != len(spoken.objects):
                continue  # something without a colour
            for at, index in zip(named.tolist(), spoken.objects, strict=True):
                found += [(k, at - 1, index), (k, at, index)]
        out.append(found)
    return out


def _plan(
    learner: TinyLearner,
    batch: PictureBatch,
    packed: Packed,
    states: Tensor,
    places: Sequence[Sequence[tuple[int, int, int]]],
) -> tuple[Tensor, Tensor, float]:
    """The thing that is being named, read off before its words, and the last attention to it: (plan, gaze, box IoU).

    Words alone seldom tell two neighbours apart; without this a list says one of them twice and leaves the other out.

    Args:
        states: [B, K, L, C].
    """
    prefix, length = len(packed.prefix), packed.branches.shape[2]
    visual = packed.visual(learner.mllm.image_id)
    shares = object_shares(batch, int(visual.shape[1] ** 0.5)).flatten(2)
    asked = [
        [(prefix + k * length + at, shares[i, index + 1]) for k, at, index in row]
        for i, row in enumerate(places)
    ]
    mask, _ = block_mask(prefix, packed.branches.shape[1], length)
    at_places, cells = queries(asked, shares.shape[2])
    gaze = learner.choice.loss(at_places, mask, visual, cells)
    flat = [(i, k, at, index) for i, row in enumerate(places) for k, at, index in row]
    image, branch, at, index = torch.tensor(flat).T
    loss, overlap = learner.word_aids.planned(
        states[image, branch, at], batch.objects[image, index]
    )
    return loss, gaze, plain(overlap)


def _named(
    learner: TinyLearner,
    batch: PictureBatch,
    states: Tensor,
    rows: Sequence[Sequence[Spoken]],
    masks: bool,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """How far the [SEG]s of grounded captions are from the teacher codes of their objects; boxes, names and masks.

    Args:
        states: [M, C] in the order of the questions and of their objects.
    """
    grounded = [(i, s) for i, row in enumerate(rows) for s in row if s.kind == "grounded"]
    meant = [(i, k) for i, spoken in grounded for k in spoken.objects]
    image, index = torch.tensor(meant).T
    table = batch.objects[image, index]
    wanted = learner.teacher(table[:, BOX], table[:, COLOUR].long(), table[:, SHAPE].long())
    codes = learner.model.text_hidden_fcs(states)
    parts = {"code": F.mse_loss(codes, wanted), "told": learner.word_aids.told(states, table)[0]}
    report = {"captioncode": plain(parts["code"])}
    if masks:
        cover = object_shares(batch, learner.cells)[image, index + 1]
        found = torch.ones(len(image), dtype=torch.bool)
        parts["masks"], drawn = spoken_loss(learner, batch, image, codes, cover, found)
        report["captionmask"] = drawn["iou"]
    return parts, report
