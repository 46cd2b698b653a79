# SPDX-License-Identifier: Apache-2.0
"""Pictures of red squares on grey: what a stand-in for the model can see by their colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHAPE = (60, 120)


def picture(squares: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Return uint8 [60, 120, 3] with squares at x, y of that side."""
    rgb = np.full((*SHAPE, 3), 120, np.uint8)
    for x, y, side in squares:
        rgb[y : y + side, x : x + side] = (250, 0, 0)
    return rgb


def red(rgb: np.ndarray) -> np.ndarray:
    """Return where a picture is red, bool [60, 120]."""
    seen: np.ndarray = rgb[..., 0].astype(int) - rgb[..., 1] > 100
    return seen
