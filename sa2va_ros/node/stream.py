# SPDX-License-Identifier: Apache-2.0
"""From camera messages to the tracker's frames: which images are used, and when a stream has
started anew. No ROS.

A bad image is refused with a reason and changes nothing: the next one is judged as if it had not
    been there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_ros.messages.images import StampClock, nanoseconds, rgb_from_message
from sa2va_ros.space.depth import PinnedDepth

JUMP_BACK = 0.5  # seconds; less is an image that came late, more is a clock set back or a bag that starts over
JUMP_AHEAD = 10.0  # seconds; less is a pause
FASTEST = 30.0  # seconds of stamps in a second: a recording that is played fast
BELIEVED_AFTER = 5  # images in a row that say so, before size or time is believed to have changed


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
        self._last: int | None = None  # stamp of the latest admitted image, nanoseconds
        self._size: tuple[int, int] | None = None  # height, width
        self._other_size: tuple[int, int] | None = None
        self._others = 0
        self._index = 0
        self._arrived = time.monotonic()  # of the latest image
        self._jumps = 0  # images in a row after a jump in time, and the stamp of the latest of them
        self._jumped = 0

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
        reset = self._check_order(stamp)
        rgb = rgb_from_message(message)
        reset = self._check_size((rgb.shape[0], rgb.shape[1]), others) or reset
        self._last = stamp
        frame = Frame(rgb, self.clock.seconds(message.header.stamp), self._index, companion=depth)
        self._index += 1
        return Admitted(frame, message.header, depth, reset)

    def _check_order(self, stamp: int) -> str:
        """Refuse a stamp that does not follow; a jump is believed when several images in a row have made it.

        Ahead nothing is forgotten: the tracks go on after a pause.
        """
        now = time.monotonic()
        elapsed, self._arrived = now - self._arrived, now
        step = 1.0 if self._last is None else (stamp - self._last) / 1e9
        if self._last is None or -JUMP_BACK <= step <= max(JUMP_AHEAD, FASTEST * elapsed):
            if step <= 0:
                raise InputError(
                    f"image stamp is {-step:.3f} s before the last one; expected a newer one"
                )
            self._jumps = 0
            return ""
        follows = 0 < stamp - self._jumped <= JUMP_AHEAD * 1e9
        self._jumps, self._jumped = self._jumps + 1 if follows else 1, stamp
        where = f"{abs(step):.3f} s {'before' if step < 0 else 'after'} the last one"
        if self._jumps < BELIEVED_AFTER:
            raise InputError(f"image stamp is {where}; expected one that follows it")
        self._jumps = 0
        return f"time jumped back by {-step:.3f} s" if step < 0 else ""

    def _check_size(self, size: tuple[int, int], others: int) -> str:
        if self._size is None or size == self._size:
            self._size = size
            return ""
        self._others = others + 1 if size == self._other_size else 1
        self._other_size = size
        change = f"{self._size[1]}x{self._size[0]} to {size[1]}x{size[0]}"
        if self._others < BELIEVED_AFTER:
            raise InputError(f"image size changed from {change}; expected the size of the stream")
        self._size, self._others = size, 0
        return f"images changed size from {change}"
