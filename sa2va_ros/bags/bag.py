# SPDX-License-Identifier: Apache-2.0
"""Read images from a rosbag2 and write tracks into one, without ROS (rosbags from PyPI; sqlite3 and mcap).

`BagImages` is a frame source like those of `sa2va_model.io.frames`; its frames remember the header of their message.
`BagWriter` writes what the node publishes: `tracks`, `mask` and `events`, each with the header of the image that the
masks were computed on. Messages are read and filled by `conversions`, as in the node.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Connection, Nodetype
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from sa2va_model.errors import InputError
from sa2va_model.io.frames import BAG_SUFFIXES, Frame, check_size
from sa2va_model.tracks import FrameResult
from sa2va_ros.messages.images import (
    StampClock,
    fill_image,
    nanoseconds,
    rgb_from_compressed,
    rgb_from_image,
)
from sa2va_ros.messages.tracks import fill_event, fill_track_array

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
TRACKS = "sa2va_ros/msg/TrackArray"
EVENT = "sa2va_ros/msg/TrackEvent"
PACKAGE = "sa2va_ros"


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

    Attributes:
        topic: the topic they come from.
        storage: "sqlite3" or "mcap".
        clock: turns the seconds of the frames back into exact stamps.
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
        self._files = _storage_files(self._path)
        with ExitStack() as stack:
            readers = [stack.enter_context(_open(file)) for file in self._files]
            connections = [link for reader in readers for link in reader.connections]
            self.topic, self._type = _choose(self._path, connections, topic)
            count = sum(link.msgcount for link in connections if link.topic == self.topic)
            seconds = sum(reader.duration for reader in readers) / 1e9
        self.name = f"{self._path}: topic {self.topic}"
        self.frame_count: int | None = count
        self.fps: float | None = (count - 1) / seconds if count > 1 and seconds > 0 else None
        self.storage = _storage_name(self._path)
        self.clock = StampClock()

    def __iter__(self) -> Iterator[BagFrame]:
        """Yield the images one by one.

        Raises:
            InputError: a message cannot be read or decoded, or the size changes; names topic and position.
        """
        expected: tuple[int, int] | None = None
        index = 0
        for recorded, raw in self._messages():
            name = f"{self.name}: image {index}"
            message = self._deserialize(raw, name)
            try:
                rgb = (
                    rgb_from_image(message) if self._type == IMAGE else rgb_from_compressed(message)
                )
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
            check_size(name, rgb.shape, expected)
            expected = (rgb.shape[0], rgb.shape[1])
            if not nanoseconds(message.header.stamp):
                stamp = message.header.stamp
                stamp.sec, stamp.nanosec = divmod(recorded, 1_000_000_000)
            seconds = self.clock.seconds(message.header.stamp)
            yield BagFrame(rgb, seconds, index, message.header, recorded)
            index += 1
        if index == 0:
            raise InputError(f"{self.name}: holds no message, expected at least one image")

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        for file in self._files:
            with _open(file) as reader:
                links = [link for link in reader.connections if link.topic == self.topic]
                if not links:
                    continue
                try:
                    for _, recorded, raw in reader.messages(links):
                        yield recorded, raw
                except (
                    Exception
                ) as error:  # storage, database and compression errors of three libraries
                    raise InputError(
                        f"{file}: damaged ({_words(error)}), expected a whole rosbag2"
                    ) from error

    def _deserialize(self, raw: bytes, name: str) -> Any:
        try:
            return self._store.deserialize_cdr(raw, self._type)
        except Exception as error:  # generated code: struct, index, value and unicode errors
            raise InputError(
                f"{name}: truncated message ({_words(error)}), expected a whole {self._type}"
            ) from error


def _storage_files(path: Path) -> list[Path]:
    """What to open: the bag folder, or its storage files if the recorder died before writing metadata.yaml."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder, expected a rosbag2")
    if path.is_file() or (path / "metadata.yaml").exists():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in BAG_SUFFIXES)
    if not files:
        raise InputError(f"{path}: holds no metadata.yaml, .db3 or .mcap file, expected a rosbag2")
    return files


def _open(path: Path) -> Reader:
    """A reader for `with`; every way in which a bag can be broken becomes an InputError."""
    try:
        with Reader(path):
            pass  # what is wrong shows on opening; rosbags raises errors of four libraries and asserts
        return Reader(path)
    except Exception as error:
        raise InputError(
            f"{path}: not readable as a rosbag2 ({_words(error)}), expected sqlite3 or mcap storage"
        ) from error


def _storage_name(path: Path) -> str:
    files = [path] if path.is_file() else list(path.iterdir())
    return "mcap" if any(".mcap" in file.suffixes for file in files) else "sqlite3"


