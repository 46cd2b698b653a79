# SPDX-License-Identifier: Apache-2.0
"""How often each robot may ask: a token bucket for each."""

from __future__ import annotations

import time
from collections import OrderedDict

from sa2va_serve.server.errors import BusyError

ROBOTS = 10_000  # that are remembered; a robot that is forgotten starts with a full bucket


class Rates:
    """Args: `rate` requests a second on average, 0 = any; `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, robot: str, now: float | None = None) -> None:
        """Count a request.

        Raises:
            BusyError: it is one too many.
        """
        if not self._rate:
            return
        now = time.monotonic() if now is None else now
        left, then = self._buckets.pop(robot, (float(self._burst), now))
        left = min(left + (now - then) * self._rate, float(self._burst))
        allowed = left >= 1
        self._buckets[robot] = (left - allowed, now)
        while len(self._buckets) > ROBOTS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise BusyError(
                f"robot {robot!r} asks more often than {self._rate:g} times a second",
                (1 - left) / self._rate,
            )
