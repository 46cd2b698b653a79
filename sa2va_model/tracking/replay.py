# SPDX-License-Identifier: Apache-2.0
"""Brings an object that was found on an older frame to the newest one, from features that are already there.

The replay ends before the newest frame, on which all objects are stepped together: the first published mask belongs to
the newest frame. Its length is bounded: a long backlog is gone through in larger steps.
"""

from __future__ import annotations

import math
import time

from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import Prompt
from sa2va_model.tracking.frame_ring import FrameRing, RingFrame
from sa2va_model.tracking.grounding_worker import GroundingQuestion

_FIRST_GUESS = 0.02  # seconds a replayed frame takes, until it was measured


class Replay:
    """Replays frames of a ring.

    Args:
        periods: how many frame periods one replay may take; None = all frames are replayed, however long it takes.
        seconds: first guess of what one replayed frame takes.
    """

    def __init__(
        self,
        tracker: OnlineTracker,
        ring: FrameRing,
        periods: float | None,
        seconds: float = _FIRST_GUESS,
    ) -> None:
        self._tracker, self._ring = tracker, ring
        self.periods = periods
        self._seconds = seconds  # of one replayed frame
        self.skipped = 0

    def keyframe(self, question: GroundingQuestion) -> RingFrame | None:
        """Return the newest keyframe of a question, or the newest frame if that has left the ring or is unusable."""
        item = self._ring.at(question.frame_index)
        return item if item is not None and not item.fault else self._ring.newest()

    def catch_up(
        self, track_id: str, prompt: Prompt, question: GroundingQuestion, newest: int
    ) -> int:
        """Prompt the keyframes of a question and replay the frames between them and the newest.

        Keyframes that have left the ring are left out; without any, the newest frame is prompted.

        Args:
            newest: index of the newest frame, which is left for the common step.

        Returns:
            How many frames were stepped.
        """
        kept = (
            self._ring.since(question.first_index) or self._ring.since(question.frame_index) or []
        )
        kept = [item for item in kept if item.frame.index < newest and not item.fault]
        keyframes = [item for item in kept if item.frame.index <= question.frame_index]
        prompted = len(keyframes) + (question.frame_index >= newest)
        self._tracker.add(track_id, prompt, frames=max(prompted, 1))
        chosen = keyframes + self._affordable(kept[len(keyframes) :])
        begun = time.perf_counter()
        for item in chosen:
            self._tracker.step(item.features, only=[track_id])
        if chosen:
            spent = (time.perf_counter() - begun) / len(chosen)
            self._seconds += 0.3 * (spent - self._seconds)
        return len(chosen)

    def leap(self, track_id: str, prompt: Prompt, item: RingFrame) -> None:
        """Prompt a frame that has left the ring; what came between it and the newest is not seen."""
        self._tracker.add(track_id, prompt)
        self._tracker.step(item.features, only=[track_id])

    def _affordable(self, frames: list[RingFrame]) -> list[RingFrame]:
        """As many of the frames as there is time for, evenly, the last one among them."""
        if self.periods is None or len(frames) < 2:
            return frames
        stamps = [item.frame.stamp for item in frames]
        period = (stamps[-1] - stamps[0]) / (len(frames) - 1)
        most = max(1, int(self.periods * max(period, 0.0) / max(self._seconds, 1e-6)))
        stride = math.ceil(len(frames) / most)
        chosen = frames[::-1][::stride][::-1]
        self.skipped += len(frames) - len(chosen)
        return chosen
