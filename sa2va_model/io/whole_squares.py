# SPDX-License-Identifier: Apache-2.0
"""Images resized to whole squares of 28 pixels, as `process_vision_info` of qwen_vl_utils does it."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

SQUARE, SQUARES = 28, (4, 16384)
"""Side of a square in pixels, and how few and how many an image has."""


def in_squares(frame: np.ndarray) -> np.ndarray:
    """A frame resized to whole squares, as the official code does before its image processor resizes again.

    It calls `process_vision_info` of qwen_vl_utils with the square of Qwen2.5-VL whatever the model's own is.
    """
    height, width = frame.shape[:2]
    size = _squares(width, height)
    if size == (width, height):
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def _squares(width: int, height: int) -> tuple[int, int]:
    """The width and height in whole squares nearest to a frame's, within the budget of qwen_vl_utils.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if max(width, height) > 200 * min(width, height):
        raise ValueError("absolute aspect ratio must be smaller than 200")
    sides = [max(SQUARE, round(side / SQUARE) * SQUARE) for side in (width, height)]
    area, (fewest, most) = sides[0] * sides[1], (SQUARE**2 * count for count in SQUARES)
    if area > most:
        shrink = math.sqrt(width * height / most)
        sides = [max(SQUARE, int(side / shrink / SQUARE) * SQUARE) for side in (width, height)]
    elif area < fewest:
        grow = math.sqrt(fewest / (width * height))
        sides = [math.ceil(side * grow / SQUARE) * SQUARE for side in (width, height)]
    return sides[0], sides[1]
