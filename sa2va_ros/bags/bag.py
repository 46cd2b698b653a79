# SPDX-License-Identifier: Apache-2.0
"""Read images from a rosbag2 without ROS (rosbags from PyPI; sqlite3 and mcap).

`BagImages` is a frame source like those of `sa2va_model.io.frames`; its frames remember the header of their message.
Messages are read as in the node. `writer.py` writes what the node publishes.
"""

from __future__ import annotations

import logging
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame, check_size
from sa2va_ros.bags.parts import open_parts, words
from sa2va_ros.bags.video_topics import VIDEO_TYPES, TopicDecoder
from sa2va_ros.messages.images import StampClock, nanoseconds, rgb_from_message

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
TRACKS = "sa2va_ros/msg/TrackArray"
EVENT = "sa2va_ros/msg/TrackEvent"
PACKAGE = "sa2va_ros"
IMAGE_TYPES = (IMAGE, COMPRESSED, *VIDEO_TYPES)
PATIENCE = 5  # images in a row of another size before the stream is believed to have changed
RATED = 60  # images whose stamps give the rate
RATES = (0.01, 1000.0)  # images per second that a camera can have


# --- message definitions ---------------------------------------------------------------------------------------------


def message_folder() -> Path:
    """The folder with our *.msg files: beside the source tree, or in share/ of whatever prefix is installed."""
    here = Path(__file__).resolve().parents[1]
    share = Path("share") / PACKAGE / "msg"
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates = [here.parent / "msg", here / "share" / "msg"]
    candidates += [parent / share for parent in here.parents]
    candidates += [Path(prefix) / share for prefix in (*prefixes, sys.prefix) if prefix]
    for folder in candidates:
        if (folder / "TrackArray.msg").is_file():
            return folder
    raise InputError(
        f"TrackArray.msg not found in {candidates[0]} nor in share/{PACKAGE}/msg of any installed prefix; "
        "expected the message definitions of this package"
    )


