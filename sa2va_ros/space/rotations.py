# SPDX-License-Identifier: Apache-2.0
"""Rotation matrices and quaternions. NumPy only."""

from __future__ import annotations

import numpy as np


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """x, y, z, w of a rotation matrix [3, 3]; w is not negative."""
    # The quaternion is the eigenvector of this symmetric matrix with the largest eigenvalue
    # (Bar-Itzhack, 2000); it needs no case for each sign of the trace.
    (a, b, c), (d, e, f), (g, h, i) = rotation
    matrix = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    x, y, z, w = np.linalg.eigh(matrix)[1][:, -1].tolist()
    sign = -1.0 if w < 0 else 1.0
    return sign * x, sign * y, sign * z, sign * w


def matrix_of(x: float, y: float, z: float, w: float) -> np.ndarray:
    """The rotation [3, 3] of a quaternion, which need not be of length one."""
    x, y, z, w = np.array([x, y, z, w]) / np.sqrt(x * x + y * y + z * z + w * w)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
