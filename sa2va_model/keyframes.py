# SPDX-License-Identifier: Apache-2.0
"""Which frames of a clip or a stream the language model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from sa2va_model.errors import InputError

KINDS = ("first", "uniform", "latest", "refine", "mosaic")
MOSAIC = 3
"""Frames of a mosaic to the side."""
MOMENTS = 1 + MOSAIC**2
"""Frames that a frame and the mosaic behind it show."""


@dataclass(frozen=True)
class KeyframeChoice:
    """Which frames of a clip are keyframes.

    Attributes:
        kind: "first" as the official code does; "uniform" from the first to the last, which is better on long clips
            (Sa2VA-i, arXiv 2509.19082); "latest" for a robot; "refine" asks about the newest frame alone, for an
            early answer, and then about `count` of them; "mosaic" shows ten moments, from the first on, as two
            pictures: the first of them, and the other nine as one of 3 x 3 (SaSaSa2VA, arXiv 2509.16972).
        count: how many (K); of a mosaic how many pictures, an even number.
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
        if self.kind == "mosaic" and self.count % 2:
            raise InputError(
                f"keyframes.count is {self.count}; expected an even number for a mosaic"
            )
        if self.tokens is not None and (
            self.tokens < 1 or round(self.tokens**0.5) ** 2 != self.tokens
        ):
            raise InputError(f"keyframes.tokens is {self.tokens}; expected a square number")

    def indices(self, total: int) -> tuple[int, ...]:
        """Ascending places of the keyframes in a clip of `total` frames; fewer than `count` in a shorter clip."""
        if self.kind == "mosaic":
            return tuple(dict.fromkeys(self._moments(total)))
        count = min(self.count, total)
        if self.kind == "first":
            return tuple(range(count))
        if self.kind == "latest":
            return tuple(range(total - count, total))
        return tuple(int(i) for i in np.linspace(0, total - 1, count).astype(int))

    def pictures(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the language model is shown of uint8 [H, W, 3] frames."""
        if self.kind == "mosaic":
            return mosaics([frames[i] for i in self._moments(len(frames))])
        return [frames[i] for i in self.indices(len(frames))]

    def _moments(self, total: int) -> list[int]:
        moments = self.count // 2 * MOMENTS
        return [i * total // moments for i in range(moments)]

    def stages(self) -> tuple[KeyframeChoice, ...]:
        """The questions to ask one after the other; the last one decides."""
        if self.kind != "refine":
            return (self,)
        return (replace(self, kind="latest", count=1), replace(self, kind="uniform"))


def mosaics(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of every ten frames uint8 [H, W, 3] two pictures: the first, and the others in rows of three, [3H, 3W, 3].

    A frame of another size than the first of its ten is brought to that.
    """
    out = []
    for start in range(0, len(frames), MOMENTS):
        first, *rest = frames[start : start + MOMENTS]
        height, width = first.shape[:2]
        cells = [f if f.shape == first.shape else cv2.resize(f, (width, height)) for f in rest]
        rows = [np.hstack(cells[i : i + MOSAIC]) for i in range(0, len(cells), MOSAIC)]
        out += [first, np.vstack(rows)]
    return out
