# SPDX-License-Identifier: Apache-2.0
"""Fits a `Calibration` to recorded evidence: weights by logistic regression, thresholds by replaying the live logic.

No gradients through the model; everything here works on a few thousand rows of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from events import GONE, RIGHT, EventTally, Told
from scipy.optimize import minimize

from sa2va_model.checkpoints.calibration import Calibration, EvidenceWeights
from sa2va_model.tracking.config import LifecycleConfig, VisibilityConfig
from sa2va_model.tracking.judgement.evidence import AREA_LIMIT, SCORE_LIMIT, clip_evidence
from sa2va_model.tracking.judgement.lifecycle import Lifecycle
from sa2va_model.tracking.language_updates import LOOK_WEIGHT
from sa2va_model.tracks import TrackState

WRONG = 0.1  # IoU below which a mask is elsewhere
RATE = 10.0
_DOUBTS = (-0.5, 0.0, 0.5, 1.0)  # taken off the biases
VERIFY, EVERY = 10, 2  # frames between two questions, and between two looks for a lost object


@dataclass(frozen=True)
class Limits:
    """What the live tracker's defaults say about showing and losing."""

    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    visibility: VisibilityConfig = field(default_factory=VisibilityConfig)


@dataclass(frozen=True)
class MaskEvidence:
    """Of one mask.

    Attributes:
        score: SAM-2's object score (logit); quality: predicted IoU; look: cosine; change: |log area ratio|.
        iou: with the truth; filled: the mask is not empty.
    """

    score: float
    quality: float
    look: float
    change: float
    iou: float
    filled: bool

    def row(self) -> list[float]:
        """For the regression."""
        score = max(-SCORE_LIMIT, min(SCORE_LIMIT, self.score))
        return [score, self.quality, self.look, min(self.change, AREA_LIMIT)]

    def evidence(self, weights: EvidenceWeights, *, scored: bool) -> float:
        """As `evidence.weigh` does."""
        if not self.filled:
            return -math.inf
        score, quality, look, change = self.row()
        total = (
            weights.bias + weights.quality * quality + weights.look * look + weights.area * change
        )
        return total + (weights.object_score * score if scored else 0.0)


@dataclass(frozen=True)
class Moment:
    """One frame of one clip.

    Attributes:
        agreement: IoU of both masks.
        words: what the language model says of this frame; None = it was not asked.
        said: evidence of the mask it points at.
    """

    visible: float
    memory: MaskEvidence
    spoken: MaskEvidence
    agreement: float
    words: bool | None = None
    said: MaskEvidence | None = None


def fit_weights(
    masks: Sequence[tuple[MaskEvidence, float]], *, scored: bool
) -> tuple[EvidenceWeights, float]:
    """Logistic regression on masks that are right or wrong, both kinds with equal weight.

    Args:
        masks: with the visible share of the target.

    Returns:
        The weights, and their area under the ROC curve on the same rows.
    """
    rows = [
        (one.row(), one.iou >= RIGHT)
        for one, visible in masks
        if one.filled and (one.iou >= RIGHT or visible < GONE or one.iou < WRONG)
    ]
    x, y = np.array([r for r, _ in rows]), np.array([right for _, right in rows])
    if not scored:
        x[:, 0] = 0.0
    centre, spread = x.mean(0), x.std(0) + 1e-6
    z = np.c_[(x - centre) / spread, np.ones(len(x))]
    weight = np.where(y, 0.5 / max(y.mean(), 1e-6), 0.5 / max(1 - y.mean(), 1e-6))
    sign = np.where(y, 1.0, -1.0)

    def loss(b: np.ndarray) -> float:
        return float(
            (weight * np.logaddexp(0, -sign * (z @ b))).mean() + 3e-3 * (b[:-1] ** 2).sum()
        )

    # A sign may not count against what it stands for: object score, quality, look up; change of area down.
    bounds = [(0, None), (0, None), (0, None), (None, 0), (None, None)]
    b = minimize(loss, np.zeros(5), bounds=bounds).x
    w = b[:4] / spread
    bias = float(b[4] - (w * centre).sum())
    values = [round(float(v), 4) for v in (*w, bias)]
    return EvidenceWeights(values[0], values[1], values[2], values[3], values[4]), _auc(z @ b, y)


def _auc(value: np.ndarray, right: np.ndarray) -> float:
    order = value.argsort().argsort() + 1
    n, m = right.sum(), (~right).sum()
    return float((order[right].sum() - n * (n + 1) / 2) / max(n * m, 1))


def fit_preference(clips: Sequence[Sequence[Moment]]) -> tuple[float, float]:
    """The margin and the overlap from which the embedding's mask is taken, by the mean IoU they give."""
    seen = [m for clip in clips for m in clip if m.visible >= 0.2]
    best = (-1.0, 0.1, 0.1)
    for margin in (-0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 9.0):
        for overlap in (0.0, 0.1, 0.3, 0.5):
            value = float(np.mean([taken(m, margin, overlap)[0].iou for m in seen]))
            if value > best[0] + 1e-4:
                best = (value, margin, overlap)
    return best[1], best[2]


def taken(moment: Moment, margin: float, overlap: float) -> tuple[MaskEvidence, bool]:
    """The mask that the tracker takes, and whether it is the embedding's."""
    gain = moment.spoken.quality - moment.memory.quality
    near = moment.agreement >= overlap or not moment.memory.filled
    spoken = gain > margin and near and moment.spoken.filled
    return (moment.spoken if spoken else moment.memory), spoken


