# SPDX-License-Identifier: Apache-2.0
"""From camera messages to the tracker's frames: which images are used, and when a stream has started anew. No ROS.

A bad image is refused with a reason and changes nothing: the next one is judged as if it had not been there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.io.stamp_order import PATIENCE, StampOrder
from sa2va_ros.messages.images import StampClock, nanoseconds, rgb_from_message
from sa2va_ros.space.depth import PinnedDepth


@dataclass(frozen=True)
class Admitted:
    """An image that is used.

    Attributes:
        header: of its message, for everything that is computed on it.
        depth: what belongs to it in space; None if depth is not used.
        reset: why the tracks before it must be forgotten; "" if they go on.
    """

    frame: Frame
    header: Any
    depth: PinnedDepth | None
    reset: str


class ImageStream:
    """Turns the messages of one camera into frames with exact stamps and running numbers."""

    def __init__(self) -> None:
        self.clock = StampClock()
        self._order = StampOrder()
        self._size: tuple[int, int] | None = None  # height, width
        self._other_size: tuple[int, int] | None = None
        self._others = 0
        self._index = 0
        self._arrived = time.monotonic()  # of the latest image

    def admit(
        self,
        message: Any,
        *,
        now: int | None = None,
        max_age: float = 0.0,
        depth: PinnedDepth | None = None,
    ) -> Admitted:
        """Decode one `Image` or `CompressedImage`.

        Args:
            depth: what belongs to it in space; goes with the frame through the tracker.
            now: the node's time in nanoseconds, and `max_age` in seconds (0 = any), to refuse old
                images.

        Raises:
            InputError: the image cannot be used; the message says why.
        """
        # In a row means that nothing else came between.
        others, self._others = self._others, 0
        stamp = nanoseconds(message.header.stamp)
        if stamp == 0:
            raise InputError("image stamp is zero; expected the time the image was taken")
        if max_age and now is not None and now - stamp > max_age * 1e9:
            raise InputError(f"image is {(now - stamp) / 1e9:.2f} s old; max_age is {max_age:g} s")
        now_here = time.monotonic()
        waited, self._arrived = now_here - self._arrived, now_here
        seconds = self.clock.seconds(message.header.stamp)
        reset = self._order.check(seconds, waited)
        rgb = rgb_from_message(message)
        reset = self._check_size((rgb.shape[0], rgb.shape[1]), others) or reset
        self._order.accept(seconds)
        frame = Frame(rgb, seconds, self._index, companion=depth)
        self._index += 1
        return Admitted(frame, message.header, depth, reset)

    def _check_size(self, size: tuple[int, int], others: int) -> str:
        if self._size is None or size == self._size:
            self._size = size
            return ""
        self._others = others + 1 if size == self._other_size else 1
        self._other_size = size
        change = f"{self._size[1]}x{self._size[0]} to {size[1]}x{size[0]}"
        if self._others < PATIENCE:
            raise InputError(f"image size changed from {change}; expected the size of the stream")
        self._size, self._others = size, 0
        return f"images changed size from {change}"
