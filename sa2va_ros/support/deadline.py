# SPDX-License-Identifier: Apache-2.0
"""Waiting in the node's own time: simulated time where `use_sim_time` is set, the wall's otherwise."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.node import Node

PATIENCE = 30.0  # a clock may go slower than the wall's by this factor
STANDSTILL = 60.0  # and a clock that nobody publishes stands still for so many seconds at most


def now(node: Node) -> float:
    """Seconds of the node's clock."""
    return float(node.get_clock().now().nanoseconds / 1e9)


class Deadline:
    """Whether so many seconds of the node's clock have passed.

    A machine too busy for a simulation slows simulated time down, and whoever waits waits longer. A clock that stands
    still holds nobody for ever: then the wall's decides.
    """

    def __init__(self, node: Node, seconds: float) -> None:
        self._node, self._seconds = node, seconds
        self._began, self._wall = now(node), time.monotonic()

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        here = now(self._node)
        if not self._began:  # of /clock nothing had been heard
            self._began = here
        spent = time.monotonic() - self._wall
        late = spent >= max(PATIENCE * self._seconds, STANDSTILL)
        return late or here - self._began >= self._seconds
