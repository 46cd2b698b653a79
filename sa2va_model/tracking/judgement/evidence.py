# SPDX-License-Identifier: Apache-2.0
"""Evidence that a mask is on the object it should be on: the log-likelihood ratio of four measurements.

SAM-2's object score, its predicted IoU, whether the masked image features look like the object's own, and whether
the area is the object's own. All in tensors, N objects at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.checkpoints.calibration import EvidenceWeights
from sa2va_model.segmentation.types import Decoded, ImageFeatures

EVIDENCE_LIMIT = 4.0  # of a single frame, whatever the scores say
SCORE_LIMIT, AREA_LIMIT = 6.0, 1.5


def clip_evidence(evidence: float) -> float:
    """Limit what one frame may say, ±EVIDENCE_LIMIT; what is no number says nothing."""
    if math.isnan(evidence):
        return 0.0
    return max(-EVIDENCE_LIMIT, min(EVIDENCE_LIMIT, evidence))


@dataclass(frozen=True)
class Appearance:
    """What is under N masks: `look` float32 [N, D], and `area` float32 [N], the share of the image."""

    look: Tensor
    area: Tensor


def appearance(features: ImageFeatures, logits: Tensor) -> Appearance:
    """Describe what is under the masks [N, 1, 4h, 4w] of an image."""
    return Appearance(look(features, logits), area(logits))


def look(features: ImageFeatures, logits: Tensor) -> Tensor:
    """Describe what is under a mask by the image features of three sizes, against the rest of the image.

    Args:
        logits: [N, 1, 4h, 4w].

    Returns:
        float32 [N, D], of length 1; the product of two is the mean of three cosines.
    """
    share = logits.float().sigmoid()
    parts = []
    for level in (features.top, features.high[1], features.high[0]):
        cells = level.float()
        cells = cells - cells.mean((2, 3), keepdim=True)
        inside = share
        if share.shape[-2:] != cells.shape[-2:]:
            inside = F.interpolate(share, size=cells.shape[-2:], mode="area")
        total = torch.einsum("chw,nhw->nc", cells[0], inside[:, 0])
        parts.append(F.normalize(total, dim=1))
    return torch.cat(parts, dim=1) / len(parts) ** 0.5


def area(logits: Tensor) -> Tensor:
    """Return the share of the image under each mask: [N, 1, H, W] to float32 [N]."""
    return (logits > 0).float().mean((1, 2, 3))


def area_change(now: Tensor, own: Tensor, cells: int) -> Tensor:
    """Return |log ratio| of two areas [N], of which a cell or two more or less are no change, clipped."""
    some = 2.0 / cells
    return ((now + some) / (own + some)).log().abs().clamp(max=AREA_LIMIT)


def weigh(
    weights: EvidenceWeights, decoded: Decoded, likeness: Tensor, change: Tensor, *, scored: bool
) -> Tensor:
    """Return the log-likelihood ratio that each mask is on its object, float32 [N]; an empty mask has -inf.

    Args:
        likeness, change: [N], from `look` and `area_change`.
        scored: the model's object scores are trained.
    """
    score = decoded.object_scores[:, 0].float().clamp(-SCORE_LIMIT, SCORE_LIMIT)
    evidence = weights.bias + weights.quality * decoded.quality.float()
    evidence = evidence + weights.look * likeness + weights.area * change
    if scored:
        evidence = evidence + weights.object_score * score
    evidence = torch.nan_to_num(evidence, nan=-torch.inf)
    empty = ~(decoded.logits > 0).flatten(1).any(1)
    return torch.where(empty, -torch.inf, evidence)
