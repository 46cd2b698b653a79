# SPDX-License-Identifier: Apache-2.0
"""Whether a mask may be shown, and how sure it is."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from sa2va_model.io import preprocessing as images
from sa2va_model.segmentation.backends.base import Segmenter
from sa2va_model.segmentation.tracker import Observation
from sa2va_model.segmentation.types import Decoded
from sa2va_model.tracking.lifecycle import LifecycleConfig


class VisibilityTest:
    """Judges what SAM-2 answers.

    Official Sa2VA checkpoints leave the object score untrained (`object_score_gate` is off for them); then the
    predicted quality and the area decide alone.
    """

    def __init__(self, segmenter: Segmenter, limits: LifecycleConfig) -> None:
        self._segmenter, self._limits = segmenter, limits

    def shows(self, decoded: Decoded) -> bool:
        """The one mask is good and large enough to be shown at all; whether it is the right one is another question."""
        if self._segmenter.config.object_score_gate and not float(decoded.object_scores) > 0:
            return False
        area = float((decoded.logits > 0).float().mean())
        quality = float(decoded.quality)
        return area >= self._limits.min_area and quality >= self._limits.min_quality

    def score(self, seen: Observation) -> float:
        """0..1: predicted quality times the probability that the object is visible."""
        if not self._segmenter.config.object_score_gate:
            return seen.quality
        return seen.quality / (1.0 + math.exp(-max(seen.object_score, -50.0)))

    def mask(self, seen: Observation, height: int, width: int) -> np.ndarray:
        """bool [height, width]."""
        size = self._segmenter.config.image_size
        logits = images.masks_to_image(seen.logits, size, height, width)[0]
        mask: np.ndarray = (logits > 0).cpu().numpy()
        return mask


def overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two bool masks of one shape; 0 if both are empty."""
    return float((one & other).sum()) / max(float((one | other).sum()), 1.0)
