# SPDX-License-Identifier: Apache-2.0
"""What may be pointed at, and what is refused before it costs anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.segmentation.clicks import MAX_POINTS
from sa2va_model.segmentation.visual_prompts import visual_prompt

SHAPE = (48, 64, 3)


def clicks(*points: tuple[float, float]) -> dict[str, Any]:
    return {"points": np.array(points, np.float32), "labels": np.ones(len(points), int)}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"box": (0.3, 0.3, 0.5, 0.5)}, "looks like fractions of the image; expected pixels"),
        ({"box": (float("nan"), 1, 5, 5)}, "expected numbers in pixels"),
        ({"box": (0, 0, float("inf"), 5)}, "expected numbers in pixels"),
        (clicks((0.4, 0.5)), "looks like fractions"),
        (clicks((float("nan"), 4)), "not a number"),
        (clicks(*[(3, 3)] * (MAX_POINTS + 1)), "65 points; expected at most 64"),
        ({"mask": np.full(SHAPE[:2], np.nan, np.float32)}, "expected bool or whole numbers"),
        ({"mask": np.ones(SHAPE, np.uint8)}, "expected bool or whole numbers"),
        ({"mask": np.ones((480, 640), bool)}, "size is 640x480; expected the image's 64x48"),
    ],
)
def test_what_is_no_prompt_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        visual_prompt(SHAPE, **given)


def test_pixels_and_numbered_masks_are_prompts() -> None:
    assert visual_prompt(SHAPE, box=(0, 0, 1, 1)).points is not None
    assert visual_prompt(SHAPE, **clicks((0.0, 0.0))).points is not None
    mask = visual_prompt(SHAPE, mask=np.eye(48, 64, dtype=np.uint8) * 255).mask
    assert mask is not None
    assert int(mask.sum()) == 48
