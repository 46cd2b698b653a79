# SPDX-License-Identifier: Apache-2.0
"""When a found track counts as tracked, occluded or lost: pure logic on what each frame and each answer says.

A frame shows the object if its mask is visible (`visibility_test.py`) and the log-odds of the existence filter reach
the threshold of the present state: `hide` while tracked, `show` while occluded, `regain` while lost.

tracked ──not shown on `occluded_after` frames──► occluded ──not shown for `lost_after` seconds──► lost
   ▲                                                 │                                              │
   └──────────────────── shown ──────────────────────┴──────────────────── shown ───────────────────┘
"""

from __future__ import annotations

from dataclasses import dataclass

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.tracking.config import LifecycleConfig
from sa2va_model.tracking.judgement.existence_filter import ExistenceFilter
from sa2va_model.tracks import EventKind, TrackState


@dataclass(frozen=True)
class Transition:
    """A change of state: what to tell, and why, in words for people."""

    kind: EventKind
    detail: str


class Lifecycle:
    """The state of one track from the moment it is found.

    Args:
        calibration: thresholds and the filter's parameters.
        stamp: seconds, of the frame at hand.

    Attributes:
        state: TRACKING, OCCLUDED or LOST.
        existence: whether the object is in view.
        shown: whether the last frame showed it; `last_seen`: stamp of the last frame that did.
    """

    def __init__(self, config: LifecycleConfig, calibration: Calibration, stamp: float) -> None:
        self._config = config
        self._thresholds = {
            TrackState.TRACKING: calibration.hide,
            TrackState.OCCLUDED: calibration.show,
            TrackState.LOST: calibration.regain,
        }
        self.existence = ExistenceFilter(calibration.start, calibration.weight, calibration.floor)
        self.state = TrackState.TRACKING
        self.shown, self.last_seen = True, stamp
        self._unseen_frames = 0

    def reconfigure(self, config: LifecycleConfig) -> None:
        """Use other limits from now on."""
        self._config = config

    @property
    def likely(self) -> bool:
        """Whether the log-odds reach the threshold of the present state."""
        return self.existence.log_odds >= self._thresholds[self.state]

    def update(self, stamp: float, *, visible: bool) -> Transition | None:
        """Take one frame, after its evidence went to `existence`; return the change of state, if any.

        Args:
            stamp: seconds.
            visible: there is a mask that may be shown; whether it is, the log-odds decide.
        """
        self.shown = visible and self.likely
        away = stamp - self.last_seen
        if self.shown:
            return self._seen(stamp, away)
        self._unseen_frames += 1
        if self.state == TrackState.TRACKING and self._unseen_frames >= self._config.occluded_after:
            self.state = TrackState.OCCLUDED
            return Transition(EventKind.OCCLUDED, f"not seen for {self._unseen_frames} frames")
        if self.state == TrackState.OCCLUDED and away >= self._config.lost_after:
            self.state = TrackState.LOST
            return Transition(EventKind.LOST, f"not seen for {away:.1f} s")
        return None

    def _seen(self, stamp: float, away: float) -> Transition | None:
        before, self.state = self.state, TrackState.TRACKING
        self._unseen_frames, self.last_seen = 0, stamp
        if before == TrackState.TRACKING:
            return None
        return Transition(EventKind.REACQUIRED, f"seen again after {away:.1f} s")
