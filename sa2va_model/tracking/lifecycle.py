# SPDX-License-Identifier: Apache-2.0
"""When a track counts as tracked, occluded or lost: pure logic on what each frame showed.

tracking ──unseen for `occluded_after`──► occluded ──unseen for `lost_after`──► lost
    ▲                                        │                                   │
    └──────────── seen again ◄───────────────┴── confirmed again ◄───────────────┘
"""

from __future__ import annotations

from dataclasses import dataclass

from sa2va_model.errors import InputError
from sa2va_model.tracks import EventKind, TrackState


@dataclass(frozen=True)
class LifecycleConfig:
    """Thresholds; times in seconds of the frames' stamps.

    Attributes:
        occluded_after: frames without a trustworthy mask before a track is called occluded; more ignores flicker.
        lost_after: seconds without one before it is called lost.
        min_quality: predicted IoU below which a mask is never shown, whatever else speaks for it.
        min_area: fraction of the image below which a mask is not shown.
    """

    occluded_after: int = 2
    lost_after: float = 1.0
    min_quality: float = 0.1
    min_area: float = 1e-4

    def __post_init__(self) -> None:
        if self.occluded_after < 1:
            raise InputError(f"occluded_after is {self.occluded_after}; expected 1 frame or more")
        if self.lost_after < 0:
            raise InputError(f"lost_after is {self.lost_after} s; expected 0 or more")


class Lifecycle:
    """The state of one track after it was found."""

    def __init__(self, config: LifecycleConfig, stamp: float) -> None:
        self._config = config
        self._unseen_frames = 0
        self.state = TrackState.TRACKING
        self.last_seen = stamp

    def reconfigure(self, config: LifecycleConfig) -> None:
        """Other thresholds from now on."""
        self._config = config

    def update(
        self, stamp: float, *, seen: bool, confirmed: bool = True
    ) -> tuple[EventKind, str] | None:
        """One frame.

        Args:
            stamp: seconds.
            seen: the frame shows a trustworthy mask.
            confirmed: it is this object for sure. A lost track comes back only then; a mask from
                memory alone may well be another object.

        Returns:
            What happened and why, if anything.
        """
        if seen and (confirmed or self.state != TrackState.LOST):
            return self._seen(stamp)
        self._unseen_frames += 1
        away = stamp - self.last_seen
        if self.state == TrackState.TRACKING and self._unseen_frames >= self._config.occluded_after:
            self.state = TrackState.OCCLUDED
            return EventKind.OCCLUDED, f"not seen for {self._unseen_frames} frames"
        if self.state == TrackState.OCCLUDED and away >= self._config.lost_after:
            self.state = TrackState.LOST
            return EventKind.LOST, f"not seen for {away:.1f} s"
        return None

    def _seen(self, stamp: float) -> tuple[EventKind, str] | None:
        away, before = stamp - self.last_seen, self.state
        self._unseen_frames, self.last_seen, self.state = 0, stamp, TrackState.TRACKING
        if before == TrackState.TRACKING:
            return None
        return EventKind.REACQUIRED, f"seen again after {away:.1f} s"
