# SPDX-License-Identifier: Apache-2.0
"""Proposals: a mask for each thing on an image that nobody named, from a grid of clicks (SAM's automatic masks)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sa2va_model.segmentation.backends.base import Segmenter
from sa2va_model.segmentation.types import ImageFeatures


@dataclass(frozen=True)
class ProposalConfig:
    """How things are looked for.

    Attributes:
        side: clicks in a row and in a column.
        batch: clicks decoded together.
        min_quality: predicted IoU at least.
        min_area, max_area: share of the image.
        overlap: of the smaller of two masks, from which on they are one thing.
        most: proposals, the best first.
    """

    side: int = 16
    batch: int = 64
    min_quality: float = 0.4
    min_area: float = 8e-4
    max_area: float = 0.4
    overlap: float = 0.6
    most: int = 16


@torch.inference_mode()
def propose(
    segmenter: Segmenter, features: ImageFeatures, config: ProposalConfig | None = None
) -> tuple[Tensor, Tensor]:
    """Masks of the things on an image, each once.

    Returns:
        float32 [K, 1, 4h, 4w] logits, and their predicted quality [K], the best first.
    """
    config = config or ProposalConfig()
    sam = segmenter.config
    grid = (torch.arange(config.side) + 0.5) / config.side * sam.image_size
    clicks = torch.cartesian_prod(grid, grid)[:, None].to(segmenter.device)
    plain, found = segmenter.without_memory(features), []
    for points in clicks.split(config.batch):
        count = len(points)
        decoded = segmenter.decode_tokens(
            features,
            plain.expand(count, -1, -1, -1),
            points=points,
            labels=torch.ones(count, 1, dtype=torch.int32, device=segmenter.device),
            multimask=sam.multimask,
        )
        found.append((decoded.candidates.flatten(0, 1), decoded.ious.flatten().float()))
    logits = torch.cat([masks for masks, _ in found])
    quality = torch.cat([scores for _, scores in found])
    area = (logits > 0).float().mean((1, 2))
    good = (quality >= config.min_quality) & (area >= config.min_area) & (area <= config.max_area)
    order = quality.where(good, -1.0).argsort(descending=True)[: int(good.sum())]
    kept = _distinct((logits[order] > 0).flatten(1).float(), config)
    return logits[order[kept]][:, None], quality[order[kept]]


def _distinct(masks: Tensor, config: ProposalConfig) -> list[int]:
    """Which of [N, cells] masks, the best first, are kept: none lies on a better one."""
    size = masks.sum(1)
    shared = (masks @ masks.T) / torch.minimum(size[:, None], size[None]).clamp(min=1)
    same = (shared >= config.overlap).cpu()
    kept: list[int] = []
    for n in range(len(masks)):
        if len(kept) < config.most and not same[n, kept].any():
            kept.append(n)
    return kept
