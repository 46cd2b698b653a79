# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to the camera: best effort by default, as sensor data is; reliable where that is offered.

Best effort matches every publisher. But Fast DDS, the default middleware, then loses every image that
is larger than its shared memory segment (512 KiB; a VGA colour image has 900): not one arrives. So a
topic whose publishers all offer reliable is subscribed reliably, as rosbag2 and the `ros2` command do,
and a best effort publisher that joins turns it back.

A reader of Fast DDS was seen to go deaf for good on a busy machine, with its publisher alive: a topic that
has fallen silent is subscribed anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from rclpy.node import Node

LOOK_SECONDS = 0.5  # between two looks at who publishes
SILENCE_SECONDS = 5.0  # of a publisher, after which it is subscribed anew; twice as long each time it stays silent
DOUBLINGS = 4  # at most


@dataclass
class _Wired:
    """One topic and how it is subscribed now."""

    kind: Any
    topic: str  # as it was asked for; the subscription knows its full name
    receive: Callable[[Any], None]
    qos: QoSProfile
    subscription: Any = None
    heard: float | None = None  # monotonic seconds, the newest message; None = none yet
    renewals: int = 0  # since then

    def hear(self, message: Any) -> None:
        """Hand a message over, and all that wait behind it.

        Not one in each turn of the executor: on a busy machine turns are rarer than images.
        """
        self._hand_over(message)
        self.take_waiting()

    def take_waiting(self) -> None:
        """Hand over what waits on a queue; a topic of which the newest is wanted has none."""
        if self.qos.depth == 1:
            return
        handle = self.subscription.handle
        for _ in range(self.qos.depth):
            with handle:
                taken = handle.take_message(self.kind, False)
            if taken is None:
                return
            self._hand_over(taken[0])

    def _hand_over(self, message: Any) -> None:
        self.heard, self.renewals = time.monotonic(), 0
        self.receive(message)

    @property
    def reliability(self) -> ReliabilityPolicy:
        """What is asked for."""
        return self.qos.reliability


class CameraTopics:
    """The subscriptions of one node that carry images.

    `qos_overrides.<topic>.subscription.*` are honoured. Their reliability has one more value, `automatic`, which is the
    default: best effort, and reliable while every publisher is.

    Args:
        silence: seconds without a message from a publisher, after which it is subscribed anew.
    """

    def __init__(self, node: Node, silence: float = SILENCE_SECONDS) -> None:
        self._node, self._silence = node, silence
        self._wired: list[_Wired] = []
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(LOOK_SECONDS, self._look, clock=steady)

    def subscribe(
        self, kind: Any, topic: str, receive: Callable[[Any], None], qos: QoSProfile
    ) -> str:
        """Subscribe a topic; returns its full name."""
        reliability = self._reliability(topic) or qos.reliability
        # A copy: overrides are written into the profile.
        own = QoSProfile(depth=qos.depth, reliability=reliability)
        wired = _Wired(kind, topic, receive, own)
        self._attach(wired)
        self._wired.append(wired)
        self._suit(wired)
        return str(wired.subscription.topic_name)

    def catch_up(self) -> None:
        """Receive what waits on queues: depth that came before an image may not have had its turn yet."""
        for wired in self._wired:
            wired.take_waiting()

    def drop(self, topic: str) -> None:
        """Unsubscribe a topic that was asked for by that name."""
        for wired in [wired for wired in self._wired if wired.topic == topic]:
            self._node.destroy_subscription(wired.subscription)
            self._wired.remove(wired)

    def clear(self) -> None:
        """Unsubscribe all."""
        for wired in self._wired:
            self._node.destroy_subscription(wired.subscription)
        self._wired.clear()

    def _reliability(self, topic: str) -> ReliabilityPolicy | None:
        """What a parameter says; None = automatic.

        Raises:
            InputError: the parameter has another value.
        """
        name = f"qos_overrides.{self._node.resolve_topic_name(topic)}.subscription.reliability"
        if not self._node.has_parameter(name):
            descriptor = ParameterDescriptor(description=_MEANING, read_only=True)
            self._node.declare_parameter(name, AUTOMATIC, descriptor)
        value = self._node.get_parameter(name).value
        if value not in _RELIABILITIES:
            raise InputError(
                f"parameter {name} is '{value}'; expected one of {', '.join(_RELIABILITIES)}"
            )
        return _RELIABILITIES[value]

    def _look(self) -> None:
        for wired in self._wired:
            self._suit(wired)
            self._revive(wired)

    def _suit(self, wired: _Wired) -> None:
        """Ask for what all publishers offer, unless a parameter says what is wanted."""
        name = wired.subscription.topic_name
        if self._reliability(wired.topic) is not None:
            return
        offers = [info.qos_profile for info in self._node.get_publishers_info_by_topic(name)]
        if not offers:
            return
        reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        wanted = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        if wanted == wired.reliability:
            return
        wired.qos = QoSProfile(depth=wired.qos.depth, reliability=wanted)
        self._attach(wired)
        self._node.get_logger().debug(f"{name}: subscribed {wanted.name.lower()}")

    def _revive(self, wired: _Wired) -> None:
        """Subscribe anew what was heard, is published, and has been silent for long."""
        now, silence = time.monotonic(), self._silence * 2 ** min(wired.renewals, DOUBLINGS)
        if wired.heard is None or now - wired.heard < silence:
            return
        name, wired.heard, wired.renewals = wired.subscription.topic_name, now, wired.renewals + 1
        if self._node.count_publishers(name):
            self._attach(wired)
            why = "its publisher may pause, or the middleware lost it"
            self._node.get_logger().info(
                f"{name}: silent for {silence:g} s; subscribed anew ({why})"
            )

    def _attach(self, wired: _Wired) -> None:
        """Make the subscription; the new one first, so that there is no moment without."""
        before = wired.subscription
        wired.subscription = self._node.create_subscription(
            wired.kind, wired.topic, wired.hear, wired.qos, qos_overriding_options=_OVERRIDES
        )
        if before is not None:
            self._node.destroy_subscription(before)


AUTOMATIC = "automatic"
_RELIABILITIES: dict[str, ReliabilityPolicy | None] = {
    AUTOMATIC: None,
    "best_effort": ReliabilityPolicy.BEST_EFFORT,
    "reliable": ReliabilityPolicy.RELIABLE,
}
_MEANING = "automatic (best effort, and reliable while every publisher is), best_effort or reliable"
_OVERRIDES = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))
