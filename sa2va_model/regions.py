# SPDX-License-Identifier: Apache-2.0
"""Visual prompts: a mask, a box or clicks on an image, for both halves of the model.

To the language model a region is the visual tokens under it (masks only in the official code). Boxes are filled; a
click is the four tokens around it, the fewest that training ever showed.
To SAM-2 they are its own prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.segmentation.types import Prompt
from sa2va_model.segmentation.visual_prompts import visual_prompt

FEWEST = 4
"""Visual tokens; regions with fewer were left out of the official training."""


@dataclass(frozen=True)
class Region:
    """One visual prompt, in pixels of its image. Exactly one of mask, box and points is set.

    Attributes:
        mask: bool [H, W].
        box: x0, y0, x1, y1.
        points: x, y of each click.
        labels: 1 on the object, 0 beside it, one for each click; empty = all on it.
    """

    mask: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        given = (self.mask is not None) + (self.box is not None) + bool(self.points)
        if given != 1:
            raise InputError(f"region: {given} of mask, box and points given; expected one")
        if self.labels and len(self.labels) != len(self.points):
            raise InputError(
                f"region: {len(self.labels)} labels for {len(self.points)} points; expected as many"
            )

    def prompt(self, shape: tuple[int, ...]) -> Prompt:
        """The prompt for SAM-2 on an image of that shape.

        Raises:
            InputError: it lies outside the image, is empty, or a mask has another size.
        """
        if self.points:
            labels = np.array(self.labels or [1] * len(self.points), np.int32)
            return visual_prompt(shape, points=np.array(self.points, np.float32), labels=labels)
        return visual_prompt(shape, box=self.box, mask=self.mask)

    def area(self, shape: tuple[int, ...], cells: int) -> np.ndarray:
        """What the language model is shown: bool [H, W], to be sampled to `cells` x `cells` visual tokens.

        Raises:
            InputError: as `prompt`.
        """
        self.prompt(shape)
        if self.mask is not None:
            return np.asarray(self.mask, bool)
        area = np.zeros(shape[:2], bool)
        if self.box is not None:
            x0, y0, x1, y1 = (max(round(value), 0) for value in self.box)
            area[y0:y1, x0:x1] = True
            if _sampled(area, cells) >= FEWEST:
                return area
            centres = [((self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2)]
        else:
            labels = self.labels or (1,) * len(self.points)
            centres = [p for p, label in zip(self.points, labels, strict=True) if label]
        for x, y in centres:
            _add_block(area, x, y, cells)
        return area


def as_regions(given: Sequence[Region | np.ndarray]) -> list[Region]:
    """Masks may be given as they are."""
    return [item if isinstance(item, Region) else Region(mask=item) for item in given]


def _samples(size: int, cells: int) -> np.ndarray:
    """The pixels that nearest sampling reads."""
    return np.arange(cells) * size // cells


def _sampled(area: np.ndarray, cells: int) -> int:
    """How many visual tokens a mask covers."""
    rows, columns = _samples(area.shape[0], cells), _samples(area.shape[1], cells)
    return int(area[rows][:, columns].sum())


def _add_block(area: np.ndarray, x: float, y: float, cells: int) -> None:
    """Adds the two by two visual tokens around a point."""
    height, width = area.shape
    row = min(max(round(y / height * cells) - 1, 0), max(cells - 2, 0))
    column = min(max(round(x / width * cells) - 1, 0), max(cells - 2, 0))
    rows, columns = (
        _samples(height, cells)[row : row + 2],
        _samples(width, cells)[column : column + 2],
    )
    area[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
