# SPDX-License-Identifier: Apache-2.0
"""What words say of one picture, asked twice: as it is, and closer in another light. Both views keep left and right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sa2va_model.sa2va import Sa2VA
from sa2va_training.data.clip_masks import AGREEMENT
from sa2va_training.metrics.overlap import overlap

_BORDER = 0.125  # of each side, cut off for the second view
_GAMMA = 0.75


@dataclass(frozen=True)
class DoubleLook:
    """Two answers about one picture.

    Attributes:
        first, second: bool [H, W]; empty = "there is no such thing".
    """

    first: np.ndarray
    second: np.ndarray

    @property
    def found(self) -> bool:
        """Whether the first answer is a mask."""
        return bool(self.first.any())

    @property
    def iou(self) -> float:
        """Of the two answers; 1 where both deny it."""
        return overlap(self.first, self.second).iou

    @property
    def sure(self) -> bool:
        """Whether both answers are the same."""
        return same(self.first, self.second)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two masks are of one thing; two empty ones are."""
    return overlap(one, other).iou >= AGREEMENT


def look_twice(model: Sa2VA, rgb: np.ndarray, words: Sequence[str]) -> list[DoubleLook]:
    """Each expression on uint8 [H, W, 3]; the first view is read once for all of them."""
    firsts = [_joined(found.masks) for found in model.segment_many(rgb, list(words))]
    return [
        DoubleLook(first, _again(model, rgb, w, first))
        for w, first in zip(words, firsts, strict=True)
    ]


def _again(model: Sa2VA, rgb: np.ndarray, words: str, first: np.ndarray) -> np.ndarray:
    """The second answer, bool [H, W]."""
    rows, columns = second_window(first)
    light = (255 * (rgb[rows, columns] / 255.0) ** _GAMMA).astype(np.uint8)
    out = np.zeros(first.shape, bool)
    out[rows, columns] = _joined(model.segment(np.ascontiguousarray(light), words).masks)
    return out


def _joined(masks: np.ndarray) -> np.ndarray:
    """Several masks [K, H, W] as one, bool [H, W]; empty for none."""
    return np.asarray(masks.astype(bool).any(0))


def second_window(mask: np.ndarray) -> tuple[slice, slice]:
    """What the second view shows: borders are cut where that takes nothing of a mask bool [H, W]; empty = none is."""
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    cuts = []
    for axis, length in ((1, mask.shape[0]), (0, mask.shape[1])):
        inside = np.flatnonzero(mask.any(axis))
        border = round(length * _BORDER)
        cuts.append(slice(min(border, int(inside[0])), max(length - border, int(inside[-1]) + 1)))
    return cuts[0], cuts[1]
