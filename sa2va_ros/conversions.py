# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and arrays: the only place that touches the fields of image messages.

Messages are read and filled by their fields and never constructed here, so this file needs no ROS:
the node passes fresh messages in, and rosbags' or hand-made ones work as well. `cv_bridge` is not
used even where it is installed: what the node needs of it is this file, and the released cv_bridge
    does not load beside NumPy 2.

Pixel data goes out as `array.array('B')`, which the generated setters take as it is; they would
check a NumPy array or a list element by element.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.tracks import Event, FrameResult, Track

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


# --- images in ------------------------------------------------------------------------------------


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


# --- images out -----------------------------------------------------------------------------------


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


# --- time -----------------------------------------------------------------------------------------


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


# --- tracks out -----------------------------------------------------------------------------------


def fill_roi(roi: Any, box: tuple[int, int, int, int] | None) -> Any:
    """Put a pixel box (x1, y1 exclusive) into a `sensor_msgs/RegionOfInterest`; no box leaves it
    empty."""
    x0, y0, x1, y1 = box or (0, 0, 0, 0)
    roi.x_offset, roi.y_offset, roi.width, roi.height = int(x0), int(y0), int(x1 - x0), int(y1 - y0)
    return roi


def centroid(mask: np.ndarray | None) -> tuple[float, float]:
    """Mean x, y in pixels of a bool [H, W] mask; (nan, nan) without one."""
    if mask is None:
        return float("nan"), float("nan")
    moments = cv2.moments(mask.view(np.uint8), binaryImage=True)
    if not moments["m00"]:
        return float("nan"), float("nan")
    return moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]


def fill_track(message: Any, track: Track, clock: StampClock) -> Any:
    """Put one track into a fresh `Track` message and return it."""
    message.id = track.id
    message.mask_value = int(track.mask_value) if track.mask is not None else 0
    message.state = int(track.state)
    message.expression = track.expression
    message.label = track.label
    message.score = float(track.score)
    fill_roi(message.roi, track.box)
    message.centroid_x, message.centroid_y = centroid(track.mask)
    message.area = int(track.area)
    message.age = int(track.age)
    for name in ("first_seen", "last_seen", "last_keyframe"):
        seconds = getattr(track, name)
        if seconds is not None:
            fill_time(getattr(message, name), clock.nanoseconds(seconds))
    return message


def fill_track_array(
    message: Any,
    result: FrameResult,
    header: Any,
    *,
    clock: StampClock,
    latency: float,
    new_track: Callable[[], Any],
) -> Any:
    """Put all tracks of a frame into a fresh `TrackArray` message and return it; latency in
    seconds."""
    message.header = header
    message.height, message.width = int(result.height), int(result.width)
    message.tracks = [fill_track(new_track(), track, clock) for track in result.tracks]
    message.latency = float(latency)
    return message


def fill_event(message: Any, event: Event, header: Any) -> Any:
    """Put one event into a fresh `TrackEvent` message and return it."""
    message.header = header
    message.type = int(event.kind)
    message.track_id = event.track_id
    message.expression = event.expression
    message.score = float(event.score)
    message.detail = event.detail
    return message


# --- answers out ---------------------------------------------------------------------------------


def fill_caption(
    message: Any, answer: Any, question: str, header: Any, *, new_phrase: Callable[[], Any]
) -> Any:
    """Put a `sa2va_model.sa2va.Answer` about one image into a fresh `GroundedCaption`; return it.

    A mask without words of its own gets a phrase with an empty text. The model scores no phrase: NaN.
    """
    message.header, message.question, message.text = header, question, answer.text
    message.is_final = True
    masks = answer.masks[:254, -1] if len(answer.masks) else answer.masks
    named = {phrase.mask: phrase for phrase in answer.phrases}
    message.phrases = [
        _fill_phrase(new_phrase(), named.get(k), k + 1, mask) for k, mask in enumerate(masks)
    ]
    if len(masks):
        labels = np.zeros(masks[0].shape, np.uint8)
        for k, mask in enumerate(masks):
            labels[mask] = k + 1
        fill_image(message.mask, labels, "mono8", header)
    return message


def _fill_phrase(message: Any, phrase: Any, value: int, mask: np.ndarray) -> Any:
    if phrase is not None:
        message.phrase = phrase.text
        message.char_begin, message.char_end = phrase.begin, phrase.end
    message.score = float("nan")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows):
        message.mask_value = value
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        fill_roi(message.roi, box)
    return message


# --- prompts in -----------------------------------------------------------------------------------


def prompt_arguments(message: Any) -> dict[str, Any]:
    """What a `VisualPrompt` says, as the keyword arguments of `LiveTracker.prompt`.

    Raises:
        InputError: unknown type, no point, unequal numbers of x, y and labels, a label that is not
            0 or 1, an empty
            box or mask. Whether it lies inside the image is checked at the next image.
    """
    name = {message.POINTS: "points", message.BOX: "box", message.MASK: "mask"}.get(message.type)
    if name is None:
        raise InputError(f"prompt type {message.type}; expected 0 (points), 1 (box) or 2 (mask)")
    arguments: dict[str, Any] = {"label": message.label, "track_id": message.track_id or None}
    if name == "points":
        points, labels = _points(message.x, message.y, message.point_labels)
        return arguments | {"points": points, "labels": labels}
    if name == "box":
        box = message.box
        if not box.width or not box.height:
            raise InputError(
                f"prompt box is {box.width}x{box.height} pixels; expected at least 1x1"
            )
        corner = (box.x_offset + box.width, box.y_offset + box.height)
        return arguments | {"box": (box.x_offset, box.y_offset, *corner)}
    mask = array_from_image(message.mask)
    if mask.ndim != 2 or not mask.any():
        raise InputError(
            "prompt mask has no pixel of the object; expected mono8, non-zero = object"
        )
    return arguments | {"mask": mask != 0}


def check_prompt(arguments: dict[str, Any], size: tuple[int, int]) -> None:
    """Whether a prompt lies on an image of that size (height, width), as far as it can be told early.

    Raises:
        InputError: it does not; the message says what was expected.
    """
    height, width = size
    if (mask := arguments.get("mask")) is not None and mask.shape != size:
        raise InputError(
            f"prompt mask is {mask.shape[1]}x{mask.shape[0]}; expected the image's {width}x{height}"
        )
    if (box := arguments.get("box")) is not None and (box[0] >= width or box[1] >= height):
        raise InputError(f"prompt box {list(box)} is outside the image of {width}x{height}")
    if (points := arguments.get("points")) is not None:
        outside = (points < 0).any(axis=1) | (points >= (width, height)).any(axis=1)
        if outside.any():
            raise InputError(
                f"prompt point {points[outside][0].tolist()} is outside the image of {width}x{height}"
            )


def _points(
    xs: Sequence[float], ys: Sequence[float], labels: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Clicked points as float32 [N, 2] and their labels as int64 [N] (none given = all on the
    object)."""
    marks = list(labels) or [1] * len(xs)
    if not len(xs) == len(ys) == len(marks) >= 1:
        raise InputError(
            f"prompt has {len(xs)} x, {len(ys)} y, {len(marks)} labels; expected as many, and at least one"
        )
    if bad := [int(mark) for mark in marks if mark not in (0, 1)]:
        raise InputError(f"point label {bad[0]}; expected 1 (on the object) or 0 (not on it)")
    points = np.stack([xs, ys], axis=1).astype(np.float32)
    if not np.isfinite(points).all():
        raise InputError("prompt has a point that is not a number; expected pixels")
    return points, np.asarray(marks, np.int64)
