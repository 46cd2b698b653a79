# SPDX-License-Identifier: Apache-2.0
"""cIoU and gIoU of referring image segmentation, as LISA's and Sa2VA's evaluation define them.

Every sentence is a sample. cIoU is the sum of all intersections over the sum of all unions, so large objects count
more; gIoU is the mean of the IoUs. A sentence that means nothing counts 1 in gIoU if nothing was marked, else 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """One sentence: pixels in both masks, and in either."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """As it enters gIoU."""
        return self.intersection / (self.union + 1e-5) if self.union else 1.0


def overlap(prediction: np.ndarray, truth: np.ndarray) -> Overlap:
    """Counts of one sentence.

    Args:
        prediction: bool [..., H, W]; several predicted masks are joined before.
        truth: bool, of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction is {prediction.shape}, truth is {truth.shape}, expected equal"
        )
    prediction, truth = prediction.astype(bool), truth.astype(bool)
    return Overlap(
        int(np.count_nonzero(prediction & truth)), int(np.count_nonzero(prediction | truth))
    )


def ciou(overlaps: Sequence[Overlap]) -> float:
    """Sum of intersections over sum of unions; nan without samples."""
    if not overlaps:
        return math.nan
    return sum(o.intersection for o in overlaps) / (sum(o.union for o in overlaps) + 1e-10)


def giou(overlaps: Sequence[Overlap]) -> float:
    """Mean IoU; nan without samples."""
    return float(np.mean([o.iou for o in overlaps])) if overlaps else math.nan
