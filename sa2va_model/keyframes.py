# SPDX-License-Identifier: Apache-2.0
"""The last frames with their image features: keyframes for the language model, and the replay of late answers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from sa2va_model.errors import InputError
from sa2va_model.grounding import ImageFeatures
from sa2va_model.sources import Frame


@dataclass(frozen=True)
class Remembered:
    """One frame and SAM-2's features of it."""

    frame: Frame
    features: ImageFeatures


class FrameRing:
    """A fixed number of the newest frames.

    Args:
        capacity: frames kept; a grounding that takes longer than so many frames is not replayed.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise InputError(f"ring capacity is {capacity}; expected 1 frame or more")
        self._frames: deque[Remembered] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, frame: Frame, features: ImageFeatures) -> None:
        """Takes the newest frame; the oldest goes when the ring is full."""
        self._frames.append(Remembered(frame, features))

    def clear(self) -> None:
        """Forgets all frames."""
        self._frames.clear()

    def newest(self) -> Remembered | None:
        """The newest frame."""
        return self._frames[-1] if self._frames else None

    def at(self, index: int) -> Remembered | None:
        """The frame of that index, if it is still there."""
        return next((item for item in self._frames if item.frame.index == index), None)

    def latest(self, count: int) -> list[Remembered]:
        """The newest `count` frames (fewer if there are fewer), oldest first: the keyframes of a question."""
        return list(self._frames)[-count:]

    def since(self, index: int) -> list[Remembered] | None:
        """The frames from `index` on, oldest first; None if that frame has left the ring."""
        kept = [item for item in self._frames if item.frame.index >= index]
        return kept if kept and kept[0].frame.index == index else None
