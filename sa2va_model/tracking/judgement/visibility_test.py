# SPDX-License-Identifier: Apache-2.0
"""Visibility test: whether a mask may be shown at all, how sure it is, and what a [SEG] embedding shows on an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sa2va_model.io import preprocessing as images
from sa2va_model.segmentation.tracker import read_numbers
from sa2va_model.segmentation.types import Decoded, ImageFeatures
from sa2va_model.tracking.config import VisibilityConfig
from sa2va_model.tracking.judgement.evidence import EVIDENCE_LIMIT, clip_evidence

if TYPE_CHECKING:
    from sa2va_model.mllm.word_probes import Likeness
    from sa2va_model.segmentation.backends.base import Segmenter
    from sa2va_model.tracking.handover import Vision
    from sa2va_model.tracking.judgement.memory_gate import MemoryGate


class VisibilityTest:
    """Judge one mask of SAM-2 by itself.

    Official Sa2VA checkpoints leave the object score untrained (`object_score_gate` is off for them); then the
    predicted quality and the area decide alone.

    Args:
        segmenter: the one that made the masks.
    """

    def __init__(self, segmenter: Segmenter, config: VisibilityConfig) -> None:
        self._segmenter, self._config = segmenter, config

    def reconfigure(self, config: VisibilityConfig) -> None:
        """Use other limits from now on."""
        self._config = config

    def passes(self, decoded: Decoded) -> bool:
        """Return whether the one mask is good and large enough; whether it is the right one is another question."""
        [(quality, object_score, area)] = read_numbers(decoded)
        return self.enough(quality, object_score, area)

    def enough(self, quality: float, object_score: float, area: float) -> bool:
        """As `passes`, from numbers that were read back already."""
        if self._segmenter.config.object_score_gate and not object_score > 0:
            return False
        return area >= self._config.min_area and quality >= self._config.min_quality

    def score(self, quality: float, object_score: float) -> float:
        """Return predicted quality times the probability that the object is visible, 0..1."""
        if not self._segmenter.config.object_score_gate:
            return quality
        return quality / (1.0 + math.exp(-max(object_score, -50.0)))

    def masks(self, logits: Sequence[Tensor], picture: np.ndarray) -> list[np.ndarray]:
        """Bring each of several logits [1, 1, 4h, 4w] to a bool mask [H, W] of a picture [H, W, 3]."""
        if not logits:
            return []
        return list(images.masks_on(torch.cat(list(logits)), self._segmenter.config, picture))


@dataclass(frozen=True)
class Glance:
    """What a [SEG] embedding shows on one image.

    Attributes:
        mask: bool [1, 1, 4h, 4w].
        visible: it passes the visibility test.
        evidence: that it is the known object, within ±EVIDENCE_LIMIT; 0 for an object that is not known yet.
        unlike: it is visible, but does not look like what was asked for; `visible` is False then.
    """

    mask: Tensor
    visible: bool
    evidence: float
    unlike: bool = False


class EmbeddingProbe:
    """Decode [SEG] embeddings without memory: where is it now, and is that the object we know?"""

    def __init__(self, vision: Vision, gate: MemoryGate, visibility: VisibilityTest) -> None:
        self._vision, self._gate, self._visibility = vision, gate, visibility

    def look(
        self,
        embedding: Tensor,
        features: ImageFeatures,
        row: int | None = None,
        likeness: Likeness | None = None,
    ) -> Glance:
        """Decode an embedding on an image.

        Args:
            embedding: [C].
            row: of a known object in the gate's tables, whose evidence is wanted.
            likeness: what on the image looks like the object; None = anything may be it.
        """
        decoded = self._vision.decode(embedding, features)
        visible = self._visibility.passes(decoded)
        if visible and likeness is not None and not likeness.fits(decoded.logits[0, 0] > 0):
            return Glance(decoded.logits > 0, False, -EVIDENCE_LIMIT, unlike=True)
        evidence = 0.0
        if row is not None:
            raw = self._gate.evidence_for(row, features, decoded) if visible else -EVIDENCE_LIMIT
            evidence = clip_evidence(raw)
        return Glance(decoded.logits > 0, visible, evidence)


def overlap(one: Tensor, other: Tensor) -> float:
    """Return the intersection over union of two bool masks of one shape; 0 if both are empty."""
    return float((one & other).sum()) / max(float((one | other).sum()), 1.0)
