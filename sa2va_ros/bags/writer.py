# SPDX-License-Identifier: Apache-2.0
"""Write tracks into a rosbag2, without ROS: what the node publishes, with the header of each image."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from sa2va_model.errors import InputError
from sa2va_model.tracks import FrameResult
from sa2va_ros.bags.bag import EVENT, IMAGE, PACKAGE, TRACKS, BagFrame, fresh, typestore
from sa2va_ros.messages.images import StampClock, fill_image
from sa2va_ros.messages.tracks import fill_event, fill_track_array

FLUSH_SECONDS = 1.0  # after which what was written can be read, even if the process is killed


class BagWriter:
    """Writes tracks, masks and events of processed bag frames into a new rosbag2.

    Always closes properly, after an error too. What was written a second ago is on disk, and `BagImages` and
    `read_messages` read it even if the process is killed. Label images are mostly one value, so the bag is compressed
    (zstd; per chunk in mcap, per message in sqlite3).
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
        self._clock, self._flushed = clock, time.monotonic()
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
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Put what was written on disk."""
        storage: Any = (
            self._writer.storage
        )  # rosbags keeps a chunk of 1 MB, or one transaction to the end
        if hasattr(storage, "close_chunk"):
            if storage.chunk.msgs:
                storage.close_chunk()
            storage.bio.flush()
        else:
            storage.conn.commit()
        self._flushed = time.monotonic()

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
