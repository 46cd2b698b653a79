# SPDX-License-Identifier: Apache-2.0
"""The words of the tabletop world: ten colours, nine shapes, and things that are never on the table."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ColourRange:
    """What still deserves a colour's name, in HSV: hue in degrees (may be negative), saturation and value in 0..1."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]


# The ranges leave gaps between neighbours (red | orange | yellow, cyan | blue | purple | pink), so that no sample of
# one colour could be called by the name of the next.
COLOUR_RANGES: dict[str, ColourRange] = {
    "red": ColourRange((-6, 6), (0.80, 1.0), (0.55, 0.95)),
    "orange": ColourRange((22, 33), (0.82, 1.0), (0.86, 1.0)),
    "yellow": ColourRange((49, 60), (0.70, 1.0), (0.82, 1.0)),
    "green": ColourRange((95, 148), (0.55, 1.0), (0.32, 0.78)),
    "cyan": ColourRange((172, 187), (0.50, 0.95), (0.70, 0.98)),
    "blue": ColourRange((207, 236), (0.70, 1.0), (0.42, 0.95)),
    "purple": ColourRange((264, 288), (0.50, 0.90), (0.38, 0.75)),
    "pink": ColourRange((322, 345), (0.32, 0.60), (0.88, 1.0)),
    "white": ColourRange((0, 360), (0.0, 0.05), (0.88, 1.0)),
    "black": ColourRange((0, 360), (0.0, 0.30), (0.03, 0.13)),
}


def _middle(span: ColourRange) -> tuple[int, int, int]:
    hue, saturation, value = (sum(pair) / 2 for pair in (span.hue, span.saturation, span.value))
    red, green, blue = colorsys.hsv_to_rgb((hue / 360) % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


COLOURS: dict[str, tuple[int, int, int]] = {
    name: _middle(span) for name, span in COLOUR_RANGES.items()
}
SHAPES: tuple[str, ...] = ("block", "ball", "mug", "bottle", "bowl", "can", "plate", "book", "box")
ABSENT_WORDS: tuple[str, ...] = (
    "dog", "cat", "person", "laptop", "banana", "apple", "scissors", "hammer", "spoon", "fork", "knife", "phone",
    "keyboard", "lamp", "shoe", "hat", "car", "chair", "bird", "flower", "pen", "clock", "robot", "key",
)  # fmt: skip


def sample_colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """One shade that people would call `name`.

    Returns:
        float64 [3], RGB in 0..255.
    """
    span = COLOUR_RANGES[name]
    hue, saturation, value = (
        rng.uniform(*pair) for pair in (span.hue, span.saturation, span.value)
    )
    return np.asarray(colorsys.hsv_to_rgb((hue / 360) % 1.0, saturation, value)) * 255.0


def words() -> tuple[str, ...]:
    """Every word that `expressions.describe` can write, sorted; a word-level tokenizer may be built from it."""
    from sa2va_sim.words import expressions

    return tuple(sorted({*COLOURS, *SHAPES, *ABSENT_WORDS, *expressions.function_words()}))
