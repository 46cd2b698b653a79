# SPDX-License-Identifier: Apache-2.0
"""The other side of the ROS benchmarks: starts real nodes and talks to them over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
LIVING = (0, 1, 2, 3)  # Track.STATE_PENDING to STATE_LOST


def nano_folder() -> Path:
    """A saved model with random weights; the structure is real, the masks mean nothing."""
    from sa2va_model.checkpoints.load import save_model
    from sa2va_model.testing import nano_model

    folder = Path(tempfile.mkdtemp(prefix="nano-"))
    save_model(nano_model(seed=0), folder)
    return folder


class Node:
    """A node as a process of its own; its output goes into a file."""

    def __init__(
        self,
        parameters: Mapping[str, object],
        *,
        namespace: str,
        code: str = "from sa2va_ros.tracker_node import main; raise SystemExit(main())",
    ) -> None:
        command = [sys.executable, "-c", code, "--ros-args", "-r", f"__ns:={namespace}"]
        for name, value in parameters.items():
            if value == "":  # the default; ROS cannot parse an empty value
                continue
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".txt", delete=False)  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """What it printed so far."""
        return Path(self._log.name).read_text(errors="replace")

    def interrupt(self, seconds: float = 20.0) -> tuple[float, int]:
        """Ctrl-C; the seconds until it ended, and its exit status (-9 = it had to be killed)."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        return time.monotonic() - start, status


class Peer:
    """Camera and user in one: publishes images, keeps what comes back.

    Attributes:
        tracks: (arrival in nanoseconds of the system clock, TrackArray), the newest 4000.
    """

    def __init__(self, namespace: str) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import CameraInfo, Image
        from std_msgs.msg import String

        from sa2va_ros.msg import TrackArray, TrackerStatus, TrackEvent
        from sa2va_ros.support.qos import reliable

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("peer", namespace=namespace, context=self.context)
        self.tracks: deque[tuple[int, Any]] = deque(maxlen=4000)
        self.events: deque[Any] = deque(maxlen=4000)
        self.status: deque[Any] = deque(maxlen=100)
        self.diagnostics: deque[Any] = deque(maxlen=100)
        self.masks = 0
        self._image = self.node.create_publisher(Image, "image", 1)
        self.depth = self.node.create_publisher(Image, "depth", 30)
        self.info = self.node.create_publisher(CameraInfo, "camera_info", 5)
        self._command = self.node.create_publisher(String, "command", 10)
        listen = self.node.create_subscription
        listen(TrackArray, "tracks", self._on_tracks, reliable(10))
        listen(Image, "mask", self._on_mask, reliable(5))
        listen(TrackEvent, "events", lambda m: self.events.append(m), reliable(50))
        latched = reliable(1, latched=True)
        listen(TrackerStatus, "sa2va_tracker/status", lambda m: self.status.append(m), latched)
        listen(DiagnosticArray, "/diagnostics", lambda m: self.diagnostics.append(m), reliable(10))
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _on_tracks(self, message: Any) -> None:
        self.tracks.append((time.time_ns(), message))

    def _on_mask(self, message: Any) -> None:
        self.masks += 1

    def image(self, pixels: np.ndarray, stamp: int | None = None) -> Any:
        """An rgb8 message; the stamp is now unless one is given (nanoseconds)."""
        from sensor_msgs.msg import Image
        from std_msgs.msg import Header

        from sa2va_ros.messages.images import fill_image, fill_time

        header = Header(frame_id="camera_optical_frame")
        fill_time(header.stamp, time.time_ns() if stamp is None else stamp)
        return fill_image(Image(), pixels, "rgb8", header)

    def send(self, message: Any) -> None:
        """Publish an image."""
        self._image.publish(message)

    def stream(self, pixels: np.ndarray, seconds: float, rate: float) -> int:
        """Publish like a camera; how many images."""
        count, start = 0, time.monotonic()
        while time.monotonic() - start < seconds:
            self.send(self.image(pixels))
            count += 1
            time.sleep(max(0.0, start + count / rate - time.monotonic()))
        return count

    def say(self, text: str) -> None:
        """Publish a command."""
        from std_msgs.msg import String

        self._command.publish(String(data=text))

    def call(self, kind: Any, name: str, request: Any, seconds: float = 60.0) -> Any:
        """Call a service of the tracker node; None if no answer comes."""
        caller = self.node.create_client(kind, f"sa2va_tracker/{name}")
        try:
            if not caller.wait_for_service(seconds):
                return None
            future = caller.call_async(request)
            return future.result() if wait(future.done, seconds) else None
        finally:
            self.node.destroy_client(caller)

    def change_state(self, transition: int) -> bool:
        """One lifecycle transition; whether it succeeded."""
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.id = transition
        answer = self.call(ChangeState, "change_state", request)
        return answer is not None and bool(answer.success)

    def ready(self, node: Node, seconds: float = 240.0) -> bool:
        """Wait until the node takes images and commands."""

        def listened() -> bool:
            active = bool(self.status) and self.status[-1].state == self.status[-1].ACTIVE
            publishers = (self._image, self._command)
            return active and all(p.get_subscription_count() for p in publishers)

        return wait(lambda: listened() or not node.alive, seconds) and node.alive

    def living(self) -> dict[str, int]:
        """State by id of the tracks on the newest result."""
        if not self.tracks:
            return {}
        return {t.id: t.state for t in self.tracks[-1][1].tracks if t.state in LIVING}

    def close(self) -> None:
        """Leave DDS."""
        self._executor.shutdown()
        self.context.try_shutdown()
        self._thread.join(5)


def wait(condition: Callable[[], object], seconds: float) -> bool:
    """Whether the condition came true in that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def diagnostic(array: Any, name: str, key: str) -> float:
    """A number of the diagnostics; NaN if it is not there."""
    for status in array.status:
        if status.name.endswith(f": {name}"):
            for value in status.values:
                if value.key == key:
                    return float(value.value)
    return float("nan")
