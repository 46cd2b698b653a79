# SPDX-License-Identifier: Apache-2.0
"""Topics that belong together, received together: by the distribution's message_filters where it is installed.

The only place that imports it, and that chooses. `Pairing` stands in for it and makes the same sets. For consumers
(`semantic_grid`); the node itself pairs depth when an image is taken (`space/depth.py`), because there the image must
not wait for its depth.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rclpy.qos import QoSProfile

from sa2va_ros.messages.images import nanoseconds

if TYPE_CHECKING:
    from rclpy.node import Node

_filters: Any = None
with suppress(ImportError):
    _filters = import_module("message_filters")


def synchronise(
    node: Node,
    topics: Sequence[tuple[type, str, QoSProfile]],
    receive: Callable[..., None],
    *,
    queue: int = 30,
    slop: float = 0.0,
) -> Any:
    """Subscribe topics whose messages have headers; `receive` gets one of each. Keep what this returns.

    Args:
        queue: messages of each topic that wait for the others.
        slop: seconds by which stamps may differ; 0 = equal stamps.
    """
    if _filters is None:
        pairing = Pairing(len(topics), receive, queue, slop)
        for k, (kind, topic, qos) in enumerate(topics):
            node.create_subscription(kind, topic, pairing.adder(k), qos)
        return pairing
    subscribers = [_filters.Subscriber(node, kind, t, qos_profile=qos) for kind, t, qos in topics]
    made: Any = _filters.TimeSynchronizer(subscribers, queue)
    if slop:
        made = _filters.ApproximateTimeSynchronizer(subscribers, queue, slop)
    made.registerCallback(receive)
    return made


class Pairing:
    """Sets of messages whose stamps are equal, or nearer to each other than `slop` seconds; one thread.

    As message_filters has it: a message that comes is put together with the nearest of the other topics; what was
    delivered is gone.
    """

    def __init__(
        self, topics: int, receive: Callable[..., None], queue: int = 30, slop: float = 0.0
    ) -> None:
        self._receive, self._queue, self._slop = receive, queue, round(slop * 1e9)
        self._waiting: list[dict[int, Any]] = [{} for _ in range(topics)]

    def adder(self, topic: int) -> Callable[[Any], None]:
        """The callback of one topic."""
        return lambda message: self.add(topic, message)

    def add(self, topic: int, message: Any) -> None:
        """A message of one topic."""
        stamp, waiting = nanoseconds(message.header.stamp), self._waiting[topic]
        waiting[stamp] = message
        while len(waiting) > self._queue:
            del waiting[min(waiting)]
        near = [
            [stamp] if k == topic else self._nearest(kept, stamp)
            for k, kept in enumerate(self._waiting)
        ]
        for stamps in itertools.product(*near):
            apart = max(stamps) - min(stamps)
            if stamp in waiting and (apart < self._slop or apart == 0):
                pairs = zip(self._waiting, stamps, strict=True)
                self._receive(*(kept.pop(s) for kept, s in pairs))
                return

    def _nearest(self, kept: dict[int, Any], stamp: int) -> list[int]:
        """The stamps that may belong to one, nearest first."""
        return sorted(
            (s for s in kept if abs(s - stamp) <= self._slop), key=lambda s: abs(s - stamp)
        )
