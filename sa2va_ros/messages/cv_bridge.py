# SPDX-License-Identifier: Apache-2.0
"""The distribution's cv_bridge, where it loads: the only place that imports it, and that says when it is used.

It reads what it reads without a copy: an array over the message's own bytes. Colours are not asked of it, because it
copies an image even into the order that it already has; the conversions of `encodings.py` are OpenCV's, as its own.
Checks come before it: it takes a step shorter than a row, and rows with odd padding, without a word.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np


@cache
def bridge() -> Any:
    """A `cv_bridge.CvBridge`, or why there is none, in words: one is enough, it has no state."""
    try:
        from cv_bridge import CvBridge

        made = CvBridge()
        made.encoding_to_dtype_with_channels("rgb8")  # loads its compiled half
    except (ImportError, AttributeError, RuntimeError, SystemError) as error:
        # Released ones are built against NumPy 1 and do not load beside NumPy 2.
        lines = str(error).strip().splitlines()
        return f"cv_bridge is not used ({lines[0] if lines else type(error).__name__})"
    return made


def usable() -> bool:
    """Whether images are read through cv_bridge."""
    return not isinstance(bridge(), str)


def stored_pixels(message: Any, dtype: np.dtype, channels: int) -> np.ndarray | None:
    """The pixels of a checked `sensor_msgs/Image` as cv_bridge reads them, [H, W] or [H, W, C].

    Args:
        dtype, channels: of the encoding as we know it.

    Returns:
        May share memory with the message. None = read it yourself: cv_bridge is not there, does not know the encoding
        or knows it otherwise, or bytes are in the other order (which it swaps in a way that NumPy 2 has not).
    """
    pixel = dtype.itemsize * channels
    foreign = bool(message.is_bigendian) == (sys.byteorder == "little") and dtype.itemsize > 1
    if not usable() or foreign or message.step % pixel:
        return None
    if _known(message.encoding) != (dtype, channels):
        return None
    pixels: np.ndarray = bridge().imgmsg_to_cv2(message)
    return pixels


@cache
def _known(encoding: str) -> tuple[np.dtype, int] | None:
    """What cv_bridge takes an encoding for; None = it does not know it. A camera has one or two."""
    try:
        name, channels = bridge().encoding_to_dtype_with_channels(encoding)
    except (TypeError, RuntimeError):  # CvBridgeError is a TypeError
        return None
    return np.dtype(name), int(channels)
