# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and arrays: the only place that touches the fields of image messages.

Messages are read and filled by their fields and never constructed here, so this file needs no ROS:
the node passes fresh messages in, and rosbags' or hand-made ones work as well. Where the distribution's
cv_bridge loads it reads the pixels (`cv_bridge.py`); checks and colours are the same with and without it.

Pixel data goes out as `array.array('B')`, which the generated setters take as it is; they would
check a NumPy array or a list element by element. Stamps are converted here, too.
"""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_ros.messages.compressed import depth_from_compressed, rgb_from_compressed
from sa2va_ros.messages.cv_bridge import stored_pixels
from sa2va_ros.messages.encodings import ENCODINGS, depth_encoding, metres, picture_encoding

__all__ = [
    "StampClock",
    "array_from_image",
    "depth_from_compressed",
    "depth_from_image",
    "depth_from_message",
    "fill_image",
    "fill_time",
    "nanoseconds",
    "overlay_bgr",
    "rgb_from_compressed",
    "rgb_from_image",
    "rgb_from_message",
]


def array_from_image(message: Any) -> np.ndarray:
    """The pixels of a `sensor_msgs/Image` in its own layout and the machine's byte order.

    Returns:
        [H, W] or [H, W, C] of the encoding's type, more rows than H with colour planes behind the luma (nv12); without
        row padding. May share memory with the message.

    Raises:
        InputError: unknown encoding, empty or impossible size, a step or a data length that cannot hold the image.
    """
    entry = ENCODINGS.get(message.encoding) or picture_encoding(message.encoding)
    dtype = np.dtype(entry.dtype)
    height, width, step = int(message.height), int(message.width), int(message.step)
    named = f"image {width}x{height} {message.encoding}"
    if height < 1 or width < 1:
        raise InputError(f"{named}: empty; expected at least one pixel")
    if width % entry.even[0] or height % entry.even[1]:
        sides = "width and height" if entry.even[1] > 1 else "width"
        raise InputError(f"{named}: expected an even {sides}")
    row, rows = width * entry.channels * dtype.itemsize, height * entry.rows // 2
    if entry.rows > 2 and 2 * step == entry.rows * width and len(message.data) == step * height:
        step = width  # drivers that count the planes into the step
    if step < row:
        raise InputError(f"{named}: step is {step} bytes; expected at least {row}")
    if len(message.data) < step * rows:
        raise InputError(
            f"{named}: data has {len(message.data)} bytes; expected {step * rows} (step {step})"
        )
    if (pixels := stored_pixels(message, dtype, entry.channels)) is not None:
        return pixels
    flat = np.frombuffer(message.data, np.uint8, count=step * rows)
    packed = np.ascontiguousarray(flat.reshape(rows, step)[:, :row])
    stored = dtype.newbyteorder(">" if message.is_bigendian else "<")
    pixels = packed.view(stored).astype(dtype, copy=False)
    return pixels.reshape((rows, width) if entry.channels == 1 else (rows, width, entry.channels))


def rgb_from_message(message: Any) -> np.ndarray:
    """The picture of an `Image` or a `CompressedImage`: uint8 [H, W, 3] RGB."""
    return (rgb_from_image if hasattr(message, "encoding") else rgb_from_compressed)(message)


def depth_from_message(message: Any, scale: float = 0.0) -> np.ndarray:
    """The distances of an `Image` or a `CompressedImage`: float32 [H, W] metres, NaN = not measured."""
    read = depth_from_image if hasattr(message, "encoding") else depth_from_compressed
    return read(message, scale)


def rgb_from_image(message: Any) -> np.ndarray:
    """The picture of a `sensor_msgs/Image`: uint8 [H, W, 3] RGB.

    Grey is repeated, transparency dropped; of 16-bit colours the upper eight bits are kept, mono16 gets `contrast`.
    """
    picture = picture_encoding(message.encoding).picture
    assert picture is not None
    return picture(array_from_image(message))


def depth_from_image(message: Any, scale: float = 0.0) -> np.ndarray:
    """Distances of a depth image in metres: float32 [H, W], NaN where nothing was measured.

    Args:
        scale: metres for one unit; 0 = as REP 118 has it, millimetres for integers and metres for floats.
    """
    entry = depth_encoding(message.encoding)
    return metres(array_from_image(message), scale or entry.metres or 1.0)


def fill_image(message: Any, pixels: np.ndarray, encoding: str, header: Any) -> Any:
    """Put an array into a fresh `sensor_msgs/Image` and return it.

    Args:
        pixels: [H, W] or [H, W, C] of exactly the encoding's type.
        header: set as it is: outputs carry the very header of the image they were computed on.
    """
    dtype, channels = ENCODINGS[encoding].dtype, ENCODINGS[encoding].channels
    assert pixels.dtype == dtype, f"{encoding} wants {np.dtype(dtype)}, got {pixels.dtype}"
    assert pixels.shape[2:] == ((channels,) if channels > 1 else ()), (encoding, pixels.shape)
    message.header = header
    message.height, message.width = int(pixels.shape[0]), int(pixels.shape[1])
    message.encoding = encoding
    message.is_bigendian = 0
    message.step = message.width * channels * pixels.dtype.itemsize
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    data = array.array("B")
    data.frombytes(little.view(np.uint8).data)  # the one copy
    message.data = data
    return message


def overlay_bgr(rgb: np.ndarray) -> np.ndarray:
    """The overlay in the order viewers expect: uint8 [H, W, 3] BGR."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)


def nanoseconds(stamp: Any) -> int:
    """A `builtin_interfaces/Time` as whole nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def fill_time(stamp: Any, value: int) -> Any:
    """Put whole nanoseconds into a `builtin_interfaces/Time` and return it."""
    stamp.sec, stamp.nanosec = divmod(value, 1_000_000_000)
    return stamp


class StampClock:
    """Seconds for the model, whole nanoseconds for messages, and no loss between them.

    A double cannot hold the nanoseconds of today's date, so the model's seconds count from the
    first stamp that was seen; they come back exact for 48 days around it.
    """

    def __init__(self) -> None:
        self._origin: int | None = None

    def seconds(self, stamp: Any) -> float:
        """Seconds since the first stamp this clock was shown."""
        value = nanoseconds(stamp)
        if self._origin is None:
            self._origin = value
        return (value - self._origin) / 1e9

    def nanoseconds(self, seconds: float) -> int:
        """The stamp that `seconds` came from."""
        return (self._origin or 0) + round(seconds * 1e9)
