# SPDX-License-Identifier: Apache-2.0
"""Losses on masks, scores and answers that all stages share.

Letters: N prompts, h = w mask side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.segmentation.types import Decoded

ABSENT_WEIGHT = 1.0  # above 1 the model says no more often, also to what is there


def plain(value: Tensor) -> float:
    """A number for the log."""
    return float(value.detach())


def mask_loss(logits: Tensor, cover: Tensor) -> tuple[Tensor, Tensor]:
    """4 · BCE + dice; returns (loss, dice).

    Args:
        logits: [N, h, w]; `cover`: the share of each cell that the object covers.
    """
    if not len(logits):
        return logits.sum(), logits.new_ones(())
    entropy = F.binary_cross_entropy_with_logits(logits, cover)
    chance, truth = logits.sigmoid().flatten(1), cover.flatten(1)
    overlap = 2 * (chance * truth).sum(1) + 1
    dice = (1 - overlap / (chance.sum(1) + truth.sum(1) + 1)).mean()
    return 4 * entropy + dice, dice


@torch.no_grad()
def mask_iou(logits: Tensor, cover: Tensor) -> Tensor:
    """IoU of thresholded masks, [N]."""
    guess, truth = (logits > 0).flatten(1), (cover > 0.5).flatten(1)
    return (guess & truth).sum(1) / (guess | truth).sum(1).clamp(min=1)


def decoded_loss(
    decoded: Decoded, cover: Tensor, found: Tensor, score_weight: float = 0.3
) -> tuple[Tensor, dict[str, float]]:
    """Mask, object score and predicted quality of N prompts.

    Args:
        cover: [N, h, w].
        found: bool [N]; prompts without an object train only the object score.
    """
    logits, scores = decoded.logits[:, 0].float(), decoded.object_scores[:, 0].float()
    masks, dice = mask_loss(logits[found], cover[found])
    ious = mask_iou(logits[found], cover[found])
    score = F.binary_cross_entropy_with_logits(scores, found.float())
    quality = (
        (decoded.ious[found, 0].float() - ious).abs().mean() if len(ious) else masks.new_zeros(())
    )
    report = {"dice": plain(dice), "iou": plain(ious.mean()), "score": plain(score)}
    return masks + score_weight * score + 0.2 * quality, report


def answer_loss(
    logits: Tensor, labels: Tensor, first: Tensor, absent: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of answer tokens; the first one, which decides found or not, counts as much as all others.

    Args:
        logits: [M, vocabulary]; labels: [M]; first: bool [M], N of them set.
        absent: bool [N]: the right answer is that there is nothing.
    """
    each = F.cross_entropy(logits, labels, reduction="none")
    weight = 1 + (ABSENT_WEIGHT - 1) * absent
    decision, rest = (each[first] * weight).sum() / weight.sum(), each[~first].mean()
    right = (logits[first].argmax(-1) == labels[first]).float().mean()
    report = {"decide": plain(decision), "right": plain(right), "rest": plain(rest)}
    return decision + 0.2 * rest, report
