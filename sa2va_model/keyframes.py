# SPDX-License-Identifier: Apache-2.0
"""The last frames with their image features: keyframes for the language model, and the replay of late answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cached_property

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.grounding import ImageFeatures
from sa2va_model.sources import Frame


class Remembered:
    """One frame, and SAM-2's features of it from the moment they are needed on."""

    def __init__(self, frame: Frame, encode: Callable[[np.ndarray], ImageFeatures]) -> None:
        self.frame = frame
        self._encode = encode

    @cached_property
    def features(self) -> ImageFeatures:
        """Computed at most once. A stream that nobody asked anything of costs nothing."""
        return self._encode(self.frame.rgb)


class FrameRing:
    """A fixed number of the newest frames.

    Args:
        capacity: frames kept; a grounding that takes longer than so many frames is not replayed.
        encode: image features of a uint8 [H, W, 3] image.
    """

    def __init__(self, capacity: int, encode: Callable[[np.ndarray], ImageFeatures]) -> None:
        if capacity < 1:
            raise InputError(f"ring capacity is {capacity}; expected 1 frame or more")
        self._frames: deque[Remembered] = deque(maxlen=capacity)
        self._encode = encode

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, frame: Frame) -> Remembered:
        """Takes the newest frame; the oldest goes when the ring is full."""
        self._frames.append(Remembered(frame, self._encode))
        return self._frames[-1]

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
