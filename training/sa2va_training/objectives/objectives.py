# SPDX-License-Identifier: Apache-2.0
"""What a pass is graded for: each objective is a function of the learner and what one pass has computed.

An objective that has nothing to grade in this pass, or that the settings do not ask for, gives None. Their losses are
sums over what the whole step has (`Totals`), already weighted.

Letters as in `learner.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.segmentation.types import Decoded
from sa2va_training.batches.batch import IGNORED, Batch
from sa2va_training.batches.features import Features
from sa2va_training.objectives.gaze import looks
from sa2va_training.objectives.losses import ious, mask_losses, token_losses

if TYPE_CHECKING:
    from sa2va_training.objectives.learner import Learner


@dataclass(frozen=True)
class Totals:
    """What a step has, over all processes and micro-batches; at least 1 each.

    Attributes:
        tokens: sum of the weights of all graded tokens.
    """

    tokens: float
    pairs: float
    seen: float
    things: float = 1.0


@dataclass(frozen=True)
class Pass:
    """What one forward pass has computed.

    Attributes:
        states: [B, S, C], of the language model, as its head reads them.
        tokens: [K, C], projected visual tokens of all pictures; None without pictures.
        codes: [M, d], of every answered `[SEG]`; None where there is no mask.
        decoded: the masks of P pairs; None where there is none.
        features: what a frozen vision model made of the pictures; None where it learns.
    """

    batch: Batch
    totals: Totals
    states: Tensor
    tokens: Tensor | None = None
    codes: Tensor | None = None
    decoded: Decoded | None = None
    features: Features | None = None


@dataclass(frozen=True)
class Term:
    """A part of the loss, and sums for the log."""

    loss: Tensor
    sums: Mapping[str, Tensor] = field(default_factory=dict)


Objective = Callable[["Learner", Pass], Term | None]


def text(learner: Learner, made: Pass) -> Term:
    """Cross entropy of the words of answers; the first of each may count for more."""
    batch = made.batch
    graded = batch.labels != IGNORED
    logits = learner.mllm.language_model.get_output_embeddings()(made.states[graded])
    labels = batch.labels[graded]
    losses = token_losses(logits, labels)
    weights = batch.weights(learner.loss.decision)[graded]
    loss = learner.loss.text * (weights * losses).sum() / made.totals.tokens
    right = (logits.argmax(-1) == labels).sum()
    return Term(loss, {"text": losses.sum(), "tokens": graded.sum().float(), "right": right})


def masks(learner: Learner, made: Pass) -> Term | None:
    """Cross entropy, dice, object score and predicted IoU of all pairs.

    A mask of something that is not there trains the object score where there is a trained one, and an empty mask
    where there is none (as published).
    """
    if made.decoded is None:
        return None
    settings, batch, totals, decoded = learner.loss, made.batch, made.totals, made.decoded
    seen = batch.seen
    graded = seen if settings.score else torch.ones_like(seen)
    logits, cover = decoded.logits[:, 0].float()[graded], batch.masks[graded]
    entropy, dice = mask_losses(logits, cover, settings, _draw(batch, batch.owners[graded]))
    total = (settings.mask * entropy + settings.dice * dice).sum() / totals.seen
    overlap = ious(logits, cover)
    sums = {
        "mask": entropy.sum(),
        "dice": dice.sum(),
        "iou": overlap.sum(),
        "seen": graded.sum().float(),
        "pairs": torch.tensor(float(len(seen)), device=seen.device),
    }
    if settings.score:
        score = F.binary_cross_entropy_with_logits(
            decoded.object_scores[:, 0].float(), seen.float(), reduction="none"
        )
        total = total + settings.score * score.sum() / totals.pairs
        sums["score"] = score.sum()
    if settings.quality:
        guess = decoded.quality.float()[graded]
        total = total + settings.quality * (guess - overlap).abs().sum() / totals.seen
    return Term(total, sums)


def keep(learner: Learner, made: Pass) -> Term | None:
    """How far the codes of rehearsed pictures have moved."""
    if learner.before is None or made.codes is None or not bool(made.batch.kept.any()):
        return None
    apart = learner.before.distance(made.codes, made.batch, made.features)
    return Term(learner.loss.keep * apart / made.totals.pairs, {"kept": apart})


def gaze(learner: Learner, made: Pass) -> Term | None:
    """Where attention heads look when `[SEG]` is said."""
    if learner.gaze is None or made.codes is None:
        return None
    looked = looks(learner.gaze, made.batch, learner.model.config, learner.mllm.image_id).sum()
    return Term(learner.loss.gaze * looked / made.totals.seen, {"looked": looked})


def names(learner: Learner, made: Pass) -> Term | None:
    """The words of every object's name, read off its visual tokens."""
    things = made.batch.things
    if learner.names is None or made.tokens is None or not len(things):
        return None
    tiled = made.tokens.unflatten(0, (-1, things.covers.shape[1]))  # [N, V, C]
    named = learner.names(tiled, things).sum()
    sums = {"named": named, "things": named.new_tensor(float(len(things)))}
    return Term(learner.loss.names * named / made.totals.things, sums)


OBJECTIVES: tuple[Objective, ...] = (text, masks, keep, gaze, names)


def _draw(batch: Batch, owners: Tensor) -> Callable[[int], Tensor]:
    """Random points that are a function of each sample's seed, so that the cut into batches does not matter."""
    rows = owners.tolist()
    generators = {b: torch.Generator().manual_seed(batch.seeds[b]) for b in sorted(set(rows))}

    def draw(count: int) -> Tensor:
        made = [torch.rand(count, 2, generator=generators[b]) for b in rows]
        return torch.stack(made).to(owners.device) if made else torch.zeros(0, count, 2)

    return draw
