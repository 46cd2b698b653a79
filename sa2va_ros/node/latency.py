# SPDX-License-Identifier: Apache-2.0
"""How late results are, and where the time goes. No ROS."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable

import numpy as np

from sa2va_model.tracks import Event, EventKind


class Latencies:
    """From the image's stamp to publishing, the node's own share of it, and from a command to its
    first mask; all in seconds."""

    def __init__(self) -> None:
        self._images: deque[float] = deque(maxlen=200)
        self._overheads: deque[float] = deque(maxlen=200)
        self._steps: deque[float] = deque(maxlen=200)
        self._commands: deque[float] = deque(maxlen=20)
        self._asked: dict[str, float] = {}

    def image(self, seconds: float) -> None:
        """One result was published this long after its image was taken."""
        self._images.append(seconds)

    def work(self, total: float, step: float) -> None:
        """One image took `total` from callback to publication, `step` of it in the tracker."""
        self._steps.append(step)
        self._overheads.append(total - step)

    def events(self, events: Iterable[Event]) -> None:
        """Keep the time between STARTED and FOUND of a track."""
        now = time.monotonic()
        for event in events:
            if event.kind is EventKind.MEMORY_RESET:
                self._asked.clear()
            elif event.kind is EventKind.STARTED:
                self._asked[event.track_id] = now
            else:
                asked = self._asked.pop(event.track_id, None)
                if asked is not None and event.kind is EventKind.FOUND:
                    self._commands.append(now - asked)

    def percentile(self, percent: float) -> float:
        """Of the image latency; NaN without any."""
        return _percentile(self._images, percent)

    def overhead(self, percent: float) -> float:
        """Percentile of the node's own time for an image; NaN without any."""
        return _percentile(self._overheads, percent)

    def step(self, percent: float) -> float:
        """Percentile of the tracker's time for an image; NaN without any."""
        return _percentile(self._steps, percent)

    def first_mask(self) -> float:
        """Median time from an expression to its first mask; NaN without any."""
        return statistics.median(self._commands) if self._commands else float("nan")


def _percentile(values: Iterable[float], percent: float) -> float:
    numbers = tuple(values)
    return float(np.percentile(numbers, percent)) if numbers else float("nan")
