# SPDX-License-Identifier: Apache-2.0
"""A user at the other end of the topics: sends commands and keeps what camera and tracker
published.

Everything it keeps came over DDS. What belongs to one camera image is brought together by the
header's stamp, which camera, truth, `tracks` and `mask` share. All of it also goes into a rosbag2,
as the bytes that arrived.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from sensor_msgs.msg import Image
from std_msgs.msg import String

from sa2va_ros.bags.bag import typestore
from sa2va_ros.messages.images import array_from_image, nanoseconds, rgb_from_image
from sa2va_ros.msg import TrackArray, TrackerStatus, TrackEvent
from sa2va_ros.support.qos import reliable

WAITING_IMAGES = 100  # images whose result may still come; at 10 Hz ten seconds


@dataclass
class RecordedImage:
    """One camera image and what was said about it.

    Attributes:
        stamp: of its header, nanoseconds.
        rgb: uint8 [H, W, 3].
        truth: uint8 [H, W], the simulator's label image (0 = background); None while it has not
            come.
        labels: uint8 [H, W], the tracker's label image.
        tracks: TrackArray.
        received: monotonic seconds at which the tracks came.
    """

    stamp: int
    rgb: np.ndarray | None = None
    truth: np.ndarray | None = None
    labels: np.ndarray | None = None
    tracks: Any = None
    received: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether image, mask and tracks are there."""
        return self.rgb is not None and self.labels is not None and self.tracks is not None


@dataclass(frozen=True)
class SentCommand:
    """A command and when it was sent: monotonic seconds, and the stamp of the newest image seen
    then."""

    text: str
    time: float
    stamp: int


class Recorder:
    """A node with a thread of its own; use it as a context manager.

    Attributes:
        shots: what came back, by stamp; complete ones only stay.
        events: (monotonic seconds, TrackEvent) in the order of arrival.
        commands: what was said.
        status: the latest TrackerStatus, or None.
        names: the simulator's `truth_names`, as sent; "" until then.
    """

    def __init__(self, bag: Path, namespace: str = "/sa2va") -> None:
        self.shots: OrderedDict[int, RecordedImage] = OrderedDict()
        self.events: list[tuple[float, Any]] = []
        self.commands: list[SentCommand] = []
        self.status: Any = None
        self.names = ""
        self._newest = 0
        self._bytes: dict[int, list[tuple[str, bytes]]] = {}
        self._lock = threading.Lock()
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("demo_user", namespace=namespace, context=self._context)
        self._open_bag(bag)
        self._command = self._node.create_publisher(String, "command", reliable(10))
        self._listen(Image, "image", reliable(20), self._on_image)
        self._listen(Image, "truth", reliable(20), self._on_truth)
        self._listen(Image, "mask", reliable(20), self._on_mask)
        self._listen(TrackArray, "tracks", reliable(20), self._on_tracks)
        self._listen(TrackEvent, "events", reliable(50), self._on_event)
        status = reliable(1, latched=True)
        self._listen(TrackerStatus, "sa2va_tracker/status", status, self._on_status)
        self._listen(String, "truth_names", reliable(1, latched=True), self._on_names)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="demo-user", daemon=True)
        self._thread.start()

    def say(self, text: str) -> SentCommand:
        """Send a command as a user does."""
        message = String(data=text)
        said = SentCommand(text, time.monotonic(), self._newest)
        self.commands.append(said)
        self._command.publish(message)
        self._write("command", serialize_message(message))
        return said

    def listeners(self) -> int:
        """How many nodes take commands."""
        return int(self._command.get_subscription_count())

    def complete_shots(self) -> list[RecordedImage]:
        """The shots for which everything came, in the order of their stamps."""
        with self._lock:
            return sorted((s for s in self.shots.values() if s.complete), key=lambda s: s.stamp)

    def close(self) -> None:
        """Leave DDS and finish the bag."""
        self._executor.shutdown()
        self._context.try_shutdown()
        self._thread.join(5)
        with self._lock:
            if self._writer.storage is not None:
                self._writer.close()

    def __enter__(self) -> Recorder:
        """Use as `with Recorder(...) as recorder`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close, whatever happened."""
        self.close()

    # --- bag --------------------------------------------------------------------------------------

    def _open_bag(self, folder: Path) -> None:
        self._writer = Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        self._store = typestore()
        self._links: dict[str, Any] = {}
        self._link("command", "std_msgs/msg/String")

    def _link(self, topic: str, kind: str) -> None:
        name = self._node.resolve_topic_name(topic)
        self._links[topic] = self._writer.add_connection(name, kind, typestore=self._store)

    def _write(self, topic: str, data: bytes) -> None:
        with self._lock:
            if self._writer.storage is not None:
                self._writer.write(self._links[topic], time.time_ns(), data)

    # --- what arrives, on the thread of this node -------------------------------------------------

    def _listen(
        self, kind: Any, topic: str, qos: Any, receive: Callable[[Any, bytes], None]
    ) -> None:
        package, name = kind.__module__.split(".")[0], kind.__name__
        self._link(topic, f"{package}/msg/{name}")

        def on_bytes(data: bytes) -> None:
            receive(deserialize_message(data, kind), data)

        self._node.create_subscription(kind, topic, on_bytes, qos, raw=True)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _shot(self, header: Any) -> RecordedImage:
        stamp = nanoseconds(header.stamp)
        with self._lock:
            shot = self.shots.setdefault(stamp, RecordedImage(stamp))
            waiting = [key for key, other in self.shots.items() if not other.complete]
            for key in waiting[:-WAITING_IMAGES]:  # the tracker skipped these images
                del self.shots[key]
                self._bytes.pop(key, None)
        return shot

    def _keep(self, shot: RecordedImage, topic: str, data: bytes) -> None:
        """Images go into the bag once the tracker answered them; it skips what it has no time
        for."""
        parts = self._bytes.setdefault(shot.stamp, [])
        parts.append((topic, data))
        if shot.complete:
            for name, part in parts:
                self._write(name, part)
            parts.clear()

    def _on_image(self, message: Image, data: bytes) -> None:
        shot = self._shot(message.header)
        shot.rgb = rgb_from_image(message)
        self._newest = shot.stamp
        self._keep(shot, "image", data)

    def _on_truth(self, message: Image, data: bytes) -> None:
        shot = self._shot(message.header)
        shot.truth = array_from_image(message)
        self._keep(shot, "truth", data)

    def _on_mask(self, message: Image, data: bytes) -> None:
        shot = self._shot(message.header)
        shot.labels = array_from_image(message)
        self._keep(shot, "mask", data)

    def _on_tracks(self, message: TrackArray, data: bytes) -> None:
        shot = self._shot(message.header)
        shot.tracks, shot.received = message, time.monotonic()
        self._keep(shot, "tracks", data)

    def _on_event(self, message: TrackEvent, data: bytes) -> None:
        self.events.append((time.monotonic(), message))
        self._write("events", data)

    def _on_status(self, message: TrackerStatus, data: bytes) -> None:
        self.status = message
        self._write("sa2va_tracker/status", data)

    def _on_names(self, message: String, data: bytes) -> None:
        self.names = message.data
        self._write("truth_names", data)
