# SPDX-License-Identifier: Apache-2.0
"""A timer that ticks only while there is something to tick for.

Each wake-up has rclpy's executor build a wait set of all that the node has, twice: some two milliseconds with Python's
lock held, which the thread that computes waits for. A node that only polls spends a tenth of a core (docs/log.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rclpy.clock import Clock, ClockType

if TYPE_CHECKING:
    from rclpy.node import Node


class Ticker:
    """Ticks from `wake` on, in wall time, until nothing is wanted any more.

    Args:
        period: seconds.
        tick: called on the executor's thread.
        wanted: whether there is something to tick for; asked after every tick.
    """

    def __init__(
        self, node: Node, period: float, tick: Callable[[], None], wanted: Callable[[], bool]
    ) -> None:
        self._tick, self._wanted = tick, wanted
        # So that nothing begins to be wanted between asking and resting.
        self._lock = threading.Lock()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(period, self._run, clock=steady)
        self._timer.cancel()

    @property
    def resting(self) -> bool:
        """Whether it waits to be woken."""
        return bool(self._timer.is_canceled())

    def wake(self) -> None:
        """Something is wanted now; from any thread."""
        with self._lock:
            if self._timer.is_canceled():
                self._timer.reset()

    def _run(self) -> None:
        self._tick()
        with self._lock:
            if not self._wanted():
                self._timer.cancel()
