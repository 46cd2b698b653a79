# SPDX-License-Identifier: Apache-2.0
"""Between this package's own messages and the model's values: tracks, events and captions out; prompts in.

As `images.py`, which does their images and stamps, this fills the fields of messages that it is given and needs
no ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.segmentation.clicks import MAX_POINTS, check_points
from sa2va_model.tracks import Event, FrameResult, Track
from sa2va_ros.messages.images import (
    StampClock,
    array_from_image,
    fill_image,
    fill_time,
    rgb_from_image,
)

MASK_ENCODINGS = ("mono8", "8UC1")


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
    message.reason, message.detail = event.reason.value, event.detail
    message.other_id = event.other_id
    return message


def fill_caption(
    message: Any, answer: Any, question: str, header: Any, *, new_phrase: Callable[[], Any]
) -> Any:
    """Put a `sa2va_model.sa2va.Answer` about one image into a fresh `GroundedCaption`; return it.

    A mask without words of its own gets a phrase with an empty text. The score is that of the mask.
    """
    message.header, message.question, message.text = header, question, answer.text
    message.is_final = True
    masks = answer.masks[:254, -1] if len(answer.masks) else answer.masks
    named = {phrase.mask: phrase for phrase in answer.phrases}
    message.phrases = [
        _fill_phrase(new_phrase(), named.get(k), k + 1, mask, float(answer.targets[k].scores[-1]))
        for k, mask in enumerate(masks)
    ]
    if len(masks):
        labels = np.zeros(masks[0].shape, np.uint8)
        for k, mask in enumerate(masks):
            labels[mask] = k + 1
        fill_image(message.mask, labels, "mono8", header)
    return message


def _fill_phrase(message: Any, phrase: Any, value: int, mask: np.ndarray, score: float) -> Any:
    if phrase is not None:
        message.phrase = phrase.text
        message.char_begin, message.char_end = phrase.begin, phrase.end
    message.score = score
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows):
        message.mask_value = value
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        fill_roi(message.roi, box)
    return message


def prompt_arguments(message: Any) -> dict[str, Any]:
    """What a `VisualPrompt` says, as the keyword arguments of `LiveTracker.prompt`; of a saved object, its name.

    Raises:
        InputError: unknown type, an object without a name, no point, unequal numbers of x, y and labels, a label that
            is not 0 or 1, an empty box or mask. Whether it lies inside the image is checked at the next image.
    """
    kinds = {message.POINTS: "points", message.BOX: "box", message.MASK: "mask"}
    arguments: dict[str, Any] = {"label": message.label, "track_id": message.track_id or None}
    if message.type == message.OBJECT:
        if not message.object.strip():
            raise InputError("prompt object is empty; expected the name of a saved object")
        return arguments | {"object": message.object}
    name = kinds.get(message.type)
    if name is None:
        raise InputError(
            f"prompt type {message.type}; expected 0 (points), 1 (box), 2 (mask) or 3 (object)"
        )
    if message.image.width or message.image.height:
        arguments["image"] = rgb_from_image(message.image)
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
    if message.mask.encoding not in MASK_ENCODINGS:
        raise InputError(
            f"prompt mask is '{message.mask.encoding}'; expected {' or '.join(MASK_ENCODINGS)}, non-zero = object"
        )
    mask = array_from_image(message.mask)
    if not mask.any():
        raise InputError(
            "prompt mask has no pixel of the object; expected mono8, non-zero = object"
        )
    return arguments | {"mask": mask != 0}


def check_prompt(arguments: dict[str, Any], size: tuple[int, int]) -> None:
    """Whether a prompt lies on an image of that size (height, width), as far as it can be told early.

    Raises:
        InputError: it does not; the message says what was expected.
    """
    if arguments.get("image") is not None:
        size = arguments["image"].shape[:2]
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
    marks = labels[: MAX_POINTS + 1] if len(labels) else [1] * len(xs)
    if not len(xs) == len(ys) == len(marks) >= 1:
        raise InputError(
            f"prompt has {len(xs)} x, {len(ys)} y, {len(marks)} labels; expected as many, and at least one"
        )
    if bad := [int(mark) for mark in marks if mark not in (0, 1)]:
        raise InputError(f"point label {bad[0]}; expected 1 (on the object) or 0 (not on it)")
    if len(xs) > MAX_POINTS:  # before they are made to an array
        raise InputError(f"prompt has {len(xs)} points; expected at most {MAX_POINTS}")
    points = np.stack([xs, ys], axis=1).astype(np.float32)
    check_points(points)
    return points, np.asarray(marks, np.int64)