def _choose(path: Path, connections: Sequence[Connection], topic: str | None) -> tuple[str, str]:
    """The topic to read and its type."""
    types = {link.topic: link.msgtype for link in connections}
    images = {name: kind for name, kind in types.items() if kind in (IMAGE, COMPRESSED)}
    if topic is not None:
        name = topic if topic in types else "/" + topic.lstrip("/")
        if name not in types:
            raise InputError(f"{path}: no topic '{topic}', expected one of: {_listing(types)}")
        if name not in images:
            raise InputError(
                f"{path}: topic '{name}' is {types[name]}, expected {IMAGE} or {COMPRESSED}"
            )
        return name, images[name]
    if not images:
        raise InputError(
            f"{path}: no image topic, expected one of {IMAGE} or {COMPRESSED}; it has: {_listing(types)}"
        )
    if len(images) > 1:
        raise InputError(
            f"{path}: {len(images)} image topics, expected --topic with one of: {_listing(images)}"
        )
    return next(iter(images.items()))


def _listing(types: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in sorted(types.items())) or "no topics"


def _words(error: Exception) -> str:
    """An error of another library in one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def read_messages(path: Path | str, topic: str) -> Iterator[tuple[int, Any]]:
    """The messages of one topic, ours or standard, as (nanoseconds of recording, message)."""
    store = typestore()
    for file in _storage_files(Path(path)):
        with _open(file) as reader:
            links = [link for link in reader.connections if link.topic == topic]
            if not links:
                types = {link.topic: link.msgtype for link in reader.connections}
                raise InputError(f"{path}: no topic '{topic}', expected one of: {_listing(types)}")
            for link, recorded, raw in reader.messages(links):
                yield recorded, store.deserialize_cdr(raw, link.msgtype)


# --- writing ---------------------------------------------------------------------------------------------------------


class BagWriter:
    """Writes tracks, masks and events of processed bag frames into a new rosbag2.

    Always closes properly, after an error too: what was written before it can be read. Label images are mostly one
    value, so the bag is compressed (zstd; per chunk in mcap, per message in sqlite3).
    """

    def __init__(
        self,
        path: Path | str,
        clock: StampClock,
        *,
        storage: str = "mcap",
        namespace: str = "/sa2va",
    ) -> None:
        """Create the bag.

        Args:
            path: the new bag's folder.
            clock: the clock of the source of the frames.
            storage: "mcap" or "sqlite3".
            namespace: topics are written below it.

        Raises:
            InputError: the path exists, or the storage is unknown.
        """
        if storage not in ("mcap", "sqlite3"):
            raise InputError(f"storage is '{storage}', expected mcap or sqlite3")
        if Path(path).exists():
            raise InputError(f"{path}: exists already, expected a new bag folder")
        self._clock = clock
        self._store = typestore()
        self._writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
        mode = CompressionMode.STORAGE if storage == "mcap" else CompressionMode.MESSAGE
        self._writer.set_compression(mode, CompressionFormat.ZSTD)
        self._writer.open()
        self._links = {
            name: self._writer.add_connection(f"{namespace}/{name}", kind, typestore=self._store)
            for name, kind in (("tracks", TRACKS), ("mask", IMAGE), ("events", EVENT))
        }

    def write(self, result: FrameResult, frame: BagFrame) -> None:
        """Write one processed frame: a TrackArray (also when empty), a label image, its events."""
        header = frame.header
        tracks = fill_track_array(
            self._fresh(TRACKS),
            result,
            header,
            clock=self._clock,
            latency=0.0,
            new_track=lambda: self._fresh(f"{PACKAGE}/msg/Track"),
        )
        mask = fill_image(self._fresh(IMAGE), result.labels(), "mono8", header)
        mask.data = np.frombuffer(mask.data, np.uint8)
        self._put("tracks", tracks, frame.recorded)
        self._put("mask", mask, frame.recorded)
        for event in result.events:
            self._put("events", fill_event(self._fresh(EVENT), event, header), frame.recorded)

    def close(self) -> None:
        """Finish the bag; a second call does nothing."""
        if self._writer.storage is not None:
            self._writer.close()

    def __enter__(self) -> BagWriter:
        """Use as `with BagWriter(...) as writer`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the bag, whatever happened."""
        self.close()

    def _fresh(self, kind: str) -> Any:
        return fresh(self._store, kind)

    def _put(self, name: str, message: Any, recorded: int) -> None:
        link = self._links[name]
        self._writer.write(link, recorded, self._store.serialize_cdr(message, link.msgtype))
