# SPDX-License-Identifier: Apache-2.0
"""The losses of the paper (Sa2VA, arXiv 2501.04001, section 3.3): text cross entropy, mask cross entropy and dice.

Mask losses are taken at sampled points, most of them where the model is unsure (PointRend, arXiv 1912.08193), or on all
cells where there are no more cells than points. All losses are sums with a weight per row, so that a batch cut into
micro-batches or over processes adds up to the same number.

Letters: P mask pairs, h = w mask side, Q points, G graded tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class MaskLossSettings:
    """Points and weights; defaults are the published ones.

    Attributes:
        mask, dice: weights.
        points: sampled per mask; 0 = all cells.
        oversample, importance: candidates per point, and the share of points taken where the model is least sure.
    """

    mask: float = 2.0
    dice: float = 0.5
    points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps [P, h, w] at points [P, Q, 2] (x, y in 0..1): [P, Q]."""
    grid = 2 * points[:, :, None] - 1
    out = F.grid_sample(maps[:, None], grid.to(maps.dtype), align_corners=False)
    return out[:, 0, :, 0]


@torch.no_grad()
def unsure_points(
    logits: Tensor, settings: MaskLossSettings, draw: Callable[[int], Tensor]
) -> Tensor:
    """Points [P, Q, 2]: the least sure of many random ones, and some at random.

    Args:
        logits: [P, h, w].
        draw: count -> uniform random numbers [P, count, 2] in 0..1.
    """
    wanted = settings.points
    candidates = draw(int(wanted * settings.oversample))
    unsure = -sample(logits.detach(), candidates).abs()
    near = int(settings.importance * wanted)
    best = unsure.topk(near, dim=1).indices
    chosen = candidates.gather(1, best[:, :, None].expand(-1, -1, 2))
    return torch.cat([chosen, draw(wanted - near)], dim=1)


def mask_losses(
    logits: Tensor, cover: Tensor, settings: MaskLossSettings, draw: Callable[[int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean cross entropy and dice of each pair: [P], [P]; not yet weighted.

    Args:
        logits: float32 [P, h, w].
        cover: float32 [P, h, w], 0..1.
    """
    cells = logits.shape[-2] * logits.shape[-1]
    if 0 < settings.points < cells:
        points = unsure_points(logits, settings, draw)
        guess, truth = sample(logits, points), sample(cover, points)
    else:
        guess, truth = logits.flatten(1), cover.flatten(1)
    entropy = F.binary_cross_entropy_with_logits(guess, truth, reduction="none").mean(1)
    chance = guess.sigmoid()
    overlap = 2 * (chance * truth).sum(1) + 1
    dice = 1 - overlap / (chance.sum(1) + truth.sum(1) + 1)
    return entropy, dice


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of graded tokens: logits [G, vocabulary], labels long [G] to [G]."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


@torch.no_grad()
def ious(logits: Tensor, cover: Tensor) -> Tensor:
    """IoU of thresholded masks [P, h, w]: [P]; 1 where both are empty."""
    guess, truth = (logits > 0).flatten(1), (cover > 0.5).flatten(1)
    union = (guess | truth).sum(1)
    return torch.where(union > 0, (guess & truth).sum(1) / union.clamp(min=1), 1.0)
