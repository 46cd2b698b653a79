# SPDX-License-Identifier: Apache-2.0
"""Brings an object that was found on an older frame to the newest one, from features that are already there.

The replay ends before the newest frame, on which all objects are stepped together: the first published mask belongs to
the newest frame. Its length is bounded: a long backlog is gone through in larger steps.
"""

from __future__ import annotations

import math
import time

import torch

from sa2va_model.keyframes import FrameRing, Remembered
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import ImageFeatures, Prompt
from sa2va_model.tracking.grounding_worker import Question

_FIRST_GUESS = 0.02  # seconds a replayed frame takes, until it was measured


def usable(features: ImageFeatures) -> bool:
    """Whether the image features are numbers."""
    return bool(torch.isfinite(features.top).all())


def healthy(item: Remembered) -> bool:
    """Whether a frame of the ring can be used; its features may have to be computed for that."""
    try:
        return usable(item.features)
    except Exception:  # noqa: BLE001  a frame on which the model failed fails again, and is left out
        return False


class Replay:
    """Replays frames of a ring.

    Args:
        periods: how many frame periods one replay may take; None = all frames are replayed, however long it takes.
    """

    def __init__(self, tracker: OnlineTracker, ring: FrameRing, periods: float | None) -> None:
        self._tracker, self._ring = tracker, ring
        self.periods = periods
        self._seconds = _FIRST_GUESS  # of one replayed frame
        self.skipped = 0

    def catch_up(self, track_id: str, prompt: Prompt, question: Question, newest: int) -> int:
        """Prompts the keyframes of a question and replays the frames between them and the newest.

        Keyframes that have left the ring are left out; without any, the newest frame is prompted.

        Args:
            newest: index of the newest frame, which is left for the common step.

        Returns:
            How many frames were stepped.
        """
        kept = (
            self._ring.since(question.first_index) or self._ring.since(question.frame_index) or []
        )
        kept = [item for item in kept if item.frame.index < newest and healthy(item)]
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

    def _affordable(self, frames: list[Remembered]) -> list[Remembered]:
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
