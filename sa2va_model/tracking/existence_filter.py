# SPDX-License-Identifier: Apache-2.0
"""Whether an object is in view, as odds that every frame and every answer of the language model moves.

A two-state Bayes filter: between frames the object may leave or come, each frame's evidence and each answer adds its
log-likelihood ratio. One sign alone decides nothing: a denial by words is outweighed by a mask that looks right, and
a mask that looks right is doubted when the words deny it again and again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAVES, COMES = 0.1, 0.1  # per second; they bound the belief, so that it stays able to change
_LIMIT = 12.0  # log odds beyond this are all the same
_EVIDENCE = 4.0  # of a single frame, whatever the scores say


@dataclass
class ExistenceFilter:
    """Log odds that the object is in view and the mask on it.

    Attributes:
        odds: natural logarithm; positive = more likely in view.
        weight: of a single frame's evidence.
        floor: the lowest odds.
    """

    odds: float
    weight: float
    floor: float = -_LIMIT

    def frame(self, evidence: float, seconds: float, frames: int = 1) -> None:
        """One frame.

        Args:
            evidence: log-likelihood ratio of its mask; negative infinity = there is none; NaN = nothing is known.
            seconds: since the last one.
            frames: it stands for so many.
        """
        self._forget(seconds)
        if not math.isnan(evidence):
            self.told(self.weight * frames * max(-_EVIDENCE, min(_EVIDENCE, evidence)))

    def told(self, ratio: float) -> None:
        """An answer of the language model, as its log-likelihood ratio."""
        self.odds = max(self.floor, min(_LIMIT, self.odds + ratio))

    def _forget(self, seconds: float) -> None:
        """The object may have left or come meanwhile."""
        seen = 1.0 / (1.0 + math.exp(-max(-_LIMIT, min(_LIMIT, self.odds))))
        mixed = 1.0 - math.exp(-(LEAVES + COMES) * max(seconds, 0.0))
        seen += mixed * (COMES / (LEAVES + COMES) - seen)
        seen = min(max(seen, 1e-6), 1.0 - 1e-6)
        self.odds = max(self.floor, math.log(seen / (1.0 - seen)))
