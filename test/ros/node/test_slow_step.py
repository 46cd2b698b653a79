# SPDX-License-Identifier: Apache-2.0
"""What holds while a step takes longer than many images: a camera at 30 Hz, and a model slowed on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

STEP = 0.4  # seconds, on top of the model's own
HEIGHT, WIDTH = 120, 160
SLOW = f"""
import sys, time
from sa2va_ros import tracker_node
from sa2va_ros.node.model_session import ModelSession
process = ModelSession.process
def slowly(self, frame):
    time.sleep({STEP})
    return process(self, frame)
ModelSession.process = slowly
sys.exit(tracker_node.main())
"""
PICTURE = cv2.resize(
    np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8), (WIDTH, HEIGHT)
)


class Camera:
    """Image, compressed depth in tenths of millimetres and camera_info at 30 Hz; depth says which image it is of."""

    def __init__(self, client: Any) -> None:
        from sensor_msgs.msg import CompressedImage

        self._client, self._stop = client, threading.Event()
        self._depth = client.node.create_publisher(CompressedImage, "depth/compressedDepth", 5)
        self.metres: dict[int, float] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from sensor_msgs.msg import CameraInfo, CompressedImage

        from sa2va_ros.messages.images import nanoseconds

        due, count = time.monotonic(), 0
        while not self._stop.is_set():
            image = self._client.image(PICTURE, after=1 / 30)
            metres = 1.0 + (count % 256) / 128
            self.metres[nanoseconds(image.header.stamp)] = metres
            info = CameraInfo(header=image.header, height=HEIGHT, width=WIDTH)
            info.k = [150.0, 0.0, 80.0, 0.0, 150.0, 60.0, 0.0, 0.0, 1.0]
            depth = np.full((HEIGHT, WIDTH), metres * 10_000, np.uint16)
            png = cv2.imencode(".png", depth)[1].tobytes()
            packed = CompressedImage(header=image.header, format="16UC1; compressedDepth png")
            packed.data = bytes(12) + png
            self._client.send("image", image)
            self._depth.publish(packed)
            self._client.send("camera_info", info)
            due, count = due + 1 / 30, count + 1
            time.sleep(max(due - time.monotonic(), 0.0))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def client(
    start_node: Callable[..., Any],
    start_client: Callable[[str], Any],
    nano_folder: Path,
    wait_for: Any,
) -> Iterator[Any]:
    from diagnostic_msgs.msg import DiagnosticArray

    from sa2va_ros.support.qos import reliable

    depth = {"depth_transport": "compressedDepth", "depth_scale": 0.0001}
    settings = {"model": nano_folder, "threads": 1, "status_period": 0.2} | depth
    node = start_node(SLOW, remaps=("__ns:=/slow",), **settings)
    client = start_client("/slow")
    client.wait_connected()
    listening = client.listen(DiagnosticArray, "/diagnostics", reliable(20))
    wait_for(listening.get_publisher_count, 20, "diagnostics")
    client.camera = Camera(client)
    client.command("the wall")
    client.stream_until(None, lambda c: any(t.has_3d for t in c.got["tracks"][-1].tracks))
    yield client
    client.camera.close()
    assert node.process.poll() is None, node.output
    assert "Traceback" not in node.output, node.output


def test_every_frame_has_its_own_depth_however_long_the_step_takes(
    client: Any, wait_for: Any
) -> None:
    from sa2va_ros.messages.images import nanoseconds
    from sa2va_ros.srv import GetTrackCloud

    client.got["tracks"].clear()
    wait_for(lambda: len(client.got["tracks"]) >= 8, 60, "results")
    answers = [
        client.call(GetTrackCloud, "sa2va_tracker/get_track_cloud", GetTrackCloud.Request())
        for _ in range(3)
    ]
    results = [(m.header, t) for m in client.got["tracks"] for t in m.tracks if t.area]
    assert results
    for header, track in results:
        assert track.has_3d
        expected = client.camera.metres[nanoseconds(header.stamp)]
        assert track.pose.pose.position.z == pytest.approx(expected, abs=5e-3)
    for answer in answers:
        assert answer.success, answer.message
        expected = client.camera.metres[nanoseconds(answer.header.stamp)]
        assert answer.pose.position.z == pytest.approx(expected, abs=5e-3)


def test_diagnostics_tell_the_share_of_images_with_3d(client: Any, wait_for: Any) -> None:
    def share() -> str:
        for array in client.got["/diagnostics"]:
            for status in array.status:
                if status.name == "slow/sa2va_tracker: depth" and "3D on" in status.message:
                    return str(next(v.value for v in status.values if "share" in v.key))
        return ""

    client.got["/diagnostics"].clear()
    assert float(wait_for(share, 20, "a share of images with 3D")) == 1.0