def typestore() -> Typestore:
    """The standard ROS 2 messages plus ours."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(message_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"{PACKAGE}/msg/{path.stem}"))
    store.register(types)
    return store


def fresh(store: Typestore, name: str) -> Any:
    """A message of type `name` with every field at its ROS default."""
    values: dict[str, Any] = {}
    for field, (kind, detail) in store.fielddefs[name][1]:
        values[field] = _default(store, kind, detail)
    if name == "geometry_msgs/msg/Quaternion":
        values["w"] = 1.0
    return store.types[name](**values)


def _default(store: Typestore, kind: Nodetype, detail: Any) -> Any:
    if kind == Nodetype.NAME:
        return fresh(store, detail)
    if kind == Nodetype.BASE:
        base = detail[0]
        return {"string": "", "bool": False}.get(base, 0.0 if base.startswith("float") else 0)
    (inner, inner_detail), length = detail
    if inner == Nodetype.BASE and inner_detail[0] != "string":
        size = length if kind == Nodetype.ARRAY else 0
        return np.zeros(size, np.uint8 if inner_detail[0] in ("octet", "byte") else inner_detail[0])
    count = length if kind == Nodetype.ARRAY else 0
    return [_default(store, inner, inner_detail) for _ in range(count)]


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BagFrame(Frame):
    """A frame that remembers its message.

    Attributes:
        stamp: seconds since the first image (exact to the nanosecond through `BagImages.clock`).
        header: std_msgs/Header of the message; a zero stamp is replaced by the time of recording.
        recorded: nanoseconds, when the bag received the message.
    """

    header: Any
    recorded: int


class BagImages:
    """The images of one topic of a rosbag2, in the order of recording.

    Also reads what a killed recorder left, up to the cut, and H.264 topics. A bad image is skipped and counted.

    Attributes:
        topic: the topic they come from.
        storage: "sqlite3" or "mcap".
        clock: turns the seconds of the frames back into exact stamps.
        skipped: images of the last reading that could not be used; `first_skipped` says why the first could not.
    """

    def __init__(self, path: Path | str, topic: str | None = None) -> None:
        """Open the bag and pick the topic.

        Args:
            path: a bag folder, or a .db3 or .mcap file.
            topic: None takes the only image topic there is.

        Raises:
            InputError: no readable bag, or the choice of the topic is not clear; lists what the bag holds.
        """
        self._path = Path(path)
        self._store = get_typestore(Stores.ROS2_JAZZY)
        for kind, definition in VIDEO_TYPES.items():
            self._store.register(get_types_from_msg(definition, kind))
        self._parts = open_parts(self._path)
        types = {name: kind for part in self._parts for name, (kind, _) in part.topics.items()}
        self.topic, self._type = _choose(self._path, types, topic)
        self.name = f"{self._path}: topic {self.topic}"
        counts = [part.topics.get(self.topic, ("", 0))[1] for part in self._parts]
        self.frame_count: int | None = sum(counts)
        times = [(_stamp(raw), recorded) for recorded, raw in islice(self._messages(), RATED)]
        # Drivers that set no stamp, or always the same: the time of recording is the only one.
        self._still = len(times) > 1 and len({stamp for stamp, _ in times}) == 1
        self.fps: float | None = _rate(times)
        self.storage = _storage_name(self._path)
        self.clock = StampClock()
        self.skipped, self.first_skipped = 0, ""

    def __iter__(self) -> Iterator[BagFrame]:
        """Yield the images one by one.

        Raises:
            InputError: after the last of them: the recording is damaged, the images changed their size, or none could
                be used; names topic and position.
        """
        self.skipped, self.first_skipped = 0, ""
        expected: tuple[int, int] | None = None
        index = others = 0
        for rgb, header, recorded, name in self._pictures():
            size = (rgb.shape[0], rgb.shape[1])
            if expected not in (None, size):
                others += 1
                try:
                    check_size(name, rgb.shape, expected)
                except InputError as error:
                    if others >= PATIENCE:
                        raise
                    self._skip(str(error))
                continue
            expected, others = size, 0
            if self._still or not nanoseconds(header.stamp):
                header.stamp.sec, header.stamp.nanosec = divmod(recorded, 1_000_000_000)
            yield BagFrame(rgb, self.clock.seconds(header.stamp), index, header, recorded)
            index += 1
        fault = next((part.fault for part in self._parts if part.fault), "")
        if index == 0:
            why = self.first_skipped or fault
            raise InputError(why or f"{self.name}: holds no message, expected at least one image")
        if self.skipped:
            logging.getLogger(__name__).warning(
                "%s: %d images skipped; the first: %s", self.name, self.skipped, self.first_skipped
            )
        if fault:
            raise InputError(f"{fault}; {index} images were read, expected a whole rosbag2")

    def _skip(self, why: str) -> None:
        self.skipped += 1
        self.first_skipped = self.first_skipped or why

    def _pictures(self) -> Iterator[tuple[np.ndarray, Any, int, str]]:
        """Picture, header, time of recording and a name for messages, of every message that can be decoded."""
        video = TopicDecoder() if self._type in VIDEO_TYPES else None
        for number, (recorded, raw) in enumerate(self._messages()):
            name = f"{self.name}: image {number}"
            try:
                message = self._deserialize(raw, name)
                header = self._header(message)
                if video is None:
                    yield rgb_from_message(message), header, recorded, name
                    continue
                for rgb, given in video.add(message, (header, recorded, name)):
                    yield rgb, *given
            except InputError as error:
                text = str(error)
                self._skip(text if text.startswith(name) else f"{name}: {text}")
        if video is not None:
            for rgb, given in video.finish():
                yield rgb, *given
            for _ in range(video.missing):
                self._skip(
                    f"{self.name}: video packets that no picture came of, expected keyframes"
                )

    def _header(self, message: Any) -> Any:
        """The header; CompressedVideo has its fields without one."""
        if hasattr(message, "header"):
            return message.header
        kind = self._store.types["std_msgs/msg/Header"]
        return kind(stamp=message.timestamp, frame_id=message.frame_id)

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        for part in self._parts:
            yield from part.messages(self.topic)

    def _deserialize(self, raw: bytes, name: str) -> Any:
        try:
            return self._store.deserialize_cdr(raw, self._type)
        except Exception as error:  # generated code: struct, index, value and unicode errors
            raise InputError(
                f"{name}: truncated message ({words(error)}), expected a whole {self._type}"
            ) from error


def _rate(both: Sequence[tuple[int, int]]) -> float | None:
    """Images per second by the stamps of their headers, or by the times of recording where those stand still.

    The median of the steps: neither a pause nor an image out of order changes it. None = not known.
    """
    for times in zip(*both, strict=True):
        steps = [later - before for before, later in pairwise(sorted(set(times)))]
        if not steps or len(steps) * 2 < len(both) - 1:
            continue
        rate = 1e9 / float(np.median(steps))
        if RATES[0] <= rate <= RATES[1]:
            return rate
    return None


def _stamp(raw: bytes) -> int:
    """The stamp that every image message begins with, nanoseconds (CDR: four bytes of encapsulation before it)."""
    if len(raw) < 12:
        return 0
    seconds, rest = struct.unpack_from("<iI" if raw[1] else ">iI", raw, 4)
    return int(seconds) * 1_000_000_000 + int(rest)


def _storage_name(path: Path) -> str:
    files = [path] if path.is_file() else list(path.iterdir())
    return "mcap" if any(".mcap" in file.suffixes for file in files) else "sqlite3"


def _choose(path: Path, types: dict[str, str], topic: str | None) -> tuple[str, str]:
    """The topic to read and its type."""
    images = {name: kind for name, kind in types.items() if kind in IMAGE_TYPES}
    if topic is not None:
        name = topic if topic in types else "/" + topic.lstrip("/")
        if name not in types:
            raise InputError(f"{path}: no topic '{topic}', expected one of: {_listing(types)}")
        if name not in images:
            raise InputError(
                f"{path}: topic '{name}' is {types[name]}, expected one of {', '.join(IMAGE_TYPES)}"
            )
        return name, images[name]
    if not images:
        raise InputError(
            f"{path}: no image topic, expected one of {', '.join(IMAGE_TYPES)}; it has: {_listing(types)}"
        )
    if len(images) > 1:
        raise InputError(
            f"{path}: {len(images)} image topics, expected --topic with one of: {_listing(images)}"
        )
    return next(iter(images.items()))


def _listing(types: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in sorted(types.items())) or "no topics"


def topics_of(path: Path | str) -> dict[str, str]:
    """The topics of a bag and their types."""
    parts = open_parts(Path(path))
    return {name: kind for part in parts for name, (kind, _) in part.topics.items()}


def read_messages(path: Path | str, topic: str) -> Iterator[tuple[int, Any]]:
    """The messages of one topic, ours or standard, as (nanoseconds of recording, message), up to a damage."""
    store, parts = typestore(), open_parts(Path(path))
    types = {name: kind for part in parts for name, (kind, _) in part.topics.items()}
    if topic not in types:
        raise InputError(f"{path}: no topic '{topic}', expected one of: {_listing(types)}")
    for part in parts:
        for recorded, raw in part.messages(topic):
            yield recorded, store.deserialize_cdr(raw, types[topic])
