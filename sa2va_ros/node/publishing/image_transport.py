# SPDX-License-Identifier: Apache-2.0
"""image_transport as Python nodes have it: which topic and type a transport means, and the plugins' wire format.

The only place that knows. The library itself is C++; its Python (`image_transport_py`, since Kilted) makes a node of
its own with a thread of its own, whose subscriptions can be neither made reliable nor renewed. So its topics are spoken
directly: `compressed` and `compressedDepth` are read by `messages/compressed.py`, `compressed` is written here, and
only while somebody listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sa2va_ros.messages.images import fill_image

if TYPE_CHECKING:
    from rclpy.publisher import Publisher

TRANSPORTS: dict[str, tuple[type, str]] = {
    "raw": (Image, ""),
    "compressed": (CompressedImage, "/compressed"),
    "compressedDepth": (CompressedImage, "/compressedDepth"),
}


@dataclass(frozen=True)
class Codec:
    """How pictures are packed: `format` is the field of the message, as compressed_image_transport writes it."""

    suffix: str
    options: tuple[int, ...]
    format: str


# Labels must stay what they are; pictures for people may lose something.
LABELS = Codec(".png", (cv2.IMWRITE_PNG_COMPRESSION, 1), "mono8; png compressed ")
PICTURES = Codec(".jpg", (cv2.IMWRITE_JPEG_QUALITY, 80), "bgr8; jpeg compressed bgr8")


def topic_of(base: str, transport: str) -> tuple[type, str]:
    """Type and topic of an image on a transport of `TRANSPORTS`."""
    kind, suffix = TRANSPORTS[transport]
    return kind, base + suffix


class ImageOutput:
    """An image as `topic` and `topic/compressed`; made and packed while somebody listens, each once.

    Args:
        make: makes a publisher of a type on a topic with a quality of service.
        codec: of the compressed one; its format names the encoding of both.
    """

    def __init__(
        self,
        make: Callable[[type, str, QoSProfile], Publisher],
        topic: str,
        qos: QoSProfile,
        codec: Codec,
    ) -> None:
        self._codec, self._encoding = codec, codec.format.partition(";")[0]
        self._raw = make(*topic_of(topic, "raw"), qos)
        self._packed = make(*topic_of(topic, "compressed"), qos)

    def wanted(self) -> bool:
        """Whether anybody listens to either."""
        return bool(self._raw.get_subscription_count() or self._packed.get_subscription_count())

    def publish(self, header: Header, draw: Callable[[], np.ndarray]) -> None:
        """Send it; `draw` makes uint8 [H, W] or [H, W, C] of the encoding, and is only called if anybody listens."""
        raw, packed = (p.get_subscription_count() for p in (self._raw, self._packed))
        if not (raw or packed):
            return
        pixels = draw()
        if raw:
            self._raw.publish(fill_image(Image(), pixels, self._encoding, header))
        if packed:
            self._packed.publish(compressed(pixels, self._codec, header))


def compressed(pixels: np.ndarray, codec: Codec, header: Header) -> Any:
    """One picture as a `CompressedImage`."""
    data = cv2.imencode(codec.suffix, pixels, codec.options)[1]
    return CompressedImage(header=header, format=codec.format, data=data.tobytes())
