# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to the camera: best effort by default, as sensor data is; reliable where that is offered.

Best effort matches every publisher. But Fast DDS, the default middleware, then loses every image that
is larger than its shared memory segment (512 KiB; a VGA colour image has 900): not one arrives. So a
topic whose publishers all offer reliable is subscribed reliably, as rosbag2 and the `ros2` command do,
and a best effort publisher that joins turns it back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

if TYPE_CHECKING:
    from rclpy.node import Node

LOOK_SECONDS = 0.5  # between two looks at who publishes


@dataclass
class _Wired:
    """One topic and how it is subscribed now."""

    kind: Any
    topic: str
    receive: Callable[[Any], None]
    qos: QoSProfile
    subscription: Any = None

    @property
    def reliability(self) -> ReliabilityPolicy:
        """What is asked for."""
        return self.qos.reliability


class CameraTopics:
    """The subscriptions of one node that carry images.

    `qos_overrides.<topic>.subscription.*` are honoured; a reliability that is given there is kept.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._wired: list[_Wired] = []
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(LOOK_SECONDS, self._look, clock=steady)

    def subscribe(
        self, kind: Any, topic: str, receive: Callable[[Any], None], qos: QoSProfile
    ) -> str:
        """Subscribe a topic; returns its full name."""
        # A copy: overrides are written into the profile.
        own = QoSProfile(depth=qos.depth, reliability=qos.reliability)
        wired = _Wired(kind, topic, receive, own)
        wired.subscription = self._node.create_subscription(
            kind, topic, receive, own, qos_overriding_options=_OVERRIDES
        )
        self._wired.append(wired)
        self._suit(wired)
        return str(wired.subscription.topic_name)

    def clear(self) -> None:
        """Unsubscribe all."""
        for wired in self._wired:
            self._node.destroy_subscription(wired.subscription)
        self._wired.clear()

    def _look(self) -> None:
        for wired in self._wired:
            self._suit(wired)

    def _suit(self, wired: _Wired) -> None:
        """Ask for what all publishers offer, unless a parameter says what is wanted."""
        name = wired.subscription.topic_name
        given = self._node.get_parameter(f"qos_overrides.{name}.subscription.reliability").value
        if given != "best_effort":
            return
        offers = [info.qos_profile for info in self._node.get_publishers_info_by_topic(name)]
        if not offers:
            return
        reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        wanted = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        if wanted == wired.reliability:
            return
        wired.qos = QoSProfile(depth=wired.qos.depth, reliability=wanted)
        # The new one first, so that there is no moment without.
        before, wired.subscription = (
            wired.subscription,
            self._node.create_subscription(
                wired.kind, wired.topic, wired.receive, wired.qos, qos_overriding_options=_REST
            ),
        )
        self._node.destroy_subscription(before)
        self._node.get_logger().debug(f"{name}: subscribed {wanted.name.lower()}")


_OVERRIDES = QoSOverridingOptions.with_default_policies()
_REST = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))
