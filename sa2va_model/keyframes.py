# SPDX-License-Identifier: Apache-2.0
"""Which frames the language model sees: the choice, and the last frames of a stream with their image features."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.segmentation.types import ImageFeatures

KINDS = ("first", "uniform", "latest", "refine")


@dataclass(frozen=True)
class KeyframeChoice:
    """Which frames of a clip are keyframes.

    Attributes:
        kind: "first" as the official code does; "uniform" from the first to the last, which is better on long clips
            (Sa2VA-i, arXiv 2509.19082); "latest" for a robot; "refine" asks about the newest frame alone, for an
            early answer, and then about `count` of them.
        count: how many (K).
        tokens: visual tokens of each frame, a square number; None = as the model was trained (256 when published).
            Fewer are averages of neighbours: quicker, with less detail. Not for families whose tokens follow from
            the size of the image (Qwen-VL).
    """

    kind: str = "first"
    count: int = 5
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"keyframes is {self.kind!r}; expected one of {', '.join(KINDS)}")
        if self.count < 1:
            raise InputError(f"keyframes.count is {self.count}; expected 1 or more")
        if self.tokens is not None and (
            self.tokens < 1 or round(self.tokens**0.5) ** 2 != self.tokens
        ):
            raise InputError(f"keyframes.tokens is {self.tokens}; expected a square number")

    def indices(self, total: int) -> tuple[int, ...]:
        """Ascending places of the keyframes in a clip of `total` frames; fewer than `count` in a shorter clip."""
        count = min(self.count, total)
        if self.kind == "first":
            return tuple(range(count))
        if self.kind == "latest":
            return tuple(range(total - count, total))
        return tuple(int(i) for i in np.linspace(0, total - 1, count).astype(int))

    def stages(self) -> tuple[KeyframeChoice, ...]:
        """The questions to ask one after the other; the last one decides."""
        if self.kind != "refine":
            return (self,)
        return (replace(self, kind="latest", count=1), replace(self, kind="uniform"))


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

    def choose(self, choice: KeyframeChoice) -> list[Remembered]:
        """The keyframes of a question among the frames that are kept, oldest first."""
        frames = list(self._frames)
        return [frames[i] for i in choice.indices(len(frames))] if frames else []

    def since(self, index: int) -> list[Remembered] | None:
        """The frames from `index` on, oldest first; None if that frame has left the ring."""
        kept = [item for item in self._frames if item.frame.index >= index]
        return kept if kept and kept[0].frame.index == index else None
