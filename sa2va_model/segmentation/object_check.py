# SPDX-License-Identifier: Apache-2.0
"""ObjectCheck: which of several masks on a picture show a thing that is meant, by asking about each of them alone.

A model that was taught to point at one thing is sure about the one that is there and unsure which of many are meant.
So each thing is shown with all others painted over, at its place and then closer. How well both answers lie on it says
whether it is meant, and which of several masks of it is the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from sa2va_model.segmentation.object_masks import painted_over, same_object
from sa2va_model.segmentation.object_search import overlap

AGREEMENT = 0.8  # of the IoU of both answers with the thing, together
FAINT = 0.2  # IoU of the first answer, below which there is no closer look
SURE = 1.7  # from which on no other mask of the thing is asked about
CLOSER = 2.5  # sides of the thing that the closer picture shows
SIDE = 256  # pixels of a picture that is cut out


@dataclass(frozen=True)
class CheckedThing:
    """A thing that was asked about.

    Attributes:
        mask: bool [H, W].
        agreement: IoU of both answers with it, together.
        embedding: [C], what pointed at it where it stands; None = nothing did.
    """

    mask: np.ndarray
    agreement: float
    embedding: Tensor | None


class ObjectCheck:
    """Asks about things, one picture after the other: `picture`, `answer`, and again until there is none.

    Args:
        rgb: uint8 [H, W, 3].
        things: bool [H, W] each; may lie on each other.
        some: one at least is meant.
    """

    def __init__(
        self, rgb: np.ndarray, things: Sequence[np.ndarray], *, some: bool = False
    ) -> None:
        self._rgb, self._waiting = rgb, list(things)
        self._things, self._some = tuple(things), some
        self._checked: list[CheckedThing] = []
        self._picture, self._shown = rgb, np.zeros(0, bool)  # the last one, and the thing on it
        # Picture, IoU and embedding of the first answer.
        self._first: tuple[np.ndarray, float, Tensor | None] | None = None

    @property
    def accepted(self) -> list[CheckedThing]:
        """What is meant, as far as it was asked: the best mask of each thing, the surest first."""
        kept: list[CheckedThing] = []
        for one in sorted(self._checked, key=lambda checked: -checked.agreement):
            enough = FAINT if self._some and not kept else AGREEMENT
            if one.agreement >= enough and not any(same_object(one.mask, k.mask) for k in kept):
                kept.append(one)
        return kept

    @property
    def refuted(self) -> list[np.ndarray]:
        """Masks of what is not meant, as far as it was asked."""
        return [one.mask for one in self._checked if one.agreement < AGREEMENT]

    def picture(self) -> np.ndarray | None:
        """Return what to ask about next, uint8 [h, w, 3]; None = nothing more."""
        if self._first is not None:
            self._picture, self._shown = cut_out(self._first[0], self._waiting[0], CLOSER)
            return self._picture
        sure = [one.mask for one in self._checked if one.agreement >= SURE]
        while self._waiting:
            thing = self._waiting[0]
            if not any(same_object(thing, other) for other in sure):
                self._picture, self._shown = self._alone(thing), thing
                return self._picture
            del self._waiting[0]
        return None

    def answer(self, mask: np.ndarray | None, embedding: Tensor | None = None) -> None:
        """Take what the model points at on the last picture, bool [h, w], and with what; None = at nothing."""
        share = 0.0 if mask is None else overlap(mask, self._shown)
        if self._first is None and share >= FAINT:
            self._first = (self._picture, share, embedding)
            return
        _, before, found_by = self._first or (None, 0.0, None)
        self._first = None
        self._checked.append(CheckedThing(self._waiting.pop(0), before + share, found_by))

    def _alone(self, thing: np.ndarray) -> np.ndarray:
        others = [other & ~thing for other in self._things if not same_object(other, thing)]
        return painted_over(self._rgb, [other for other in others if other.any()])


def cut_out(rgb: np.ndarray, mask: np.ndarray, sides: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut out a thing and what is around it: uint8 [SIDE, SIDE, 3], and its mask there.

    Args:
        sides: of the thing that the cut shows.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    middle_x, middle_y = (columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2
    scale = SIDE / (sides * max(len(columns), len(rows)))
    way = np.array(
        [[scale, 0, SIDE / 2 - middle_x * scale], [0, scale, SIDE / 2 - middle_y * scale]]
    )
    border = cv2.BORDER_REPLICATE
    picture = cv2.warpAffine(rgb, way, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=border)
    cut = cv2.warpAffine(mask.astype(np.uint8), way, (SIDE, SIDE), flags=cv2.INTER_NEAREST)
    return picture, cut > 0
