# SPDX-License-Identifier: Apache-2.0
"""What should have been told of a clip, and what was: LOST, REACQUIRED, and how soon a returning object is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

GONE = 0.05  # share of itself below which an object cannot be seen
BACK = 0.35  # from which on it should be
RIGHT = 0.3  # IoU from which on a mask is on the object
SOON = 1.0  # seconds within which a returning object should be found
MARGIN = 0.5  # seconds beyond `lost_after` that a gap must last for LOST to be due


@dataclass(frozen=True)
class Told:
    """What a tracker said of one clip.

    Attributes:
        shown: per frame whether a mask was published; right: whether it was on the target.
        events: (frame, kind) with kind LOST, REACQUIRED, OCCLUDED, REGROUNDED …
    """

    shown: Sequence[bool]
    right: Sequence[bool]
    events: Sequence[tuple[int, str]]


@dataclass
class EventTally:
    """Counts over clips; rates are NaN without a case."""

    returns: list[bool] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    losses_due: list[bool] = field(default_factory=list)
    losses_told: list[bool] = field(default_factory=list)
    regains_told: list[bool] = field(default_factory=list)
    visible_shown: list[bool] = field(default_factory=list)
    shown_right: list[bool] = field(default_factory=list)
    gone_hidden: list[bool] = field(default_factory=list)

    def add(self, visible: np.ndarray, told: Told, *, rate: float, lost_after: float) -> None:
        """One clip.

        Args:
            visible: float [T], share of itself that the target shows, from the first mask on.
            rate: frames per second.
        """
        gone = visible < GONE
        for begin, end in runs(gone):
            seconds = (end - begin) / rate
            if seconds >= lost_after + MARGIN:
                lost = any(kind == "LOST" and begin <= t < end for t, kind in told.events)
                self.losses_due.append(lost)
            if begin > 0 and end - begin >= 3:
                self._returned(visible, told, end, rate)
        soon = round(MARGIN * rate)
        for t, kind in told.events:
            if kind == "LOST":
                self.losses_told.append(bool(gone[max(0, t - soon) : t + 1].any()))
            elif kind == "REACQUIRED":
                self.regains_told.append(bool(told.right[t]))
        for t in range(1, len(visible)):
            if visible[t] >= BACK:
                self.visible_shown.append(bool(told.shown[t]))
            if gone[t]:
                self.gone_hidden.append(not told.shown[t])
            if told.shown[t]:
                self.shown_right.append(bool(told.right[t]))

    def _returned(self, visible: np.ndarray, told: Told, end: int, rate: float) -> None:
        back = next((t for t in range(end, len(visible)) if visible[t] >= BACK), None)
        if back is None:
            return
        found = next((t for t in range(end, len(visible)) if told.right[t]), None)
        last = back + round(SOON * rate)
        if found is None and last >= len(visible):
            return  # the clip ended before its time was up
        self.returns.append(found is not None and found <= last)
        if found is not None:
            self.delays.append(max(0.0, (found - back) / rate))

    def figures(self) -> dict[str, float]:
        """Rates and counts."""
        wrong = [not right for right in self.regains_told]
        return {
            "returning found within 1 s": mean(self.returns),
            "returns": len(self.returns),
            "median delay s": float(np.median(self.delays)) if self.delays else float("nan"),
            "false REACQUIRED": mean(wrong),
            "REACQUIRED told": len(self.regains_told),
            "LOST recall": mean(self.losses_due),
            "LOST due": len(self.losses_due),
            "LOST precision": mean(self.losses_told),
            "LOST told": len(self.losses_told),
            "visible and shown": mean(self.visible_shown),
            "shown and right": mean(self.shown_right),
            "gone and hidden": mean(self.gone_hidden),
        }


def mean(values: Sequence[bool]) -> float:
    """Share of true values; NaN without any."""
    return float(np.mean(values)) if len(values) else float("nan")


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end (exclusive) of each run of true values."""
    padded = np.concatenate([[False], flags, [False]]).astype(int)
    steps = np.diff(padded)
    return list(zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True))
