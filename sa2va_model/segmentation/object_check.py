# SPDX-License-Identifier: Apache-2.0
"""ObjectCheck: which of several things on a picture are meant, by asking about each of them alone.

A model that was taught to point at one thing is sure about the one that is there and unsure which of many are meant.
So each thing is shown with all others painted over, at its place and then closer. It is meant if both answers point at
it. A model that points at something on an empty picture cannot tell; then nothing is checked.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from sa2va_model.segmentation.object_masks import painted_over, same_object

AGREEMENT = 1.2  # of the IoU of both answers with the thing, together
CLOSER = 2.5  # sides of the thing that the closer picture shows
SIDE = 256  # pixels of a picture that is cut out


class ObjectCheck:
    """Asks about things, one picture after the other: `picture`, `answer`, and again until there is none.

    Args:
        rgb: uint8 [H, W, 3].
        things: bool [H, W] each; those that matter most first.
        denies: the model was seen to deny; otherwise that is asked first.

    Attributes:
        accepted: what is meant; `refuted`: what is not; both as far as it was asked.
        denies: False if the model points at something where nothing is.
    """

    def __init__(
        self, rgb: np.ndarray, things: Sequence[np.ndarray], *, denies: bool = False
    ) -> None:
        self._rgb, self._waiting = rgb, list(things)
        self._things = tuple(things)
        self.accepted: list[np.ndarray] = []
        self.refuted: list[np.ndarray] = []
        self.denies: bool | None = denies or None
        self._picture, self._shown = rgb, np.zeros(0, bool)  # the last one, and the thing on it
        self._first: tuple[np.ndarray, float] | None = None  # picture and IoU of the first answer

    def picture(self) -> np.ndarray | None:
        """Return what to ask about next, uint8 [h, w, 3]; None = nothing more."""
        if self.denies is None:
            return np.full_like(self._rgb, self._rgb.mean(axis=(0, 1)).astype(np.uint8))
        if not self.denies:
            return None
        if self._first is not None:
            self._picture, self._shown = cut_out(self._first[0], self._waiting[0], CLOSER)
            return self._picture
        while self._waiting:
            thing = self._waiting[0]
            if not any(same_object(thing, other) for other in self.accepted):
                self._picture, self._shown = self._alone(thing), thing
                return self._picture
            del self._waiting[0]
        return None

    def answer(self, mask: np.ndarray | None) -> None:
        """Take what the model points at on the last picture, bool [h, w]; None = at nothing."""
        if self.denies is None:
            self.denies = mask is None
            return
        share = 0.0 if mask is None else overlap(mask, self._shown)
        if self._first is None and share >= AGREEMENT - 1:
            self._first = (self._picture, share)
            return
        total = share + (self._first[1] if self._first else 0.0)
        self._first = None
        (self.accepted if total >= AGREEMENT else self.refuted).append(self._waiting.pop(0))

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


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two bool masks of one shape."""
    return float((one & other).sum() / max((one | other).sum(), 1))
