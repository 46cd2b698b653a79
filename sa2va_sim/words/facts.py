# SPDX-License-Identifier: Apache-2.0
"""What is true about a picture: one fact per object, and the picture that carries them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ObjectFact:
    """One object as one image shows it.

    Attributes:
        index: number of the object in its scene; its pixels are `index + 1` in the instance image.
        size: largest extent of the object itself: metres in the simulator, fraction of the image width at the middle of
            the table in 2D. Compare within one scene only.
        box: (x0, y0, x1, y1) of the visible pixels as fractions of width and height; zeros if nothing is visible.
        visible: visible pixels over the pixels the object would have alone and with an endless image, 0..1.
        area: visible pixels over all pixels of the image, 0..1.
        depth: distance from the camera (metres; in 2D only its order counts); None where a flat scene has none.
        moving: whether the object moves in the world (not whether its image moves, which a moving camera also does).
        colour: "" where it has no single one.
        names: what it may be called; empty = `shape` alone.
        doubtful: nouns and colours that some people would use for it: no sentence may hang on them.
        held_out: the object is kept from training.
    """

    index: int
    colour: str
    shape: str
    size: float
    box: tuple[float, float, float, float]
    visible: float
    area: float
    depth: float | None = None
    moving: bool = False
    names: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    held_out: bool = False

    @property
    def called(self) -> tuple[str, ...]:
        """Everything that it may be called."""
        return self.names or (self.shape,)

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the box's middle, fractions of the image."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def extent(self) -> float:
        """Apparent size: the box's diagonal, as a fraction of the image side."""
        x0, y0, x1, y1 = self.box
        return float(np.hypot(x1 - x0, y1 - y0))


@dataclass(frozen=True)
class LabelledImage:
    """A picture with its truth.

    Attributes:
        rgb: uint8 [H, W, 3].
        instances: uint8 [H, W], 0 = background, k + 1 = object k.
        facts: one per object of the scene, visible or not, in the order of their index.
    """

    rgb: np.ndarray
    instances: np.ndarray
    facts: tuple[ObjectFact, ...]


def measure(
    instances: np.ndarray, count: int
) -> list[tuple[tuple[float, float, float, float], int]]:
    """Box and visible pixel count of each of `count` objects.

    Args:
        instances: uint8 [H, W], k + 1 = object k.

    Returns:
        Per object (box in 0..1 with exclusive ends, pixels); a zero box where nothing is visible.
    """
    height, width = instances.shape
    found: list[tuple[tuple[float, float, float, float], int]] = []
    for index in range(count):
        mask = instances == index + 1
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(columns) == 0:
            found.append(((0.0, 0.0, 0.0, 0.0), 0))
            continue
        box = (
            columns[0] / width,
            rows[0] / height,
            (columns[-1] + 1) / width,
            (rows[-1] + 1) / height,
        )
        found.append(
            (
                (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                int(np.count_nonzero(mask)),
            )
        )
    return found


def is_referable(fact: ObjectFact, min_visible: float, min_area: float) -> bool:
    """Whether enough of the object is seen that a person would talk about it."""
    return fact.visible >= min_visible and fact.area >= min_area


def seen(facts: Sequence[ObjectFact]) -> list[ObjectFact]:
    """The objects with at least one visible pixel: all that a sentence could be mistaken for."""
    return [fact for fact in facts if fact.area > 0.0]
