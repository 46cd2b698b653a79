# SPDX-License-Identifier: Apache-2.0
"""Existence filter: the log-odds that an object is in view, moved by every frame and every answer.

A two-state Bayes filter: between frames the object may leave or come, each frame's evidence and each answer of the
language model adds its log-likelihood ratio. Nothing decides alone: a denial by words is outweighed by a mask that
looks right, and a mask that looks right is doubted when the words deny it again and again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sa2va_model.tracking.judgement.evidence import clip_evidence

LEAVES, COMES = 0.1, 0.1  # per second; they bound the log-odds, so that these stay able to change
_LIMIT = 12.0  # log-odds beyond this are all the same


@dataclass
class ExistenceFilter:
    """Log-odds that the object is in view and the mask on it.

    Attributes:
        log_odds: natural logarithm; positive = more likely in view.
        weight: of a single frame's evidence.
        floor: the lowest log-odds.
    """

    log_odds: float
    weight: float
    floor: float = -_LIMIT

    def observe(self, evidence: float, seconds: float, frames: int = 1) -> None:
        """Predict over the time since the last frame, then update with this one's evidence.

        Args:
            evidence: log-likelihood ratio of its mask; negative infinity = there is none; NaN = nothing is known.
            seconds: since the last one.
            frames: it stands for so many.
        """
        self._predict(seconds)
        if not math.isnan(evidence):
            self.update(self.weight * frames * clip_evidence(evidence))

    def update(self, ratio: float) -> None:
        """Add a log-likelihood ratio, such as that of an answer of the language model."""
        self.log_odds = max(self.floor, min(_LIMIT, self.log_odds + ratio))

    def _predict(self, seconds: float) -> None:
        """The object may have left or come meanwhile."""
        seen = 1.0 / (1.0 + math.exp(-max(-_LIMIT, min(_LIMIT, self.log_odds))))
        mixed = 1.0 - math.exp(-(LEAVES + COMES) * max(seconds, 0.0))
        seen += mixed * (COMES / (LEAVES + COMES) - seen)
        seen = min(max(seen, 1e-6), 1.0 - 1e-6)
        self.log_odds = max(self.floor, math.log(seen / (1.0 - seen)))
