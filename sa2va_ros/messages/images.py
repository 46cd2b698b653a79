# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and arrays: the only place that touches the fields of image messages.

Messages are read and filled by their fields and never constructed here, so this file needs no ROS:
the node passes fresh messages in, and rosbags' or hand-made ones work as well. `cv_bridge` is not
used even where it is installed: what the node needs of it is this file, and the released cv_bridge
does not load beside NumPy 2.

Pixel data goes out as `array.array('B')`, which the generated setters take as it is; they would
check a NumPy array or a list element by element. Stamps are converted here, too.
"""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError

_LAYOUTS: dict[str, tuple[type[np.generic], int]] = {  # encoding -> element type, channels
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "8UC3": (np.uint8, 3),
    "rgba8": (np.uint8, 4),
    "bgra8": (np.uint8, 4),
    "8UC4": (np.uint8, 4),
    "mono8": (np.uint8, 1),
    "8UC1": (np.uint8, 1),
    "mono16": (np.uint16, 1),
    "16UC1": (np.uint16, 1),
    "32FC1": (np.float32, 1),
    "yuv422": (np.uint8, 2),
    "uyvy": (np.uint8, 2),
    "yuv422_yuy2": (np.uint8, 2),
    "yuyv": (np.uint8, 2),
    "bayer_rggb8": (np.uint8, 1),
    "bayer_bggr8": (np.uint8, 1),
    "bayer_gbrg8": (np.uint8, 1),
    "bayer_grbg8": (np.uint8, 1),
}

# OpenCV names a Bayer pattern by its second row, ROS by its first.
_TO_RGB: dict[str, int] = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "8UC4": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "8UC1": cv2.COLOR_GRAY2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}
COLOUR_ENCODINGS = ("rgb8", "mono16", *_TO_RGB)
DEPTH_ENCODINGS = ("16UC1", "32FC1")


def array_from_image(message: Any) -> np.ndarray:
    """The pixels of a `sensor_msgs/Image` in its own layout and the machine's byte order.

    Returns:
        [H, W] or [H, W, C] of the encoding's type; without row padding. May share memory with the
        message.

    Raises:
        InputError: unknown encoding, empty size, a step or a data length that cannot hold the
            image.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise InputError(
            f"image encoding '{message.encoding}' is not supported; expected one of {', '.join(_LAYOUTS)}"
        )
    dtype, channels = np.dtype(layout[0]), layout[1]
    height, width, step = int(message.height), int(message.width), int(message.step)
    named = f"image {width}x{height} {message.encoding}"
    if height < 1 or width < 1:
        raise InputError(f"{named}: empty; expected at least one pixel")
    row = width * channels * dtype.itemsize
    if step < row:
        raise InputError(f"{named}: step is {step} bytes; expected at least {row}")
    if len(message.data) < step * height:
        raise InputError(
            f"{named}: data has {len(message.data)} bytes; expected {step * height} (step {step})"
        )
    flat = np.frombuffer(message.data, np.uint8, count=step * height)
    packed = np.ascontiguousarray(flat.reshape(height, step)[:, :row])
    stored = dtype.newbyteorder(">" if message.is_bigendian else "<")
    pixels = packed.view(stored).astype(dtype, copy=False)
    return pixels.reshape((height, width) if channels == 1 else (height, width, channels))


def rgb_from_image(message: Any) -> np.ndarray:
    """The picture of a `sensor_msgs/Image`: uint8 [H, W, 3] RGB; grey is repeated, transparency
    dropped."""
    if message.encoding in DEPTH_ENCODINGS:
        raise InputError(
            f"image encoding '{message.encoding}' holds distances, not colours; "
            f"expected one of {', '.join(COLOUR_ENCODINGS)}"
        )
    pixels = array_from_image(message)
    if message.encoding == "rgb8":
        return pixels
    if message.encoding == "mono16":
        return cv2.cvtColor((pixels >> 8).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    if pixels.shape[1] % 2 and "yu" in message.encoding:
        raise InputError(
            f"image {pixels.shape[1]}x{pixels.shape[0]} {message.encoding}: expected an even width"
        )
    return cv2.cvtColor(pixels, _TO_RGB[message.encoding])


def rgb_from_compressed(message: Any) -> np.ndarray:
    """The picture of a `sensor_msgs/CompressedImage` (JPEG or PNG): uint8 [H, W, 3] RGB.

    A cut-off JPEG would decode to a picture with a grey end, so the end mark is asked for first.
    """
    data = bytes(message.data)
    named = f"compressed image '{message.format}' of {len(data)} bytes"
    if "compressedDepth" in message.format:
        raise InputError(f"{named}: holds distances, not colours; expected jpeg or png")
    if data.startswith(b"\xff\xd8"):
        complete = data.rstrip(b"\0").endswith(b"\xff\xd9")
    elif data.startswith(b"\x89PNG"):
        complete = b"IEND" in data[-16:]
    else:
        raise InputError(f"{named}: starts like neither; expected jpeg or png data")
    if not complete:
        raise InputError(f"{named}: its end is missing; expected a whole jpeg or png")
    # Pixels stay where the camera had them: an EXIF turn would part them from camera_info.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if decoded is None:
        raise InputError(f"{named}: cannot be decoded; expected jpeg or png")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def depth_from_image(message: Any) -> np.ndarray:
    """Distances of a depth image (REP 118) in metres: float32 [H, W], NaN where nothing was
    measured."""
    if message.encoding not in DEPTH_ENCODINGS:
        raise InputError(
            f"depth encoding '{message.encoding}'; expected {' (mm) or '.join(DEPTH_ENCODINGS)} (m)"
        )
    pixels = array_from_image(message)
    if message.encoding == "16UC1":
        return np.where(pixels == 0, np.nan, pixels * np.float32(0.001)).astype(np.float32)
    return np.where(np.isfinite(pixels) & (pixels > 0), pixels, np.nan).astype(np.float32)


def fill_image(message: Any, pixels: np.ndarray, encoding: str, header: Any) -> Any:
    """Put an array into a fresh `sensor_msgs/Image` and return it.

    Args:
        pixels: [H, W] or [H, W, C] of exactly the encoding's type.
        header: set as it is: outputs carry the very header of the image they were computed on.
    """
    dtype, channels = _LAYOUTS[encoding]
    assert pixels.dtype == dtype, f"{encoding} wants {np.dtype(dtype)}, got {pixels.dtype}"
    assert pixels.shape[2:] == ((channels,) if channels > 1 else ()), (encoding, pixels.shape)
    message.header = header
    message.height, message.width = int(pixels.shape[0]), int(pixels.shape[1])
    message.encoding = encoding
    message.is_bigendian = 0
    message.step = message.width * channels * pixels.dtype.itemsize
    little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    message.data = array.array("B", little.tobytes())
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
