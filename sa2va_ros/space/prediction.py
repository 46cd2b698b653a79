# SPDX-License-Identifier: Apache-2.0
"""Where a moving object is now, from where it was on the newest image. NumPy only; no ROS."""

from __future__ import annotations

import numpy as np

HORIZON = 1.0  # seconds ahead of the image; a place that is older says nothing about now
ACCELERATION = 1.0  # m/s2, standard deviation; people and robots change their mind
SPEED = 0.05  # m/s, standard deviation of a velocity that was measured


def predicted(
    place: np.ndarray, velocity: np.ndarray, covariance: np.ndarray, seconds: float
) -> tuple[np.ndarray, np.ndarray]:
    """The place after so many seconds at constant velocity, and how sure that is.

    Args:
        place, velocity: [3], metres and metres per second.
        covariance: [6, 6] of place and rotation.

    Returns:
        The place [3], and the covariance [6, 6], which grows with time.
    """
    grown = covariance.copy()
    deviation = (SPEED * seconds) ** 2 + (ACCELERATION * seconds**2 / 2) ** 2
    grown[:3, :3] += np.eye(3) * deviation
    return place + velocity * seconds, grown
