# SPDX-License-Identifier: Apache-2.0
"""Transforms on `/tf` and `/tf_static` where tf2_msgs is installed (the PyPI wheels have none); else nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sa2va_ros.support.qos import reliable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geometry_msgs.msg import TransformStamped
    from rclpy.node import Node


class TfMessages:
    """The publishers of one node. Names are absolute, as tf2's are."""

    def __init__(self, node: Node) -> None:
        self._kind: Any = None
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:
            return
        self._kind = TFMessage
        self._moving = node.create_publisher(TFMessage, "/tf", reliable(100))
        self._static = node.create_publisher(TFMessage, "/tf_static", reliable(1, latched=True))

    @property
    def available(self) -> bool:
        """Whether anything is published."""
        return self._kind is not None

    def send(self, transforms: Sequence[TransformStamped], *, static: bool = False) -> None:
        """Publish transforms; static ones are kept for who comes later."""
        if self._kind is not None:
            publisher = self._static if static else self._moving
            publisher.publish(self._kind(transforms=list(transforms)))
