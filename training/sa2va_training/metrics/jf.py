# SPDX-License-Identifier: Apache-2.0
"""J (region), F (boundary) and their mean, as DAVIS defines them.

The definition is that of `davis2017/metrics.py` of davisvideochallenge/davis2017-evaluation, to the last pixel: the
boundary map, the tolerance of 0.008 image diagonals rounded up, the disk it is dilated with and every empty case.
Works on one frame at a time; `Scores` collects the frames of one sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

TOLERANCE = 0.008


@dataclass(frozen=True)
class JF:
    """J, F and their mean, each 0..1."""

    j: float
    f: float

    @property
    def j_and_f(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2


@dataclass
class Scores:
    """J and F of the frames of one sequence, averaged over frames."""

    j: list[float] = field(default_factory=list)
    f: list[float] = field(default_factory=list)

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> JF:
        """Score one frame (bool [H, W] each) and keep it."""
        score = frame_jf(prediction, truth)
        self.j.append(score.j)
        self.f.append(score.f)
        return score

    def __len__(self) -> int:
        """Number of frames scored."""
        return len(self.j)

    def mean(self) -> JF:
        """Mean over the frames; nan without frames."""
        if not self.j:
            return JF(math.nan, math.nan)
        return JF(float(np.mean(self.j)), float(np.mean(self.f)))


def frame_jf(prediction: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None) -> JF:
    """J and F of one frame.

    Args:
        prediction: [H, W], nonzero = object.
        truth: [H, W], nonzero = object.
        void: [H, W], nonzero = pixels that do not count; None if all do.

    Raises:
        ValueError: the sizes differ.
    """
    return JF(
        region_similarity(prediction, truth, void), boundary_accuracy(prediction, truth, void)
    )


def region_similarity(
    prediction: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None
) -> float:
    """J: intersection over union; 1 if both are empty. Arguments as in `frame_jf`."""
    prediction, truth = _masks(prediction, truth, void)
    union = np.count_nonzero(prediction | truth)
    return float(np.count_nonzero(prediction & truth) / union) if union else 1.0


def boundary_accuracy(
    prediction: np.ndarray,
    truth: np.ndarray,
    void: np.ndarray | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> float:
    """F: harmonic mean of the precision and recall of the boundary pixels.

    Args:
        prediction: [H, W], nonzero = object.
        truth: [H, W], nonzero = object.
        void: [H, W], nonzero = pixels that do not count; None if all do.
        tolerance: pixels if at least 1, else a fraction of the image diagonal.
    """
    prediction, truth = _masks(prediction, truth, void)
    predicted, true = boundary(prediction), boundary(truth)
    n_predicted, n_true = np.count_nonzero(predicted), np.count_nonzero(true)
    if not n_predicted or not n_true:
        return 1.0 if n_predicted == n_true else 0.0
    radius = boundary_pixels(truth.shape, tolerance)
    precision = np.count_nonzero(predicted & _near(true, predicted, radius)) / n_predicted
    recall = np.count_nonzero(true & _near(predicted, true, radius)) / n_true
    total = precision + recall
    return float(2 * precision * recall / total) if total else 0.0


def boundary_pixels(shape: tuple[int, ...], tolerance: float = TOLERANCE) -> int:
    """The distance in pixels within which boundaries agree, for an image of (H, W, ...)."""
    if tolerance >= 1:
        return math.ceil(tolerance)
    return math.ceil(tolerance * float(np.linalg.norm(shape[:2])))


def boundary(mask: np.ndarray) -> np.ndarray:
    """The one-pixel boundary of a mask: where a pixel differs from its right, lower or lower-right neighbour.

    Args:
        mask: bool [H, W].

    Returns:
        bool [H, W]; the last row compares to the right only, the last column downwards only.
    """
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1, :] |= mask[:-1, :] ^ mask[1:, :]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def disk(radius: int) -> np.ndarray:
    """uint8 [2r+1, 2r+1], 1 where x² + y² <= r² (OpenCV's MORPH_ELLIPSE is another shape)."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    inside: np.ndarray = x * x + y * y <= radius * radius
    return inside.astype(np.uint8)


def _near(edge: np.ndarray, where: np.ndarray, radius: int) -> np.ndarray:
    """Dilate `edge` by a disk, exact wherever `where` is set: only that part of the image is worked on."""
    rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    window = (
        slice(max(rows[0] - radius, 0), rows[-1] + radius + 1),
        slice(max(columns[0] - radius, 0), columns[-1] + radius + 1),
    )
    near = np.zeros(edge.shape, bool)
    near[window] = cv2.dilate(edge[window].astype(np.uint8), disk(radius)).astype(bool)
    return near


def _masks(
    prediction: np.ndarray, truth: np.ndarray, void: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if prediction.shape != truth.shape or prediction.ndim != 2:
        raise ValueError(
            f"prediction is {prediction.shape} and truth is {truth.shape}, expected equal [H, W]"
        )
    keep = np.ones(truth.shape, bool) if void is None else ~void.astype(bool)
    return prediction.astype(bool) & keep, truth.astype(bool) & keep
