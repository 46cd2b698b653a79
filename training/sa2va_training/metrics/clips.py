# SPDX-License-Identifier: Apache-2.0
"""Referring video segmentation: one expression on all frames of a clip, and what the benchmarks make of it.

MeViS (`tools/eval_mevis.py`): J and F are means over frames, then over expressions. ReVOS (`tools/eval_revos.py`) adds
pixel accuracy and robustness. Ref-DAVIS17's own protocol matches predicted objects to true ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from sa2va_training.metrics.jf import JF, boundary_accuracy, frame_jf, region_similarity

VOID = 255
BACKGROUND = 0.1  # probability of the background in Ref-DAVIS17's merging of objects


@dataclass(frozen=True)
class ClipScore:
    """One expression, means over the scored frames, each 0..1.

    Attributes:
        accuracy: share of pixels that are right.
        robustness: 1 = nothing marked outside the target; None without foreground masks.
    """

    j: float
    f: float
    accuracy: float
    robustness: float | None = None

    @property
    def j_and_f(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2


def clip_score(
    prediction: np.ndarray, truth: np.ndarray, foreground: np.ndarray | None = None
) -> ClipScore:
    """Score one expression.

    Args:
        prediction: bool [T, H, W].
        truth: bool [T, H, W].
        foreground: bool [T, H, W], everything ever referred to in the clip (ReVOS), None elsewhere.

    Raises:
        ValueError: no frame, or different shapes.
    """
    if not len(truth) or prediction.shape != truth.shape:
        raise ValueError(f"prediction is {prediction.shape}, truth is {truth.shape}")
    scores = [frame_jf(p, t) for p, t in zip(prediction, truth, strict=True)]
    right = np.mean(prediction.astype(bool) == truth.astype(bool))
    robust = None
    if foreground is not None:
        robust = float(
            np.mean(
                [robustness(p, t, g) for p, t, g in zip(prediction, truth, foreground, strict=True)]
            )
        )
    return ClipScore(
        float(np.mean([s.j for s in scores])),
        float(np.mean([s.f for s in scores])),
        float(right),
        robust,
    )


def robustness(prediction: np.ndarray, truth: np.ndarray, foreground: np.ndarray) -> float:
    """R of ReVOS for one frame: 1 - pixels marked outside the target / pixels of all that is ever referred to, >= 0.

    The published script adds the instances' masks as uint8; where two overlap, 1 - 2 wraps around to 255 and R
    collapses. Here the truth is their union, so that figures differ from the script's on such frames, on purpose.
    """
    outside = np.count_nonzero(prediction.astype(bool) & ~truth.astype(bool))
    return max(1.0 - outside / (np.count_nonzero(foreground) + 1e-6), 0.0)


@dataclass(frozen=True)
class Statistics:
    """DAVIS's summary of one measure over a sequence.

    Attributes:
        mean: over frames.
        recall: share of frames above 0.5.
        decay: mean of the first quarter less that of the last.
    """

    mean: float
    recall: float
    decay: float


def sequence_statistics(values: Sequence[float]) -> Statistics:
    """Mean, recall and decay of the frames' values, as `db_statistics` computes them."""
    found = np.asarray(values, float)
    bounds = (np.round(np.linspace(1, len(found), 5) + 1e-10) - 1).astype(int)
    first, last = found[bounds[0] : bounds[1] + 1], found[bounds[3] : bounds[4] + 1]
    return Statistics(
        float(np.nanmean(found)),
        float(np.nanmean(found > 0.5)),
        float(np.nanmean(first) - np.nanmean(last)),
    )


def merge_objects(probabilities: np.ndarray, background: float = BACKGROUND) -> np.ndarray:
    """The objects of a clip as one label per pixel: the likeliest, or 0 where none beats the background.

    Args:
        probabilities: [N, T, H, W], 0..1; masks count as 0 and 1, the first of two equals wins.

    Returns:
        int64 [T, H, W], k + 1 = object k.
    """
    every = np.concatenate([np.full_like(probabilities[:1], background, float), probabilities])
    labels: np.ndarray = every.argmax(axis=0)
    return labels


def davis_unsupervised(labels: np.ndarray, truth: np.ndarray) -> list[JF]:
    """Ref-DAVIS17's own protocol on one clip: predicted objects are matched to true ones, then scored.

    Args:
        labels: int [T, H, W], 0 = background, as `merge_objects` gives.
        truth: int [T, H, W], 0 = background, 255 = does not count.

    Returns:
        J and F of each true object, in the order of its label.
    """
    true_ids = [int(i) for i in np.unique(truth) if i not in (0, VOID)]
    ids = [int(i) for i in np.unique(labels) if i != 0]
    predicted = [labels == i for i in ids]
    predicted += [np.zeros(labels.shape, bool)] * max(0, len(true_ids) - len(ids))
    void = truth == VOID
    scores = np.zeros((len(predicted), len(true_ids), 2))
    for p, mask in enumerate(predicted):
        for g, number in enumerate(true_ids):
            frames = list(zip(mask, truth == number, void, strict=True))
            scores[p, g, 0] = np.mean([region_similarity(*frame) for frame in frames])
            scores[p, g, 1] = np.mean([boundary_accuracy(*frame) for frame in frames])
    rows, columns = linear_sum_assignment(-scores.mean(axis=2))
    matched = sorted(zip(columns, rows, strict=True))
    return [JF(float(scores[p, g, 0]), float(scores[p, g, 1])) for g, p in matched]
