# SPDX-License-Identifier: Apache-2.0
"""The last frames of a stream, each with SAM-2's features from the moment they are needed on.

A frame keeps its companion (`Frame.companion`) here for as long as a late answer may be replayed on it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.segmentation.types import ImageFeatures


class RingFrame:
    """One frame, and its image features from the moment they are needed on.

    Attributes:
        seconds: that encoding took; 0 before.
    """

    def __init__(self, frame: Frame, encode: Callable[[np.ndarray], ImageFeatures]) -> None:
        self.frame = frame
        self.encode = encode
        self.seconds = 0.0

    @cached_property
    def features(self) -> ImageFeatures:
        """Encode the image, at most once. A stream that nobody asks about costs nothing."""
        start = time.perf_counter()
        features = self.encode(self.frame.rgb)
        self.seconds = time.perf_counter() - start
        return features

    @cached_property
    def fault(self) -> str:
        """Why the frame cannot be used, "" if it can: the model failed on it, or its features are not finite."""
        try:
            finite = bool(torch.isfinite(self.features.top).all())
        except Exception as error:  # noqa: BLE001  whatever a model throws, the stream goes on
            return f"{type(error).__name__}: {error}"
        return "" if finite else "the image features are not finite numbers"


class FrameRing:
    """A fixed number of the newest frames.

    Args:
        capacity: frames kept; a grounding that takes longer than so many frames is not replayed.
        encode: image features of a uint8 [H, W, 3] image.
    """

    def __init__(self, capacity: int, encode: Callable[[np.ndarray], ImageFeatures]) -> None:
        if capacity < 1:
            raise InputError(f"ring capacity is {capacity}; expected 1 frame or more")
        self._frames: deque[RingFrame] = deque(maxlen=capacity)
        self._encode = encode

    def __len__(self) -> int:
        return len(self._frames)

    def wrap(self, frame: Frame | RingFrame) -> RingFrame:
        """Make a frame one of this ring's; what another encoder made of it is left behind."""
        if isinstance(frame, RingFrame) and frame.encode == self._encode:
            return frame
        return RingFrame(frame.frame if isinstance(frame, RingFrame) else frame, self._encode)

    def append(self, frame: Frame | RingFrame) -> RingFrame:
        """Add the newest frame; the oldest goes when the ring is full."""
        self._frames.append(self.wrap(frame))
        return self._frames[-1]

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()

    def newest(self) -> RingFrame | None:
        """Return the newest frame."""
        return self._frames[-1] if self._frames else None

    def at(self, index: int) -> RingFrame | None:
        """Return the frame of that index, if it is still there."""
        return next((item for item in self._frames if item.frame.index == index), None)

    def latest(self, count: int) -> list[RingFrame]:
        """Return the newest `count` frames (fewer if there are fewer), oldest first: the keyframes of a question."""
        return list(self._frames)[-count:]

    def since(self, index: int) -> list[RingFrame] | None:
        """Return the frames from `index` on, oldest first; None if that frame has left the ring."""
        kept = [item for item in self._frames if item.frame.index >= index]
        return kept if kept and kept[0].frame.index == index else None
