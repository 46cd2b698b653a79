# SPDX-License-Identifier: Apache-2.0
"""Everything that is not a referring question: colours, counts, which one, captions, grounded captions, regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.config import ModelConfig
from sa2va_model.images import region_cells
from sa2va_sim.dialogue import Dialogue, converse
from sa2va_sim.expressions import Expression
from sa2va_sim.facts import ObjectFact
from sa2va_training.tiny.batches import AREA, VISIBLE, Batch
from sa2va_training.tiny.learner import Learner
from sa2va_training.tiny.losses import plain
from sa2va_training.tiny.packing import IGNORED, Question, read
from sa2va_training.tiny.scenes import BOX, COLOUR, COLOUR_NAMES, PRESENT, SHAPE, SHAPE_NAMES

SHORT, LONG = 5, 2
"""Questions of a picture in a step of short texts, and in one of captions and regions."""
_LONG_KINDS = ("caption", "grounded", "region")
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


def dialogues(batch: Batch, image: int, rng: np.random.Generator) -> list[Dialogue]:
    """What can be talked about in one picture of a batch."""
    known = [
        Expression(e.text, e.kind, e.target if e.target >= 0 else None)
        for e in batch.expressions[image]
    ]
    return converse(facts_of(batch.objects[image].numpy()), rng, known)


def region_tokens(batch: Batch, image: int, target: int, config: ModelConfig) -> tuple[int, ...]:
    """The visual tokens whose middle lies on an object, row by row, as the run time rasterises a region."""
    mask = (batch.instances[image] == target + 1).numpy()
    cells = region_cells(mask, config)
    return tuple(int(i) for i in cells.flatten().nonzero()[:, 0])


def _chosen(
    batch: Batch, image: int, long: bool, config: ModelConfig, rng: np.random.Generator
) -> list[tuple[Question, tuple[int, ...]]]:
    """Questions of one kind of length with the objects of their [SEG]s; repeated if the picture gives too few."""
    out: list[tuple[Question, tuple[int, ...]]] = []
    for talk in dialogues(batch, image, rng):
        if (talk.kind in _LONG_KINDS) != long:
            continue
        cells: tuple[int, ...] = ()
        if talk.kind == "region":
            cells = region_tokens(batch, image, talk.objects[0], config)
            if len(cells) < _MIN_CELLS:
                continue
        spoken = talk.objects if talk.kind == "grounded" else ()
        out.append((Question(talk.question, talk.answer + _STOP, free=True, cells=cells), spoken))
    count = LONG if long else SHORT
    if not out:
        out = [(Question("Hello", "Hello" + _STOP, free=True), ())]
    return [out[i % len(out)] for i in range(count)]


def talk_loss(
    learner: Learner, batch: Batch, rng: np.random.Generator
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Losses of answers, of the [SEG]s within them and of the visual tokens."""
    long = rng.random() < 0.4
    rows = [_chosen(batch, i, long, learner.model.config, rng) for i in range(len(batch.objects))]
    packed = learner.packer.pack([[question for question, _ in row] for row in rows])
    seen = read(learner.mllm, batch.pixels, packed)
    visual, report = learner.word_aids.visual_loss(seen.visual, batch)
    graded = packed.labels != IGNORED
    logits = learner.mllm.language_model.lm_head(seen.states[graded])
    answers = F.cross_entropy(logits, packed.labels[graded])
    parts = {"visual": visual, "answers": answers}
    name = "caption" if long else "short"
    report[name] = plain(answers)
    report[f"{name}right"] = plain((logits.argmax(1) == packed.labels[graded]).float().mean())
    if long:
        states = seen.states[packed.branches == learner.mllm.seg_id]
        if len(states):
            code, error = _codes(
                learner, batch, states, [spoken for row in rows for _, spoken in row]
            )
            parts["code"], report["captioncode"] = code, error
    return parts, report


def _codes(
    learner: Learner, batch: Batch, states: Tensor, spoken: Sequence[tuple[int, ...]]
) -> tuple[Tensor, float]:
    """How far the [SEG]s of grounded captions are from the teacher codes of their objects; boxes beside it.

    Args:
        states: [M, C] in the order of the questions and of their objects.
    """
    per_image = len(spoken) // len(batch.objects)
    meant = torch.stack(
        [batch.objects[n // per_image, k] for n, named in enumerate(spoken) for k in named]
    )
    wanted = learner.teacher(meant[:, BOX], meant[:, COLOUR].long(), meant[:, SHAPE].long())
    code = F.mse_loss(learner.model.text_hidden_fcs(states), wanted)
    boxes = F.l1_loss(learner.word_aids.seg_box(states).sigmoid(), meant[:, BOX])
    return code + 8 * boxes, plain(code)
