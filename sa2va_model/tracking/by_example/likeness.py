# SPDX-License-Identifier: Apache-2.0
"""Likeness: which of the things on an image looks like an example."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.segmentation.proposals import propose
from sa2va_model.segmentation.types import ImageFeatures
from sa2va_model.tracking.evidence import look
from sa2va_model.tracking.handover import Vision


class Likeness:
    """Compares looks."""

    def __init__(self, vision: Vision, least: float = 0.7) -> None:
        self._vision, self._least = vision, least

    def of_views(self, shown: Sequence[tuple[ImageFeatures, Tensor]]) -> Tensor:
        """Looks of an example's views, float32 [V, D]."""
        return torch.cat([look(features, self._logits(mask)) for features, mask in shown])

    def find(self, own: Tensor, features: ImageFeatures) -> Tensor | None:
        logits, _ = propose(self._vision.follower, features)
        if not len(logits):
            return None
        likeness = (look(features, logits) @ own.T).amax(1)
        best = int(likeness.argmax())
        if float(likeness[best]) < self._least:
            return None
        return self._vision.follower.image_logits(logits[best : best + 1])[0, 0] > 0

    def _logits(self, mask: Tensor) -> Tensor:
        side = self._vision.follower.config.mask_size
        shared = F.interpolate(mask.float()[None, None], size=(side, side), mode="area")
        return (shared * 20 - 10).to(self._vision.follower.device)
