# SPDX-License-Identifier: Apache-2.0
"""What is checked of clicks wherever they come in. Without torch: a node that takes them has to be there before it."""

from __future__ import annotations

import numpy as np

from sa2va_model.errors import InputError

MAX_POINTS = 64
"""Clicks of one prompt. SAM-2 attends to each of them on every image that is prompted; more say nothing new."""


def check_points(points: np.ndarray) -> None:
    """InputError if clicks [N, 2] are too many, not numbers, or in fractions of the image."""
    if len(points) > MAX_POINTS:
        raise InputError(f"prompt has {len(points)} points; expected at most {MAX_POINTS}")
    if not np.isfinite(points).all():
        raise InputError("prompt has a point that is not a number; expected pixels")
    if len(points) and points.max() < 1 and (points > 0).any():
        raise InputError(
            f"point: {points[0].tolist()} looks like fractions of the image; expected pixels"
        )
