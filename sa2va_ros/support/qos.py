# SPDX-License-Identifier: Apache-2.0
"""Quality of service of the node's topics. All can be changed by the standard `qos_overrides.*` parameters."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

NEWEST_IMAGE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# A second of a camera at 30 Hz: what an image needs must still be there when a busy machine gets to it.
SENSOR_QUEUE = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)


def reliable(depth: int, *, latched: bool = False) -> QoSProfile:
    """Reliable, so that both kinds of subscribers match; latched = late subscribers get the last
    message."""
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability)
