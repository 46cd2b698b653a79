# SPDX-License-Identifier: Apache-2.0
"""Which frames of a clip or a stream the language model sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sa2va_model.errors import InputError

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
