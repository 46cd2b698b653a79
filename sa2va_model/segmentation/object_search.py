# SPDX-License-Identifier: Apache-2.0
"""ObjectSearch: what may be meant by the name of a kind, asked for in several ways.

A model that was taught to point at one thing blends the masks of several. Asked for the leftmost of them, or about a
part of the picture, it points at one. A model that marks all of a kind sees more of them, the small ones above all, on
parts of the picture. Not all of these answers are right: `object_check.py` chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

PLACES = ("leftmost", "rightmost", "topmost", "lowest", "nearest", "farthest")
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # bottom, right
WINDOW = 0.625  # of a side of the picture; four windows overlap by a quarter of it
ALIKE = 0.75  # IoU from which on two masks are one candidate


@dataclass(frozen=True)
class Query:
    """What is asked: where are `words` on `picture`, uint8 [h, w, 3], cut out of the whole at `top` and `left`?"""

    words: str
    picture: np.ndarray
    top: int = 0
    left: int = 0


class ObjectSearch:
    """Asks in one way after the other: `query`, `answer`, and again until there is none.

    Args:
        rgb: uint8 [H, W, 3].
        one: what one of the kind is called, "the red mug".
        things: what is pointed at already, bool [H, W] each.
        denies: the model was seen to deny; otherwise that is asked first.
        wide: ask in all ways; otherwise only whether the model denies.
        every: the words that mean all of the kind, for a model that was taught such; "" = it was not.

    Attributes:
        things: all that was pointed at, each once.
        denies: False if the model points at something where nothing is: then it is not asked further.
    """

    def __init__(
        self,
        rgb: np.ndarray,
        one: str,
        things: Sequence[np.ndarray],
        *,
        denies: bool = False,
        wide: bool = True,
        every: str = "",
    ) -> None:
        self._rgb, self._one, self._every = rgb, one, every
        self.things = distinct(things)
        self.denies: bool | None = denies or None
        self._ways = self._all_ways() if wide else iter(())
        self._open: Query | None = None

    def query(self) -> Query | None:
        """Return what to ask next; None = nothing more."""
        if self.denies is None:
            blank = np.full_like(self._rgb, self._rgb.mean(axis=(0, 1)).astype(np.uint8))
            return Query(self._one, blank)
        self._open = next(self._ways, None) if self.denies else None
        return self._open

    def answer(self, masks: Sequence[np.ndarray]) -> None:
        """Take what the model points at on the last picture, bool [h, w] each."""
        if self._open is None:
            self.denies = not len(masks)
            return
        whole = []
        for mask in masks:
            placed = np.zeros(self._rgb.shape[:2], bool)
            rows, columns = mask.shape
            top, left = self._open.top, self._open.left
            placed[top : top + rows, left : left + columns] = mask
            whole.append(placed)
        self.things = distinct([*self.things, *whole])

    def _all_ways(self) -> Iterator[Query]:
        for place in PLACES:
            yield Query(f"the {place} {self._one.removeprefix('the ')}", self._rgb)
        height, width = (max(round(WINDOW * side), 1) for side in self._rgb.shape[:2])
        for bottom, right in CORNERS:
            top, left = bottom * (self._rgb.shape[0] - height), right * (self._rgb.shape[1] - width)
            part = self._rgb[top : top + height, left : left + width]
            yield Query(self._every or self._one, np.ascontiguousarray(part), top, left)


def distinct(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the masks, bool [H, W], that are not empty and not nearly an earlier one."""
    kept: list[np.ndarray] = []
    for mask in masks:
        if mask.any() and all(overlap(mask, other) < ALIKE for other in kept):
            kept.append(mask)
    return kept


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two bool masks of one shape."""
    return float((one & other).sum() / max((one | other).sum(), 1))