def fit_words(clips: Sequence[Sequence[Moment]]) -> tuple[float, float, dict[str, Any]]:
    """Log-likelihood ratios of a yes and a no."""
    asked = [m for clip in clips for m in clip if m.words is not None]
    here = [bool(m.words) for m in asked if m.visible >= 0.5]
    gone = [bool(m.words) for m in asked if m.visible < GONE]
    yes_here = (sum(here) + 1) / (len(here) + 2)
    yes_gone = (sum(gone) + 1) / (len(gone) + 2)
    found = {
        "yes when in view": yes_here,
        "yes when gone": yes_gone,
        "asked": len(here) + len(gone),
    }
    yes = math.log(yes_here / yes_gone)
    no = math.log((1 - yes_here) / (1 - yes_gone))
    return round(yes, 3), round(no, 3), found


def replay(clip: Sequence[Moment], values: Calibration, limits: Limits, *, scored: bool) -> Told:
    """What the live tracker would say of a recorded clip (the same rules, without images)."""
    life = Lifecycle(limits.lifecycle, values, 0.0)
    shown, right, events = [], [], []
    for t, moment in enumerate(clip):
        mask, spoken = taken(moment, values.prefer_margin, values.prefer_overlap)
        lost = life.state == TrackState.LOST
        if lost:
            mask, spoken = moment.spoken, True
        evidence = mask.evidence(values.spoken if spoken else values.memory, scored=scored)
        if not lost:
            life.existence.observe(evidence, 1 / RATE)
        elif t % EVERY == 0:
            life.existence.observe(evidence, EVERY / RATE, EVERY)
        if t and t % VERIFY == 0 and moment.words is not None:
            _answer(life, moment, values, scored)
        visible = mask.filled and mask.quality >= limits.visibility.min_quality
        change = life.update(t / RATE, visible=visible or t == 0)
        shown.append(life.shown)
        right.append(life.shown and mask.iou >= RIGHT)
        if change is not None:
            events.append((t, change.kind.name))
    return Told(shown, right, events)


def _answer(life: Lifecycle, moment: Moment, values: Calibration, scored: bool) -> None:
    existence = life.existence
    if not moment.words or moment.said is None or not moment.said.filled:
        existence.update(values.denied)
        return
    if life.state == TrackState.TRACKING:
        existence.update(values.confirmed)
        return
    evidence = clip_evidence(moment.said.evidence(values.spoken, scored=scored))
    existence.log_odds = max(existence.log_odds, 0.0)
    existence.update(values.confirmed + LOOK_WEIGHT * evidence)


def fit_thresholds(
    clips: Sequence[Sequence[Moment]], values: Calibration, *, scored: bool, tries: int = 1500
) -> tuple[Calibration, dict[str, float]]:
    """Weight, thresholds and how much doubt is due, by random search over `replay`; the seed is fixed.

    The regression weighs right and wrong masks alike. How many of each there are, and what either mistake costs, is
    what moves its biases here.
    """
    rng = np.random.default_rng(0)
    limits, best = Limits(), (math.inf, values, {})
    for number in range(tries):
        tried = values
        if number:
            tried = replace(
                values,
                memory=_doubting(values.memory, rng),
                spoken=_doubting(values.spoken, rng),
                weight=float(rng.choice((0.1, 0.15, 0.2, 0.3, 0.4, 0.6))),
                floor=float(rng.choice((-1.0, -1.5, -2.0, -3.0, -4.0))),
                hide=float(rng.choice((-1.0, -0.5, 0.0, 0.5, 1.0))),
                show=float(rng.choice((0.0, 0.5, 1.0, 1.5, 2.0))),
                regain=float(rng.choice((0.5, 1.0, 1.5, 2.0, 3.0, 4.0))),
            )
            if tried.show < tried.hide or tried.regain < tried.show:
                continue
        figures = tally(clips, tried, limits, scored=scored)
        price = cost(figures)
        if price < best[0]:
            best = (price, tried, figures)
    return best[1], best[2]


def _doubting(weights: EvidenceWeights, rng: np.random.Generator) -> EvidenceWeights:
    return replace(weights, bias=round(weights.bias - float(rng.choice(_DOUBTS)), 4))


def tally(
    clips: Sequence[Sequence[Moment]],
    values: Calibration,
    limits: Limits,
    *,
    scored: bool,
) -> dict[str, float]:
    """The figures of all recorded clips."""
    total = EventTally()
    for clip in clips:
        visible = np.array([m.visible for m in clip])
        told = replay(clip, values, limits, scored=scored)
        total.add(visible, told, rate=RATE, lost_after=limits.lifecycle.lost_after)
    return total.figures()


def cost(figures: dict[str, float]) -> float:
    """What the thresholds should make small: objects not found again and wrong ones taken for them, above all.

    A mask where the object is not weighs more than none where it is: whoever sees one acts on it.
    """

    def lack(name: str) -> float:
        value = figures[name]
        return 0.0 if math.isnan(value) else 1.0 - value

    wrong = figures["false REACQUIRED"]
    wrong = 0.0 if math.isnan(wrong) else wrong
    return (
        lack("returning found within 1 s")
        + wrong
        + 5.0 * max(0.0, wrong - 0.04)
        + 0.5 * (lack("LOST recall") + lack("LOST precision"))
        + lack("visible and shown")
        + lack("shown and right")
        + 1.3 * lack("gone and hidden")
    )
