# SPDX-License-Identifier: Apache-2.0
"""Whether a mask may be shown, and how sure it is."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from sa2va_model import images
from sa2va_model.grounding import Grounder, ImageFeatures, Prompt
from sa2va_model.lifecycle import LifecycleConfig
from sa2va_model.tracker import Observation, observe


class Judge:
    """Judges what SAM-2 answers.

    Official Sa2VA checkpoints leave the object score untrained (`object_score_gate` is off for them); then the
    predicted quality and the area decide alone.
    """

    def __init__(self, grounder: Grounder, limits: LifecycleConfig) -> None:
        self._grounder, self._limits = grounder, limits

    def trusts(self, seen: Observation) -> bool:
        """The object is seen and its mask is good and large enough."""
        if self._grounder.config.object_score_gate and seen.object_score <= 0:
            return False
        area = float((seen.logits > 0).float().mean())
        return area >= self._limits.min_area and seen.quality >= self._limits.min_quality

    def score(self, seen: Observation) -> float:
        """0..1: predicted quality times the probability that the object is visible."""
        if not self._grounder.config.object_score_gate:
            return seen.quality
        return seen.quality / (1.0 + math.exp(-max(seen.object_score, -50.0)))

    def glance(self, prompt: Prompt, features: ImageFeatures) -> Observation | None:
        """What a prompt, asked of one image without memory, shows; None if it is no trustworthy mask."""
        plain = self._grounder.without_memory(features)
        seen = observe(self._grounder.decode(features, plain, prompt), 0, prompted=True)
        return seen if self.trusts(seen) else None

    def mask(self, seen: Observation, height: int, width: int) -> np.ndarray:
        """bool [height, width]."""
        size = self._grounder.config.image_size
        logits = images.masks_to_image(seen.logits, size, height, width)[0]
        mask: np.ndarray = (logits > 0).cpu().numpy()
        return mask


def overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two bool masks of one shape; 0 if both are empty."""
    return float((one & other).sum()) / max(float((one | other).sum()), 1.0)
