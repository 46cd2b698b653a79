# SPDX-License-Identifier: Apache-2.0
"""How an object moves, from where it was. NumPy only."""

from __future__ import annotations

from collections import deque

import numpy as np


class VelocityEstimator:
    """Velocity of one object: the slope of its last positions over time.

    Args:
        window: seconds of positions that are used.
    """

    def __init__(self, window: float = 0.5) -> None:
        self._window = window
        self._seen: deque[tuple[float, np.ndarray]] = deque(maxlen=64)

    def update(self, stamp: float, position: np.ndarray) -> np.ndarray:
        """Velocity [3] in m/s after one more position; zero until three within the window are known."""
        if self._seen and not 0 < stamp - self._seen[-1][0] <= self._window:
            self._seen.clear()  # another stream, or away for so long that the slope means nothing
        self._seen.append((stamp, position))
        while stamp - self._seen[0][0] > self._window:
            self._seen.popleft()
        if len(self._seen) < 3:
            return np.zeros(3)
        times = np.array([time for time, _ in self._seen])
        times -= times.mean()
        positions = np.stack([place for _, place in self._seen])
        slope: np.ndarray = times @ (positions - positions.mean(axis=0)) / (times @ times)
        return slope
