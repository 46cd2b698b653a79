# SPDX-License-Identifier: Apache-2.0
"""What a user points at, in pixels, as a prompt for SAM-2; checked against the image it is meant for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sa2va_model.errors import InputError
from sa2va_model.segmentation.clicks import check_points
from sa2va_model.segmentation.types import Prompt


def visual_prompt(
    shape: tuple[int, ...],
    *,
    points: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    box: Sequence[float] | None = None,
    mask: np.ndarray | None = None,
) -> Prompt:
    """A prompt in pixels of an image of that shape.

    Raises:
        InputError: it lies outside the image, is empty, not a number or in fractions of the image, has more than
            `clicks.MAX_POINTS` points, or a mask has another size or type.
    """
    height, width = shape[:2]
    if mask is not None:
        mask = check_mask(mask)
        if mask.shape[:2] != (height, width):
            raise InputError(
                f"mask: size is {mask.shape[1]}x{mask.shape[0]}; expected the image's {width}x{height}"
            )
        if not mask.any():
            raise InputError("mask: is empty; expected at least one pixel")
        return Prompt(mask=torch.from_numpy(np.ascontiguousarray(mask)))
    if box is not None:
        x0, y0, x1, y1 = box
        if not np.isfinite([x0, y0, x1, y1]).all():
            raise InputError(f"box: is {list(box)}; expected numbers in pixels")
        if max(x1, y1) <= 1 and not all(float(v).is_integer() for v in box):
            raise InputError(f"box: {list(box)} looks like fractions of the image; expected pixels")
        if not (x0 < x1 and y0 < y1):
            raise InputError(f"box: is {list(box)}; expected x0 < x1 and y0 < y1")
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise InputError(f"box: {list(box)} is outside the image of {width}x{height}")
        x0, x1 = max(x0, 0.0) / width, min(x1, width) / width
        return Prompt.box(x0, max(y0, 0.0) / height, x1, min(y1, height) / height)
    assert points is not None
    assert labels is not None
    check_points(points)
    outside = (points < 0).any(axis=1) | (points[:, 0] >= width) | (points[:, 1] >= height)
    if outside.any():
        raise InputError(
            f"point: {points[outside][0].tolist()} is outside the image of {width}x{height}"
        )
    scaled = torch.from_numpy(points / np.array([width, height], np.float32))
    return Prompt(points=scaled, labels=torch.from_numpy(labels.astype(np.int32)))


def check_mask(mask: np.ndarray) -> np.ndarray:
    """A prompt mask as bool [H, W]; whole numbers count as on the object where they are not 0.

    Raises:
        InputError: it has another shape, or other numbers, of which it is not clear what they mean.
    """
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise InputError(
            f"mask: is {mask.dtype} {list(mask.shape)}; expected bool or whole numbers [H, W]"
        )
    return mask.astype(bool, copy=False)
