# SPDX-License-Identifier: Apache-2.0
"""One slot between two threads that work on frames one behind the other.

The first begins with the newest frame so late that it is done about when the second is, going by how long both took
lately. So a result is nearly as fresh as if one thread had done both. Where the second takes much longer than it used
to, what waits grows stale, and a newer frame takes its place.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
EARLY = 2.0  # both take turns with other threads: at 1.25 the second waited for 12 % of the time, here for 2 %
NEWEST = 0.2  # weight of the newest duration
STALE = 2.0  # what waits for so many times of what it took to make is made anew


class Relay(Generic[Item]):
    """From the first thread, which asks `due` and then puts, to the second, which takes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._began = self._done = math.nan  # when the first began, and was done
        self._taken = math.nan  # when the second began; NaN = it waits
        self._first = self._second = 0.0  # seconds that they take

    def due(self, timeout: float) -> bool:
        """Wait until the first should begin with its next frame; False if that takes longer than `timeout` seconds."""
        end = self._clock() + timeout
        with self._changed:
            while (wait := self._begin_at() - self._clock()) > 0:
                left = end - self._clock()
                if left <= 0:
                    return False
                self._changed.wait(min(wait, left))
            return True

    def begin(self) -> None:
        """The first has a frame and begins."""
        self._began = self._clock()

    def put(self, item: Item) -> bool:
        """The first is done with it; return whether it takes the place of one that waited."""
        with self._changed:
            waited, self._item, self._done = self._item is not None, item, self._clock()
            self._first = _mean(self._first, self._done - self._began)
            self._changed.notify_all()
            return waited

    def take(self, timeout: float) -> Item | None:
        """What was put, or None if nothing was within `timeout` seconds; the second begins with it."""
        with self._changed:
            if not math.isnan(self._taken):
                self._second = _mean(self._second, self._clock() - self._taken)
                self._taken = math.nan
            self._changed.notify_all()
            if self._item is None:
                self._changed.wait(timeout)
            item, self._item = self._item, None
            if item is not None:
                self._taken = self._clock()
                self._changed.notify_all()
            return item

    def clear(self) -> bool:
        """Forget what waits; return whether something did."""
        with self._changed:
            waited, self._item = self._item is not None, None
            return waited

    def _begin_at(self) -> float:
        if self._item is not None:
            return self._done + STALE * self._first
        if math.isnan(self._taken):
            return -math.inf
        return self._taken + self._second - EARLY * self._first


def _mean(before: float, newest: float) -> float:
    return before + NEWEST * (newest - before) if before else newest
