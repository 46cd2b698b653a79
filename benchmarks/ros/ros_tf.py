# SPDX-License-Identifier: Apache-2.0
"""Looking a track's frame up at now, as Nav2's following server does: on real tf2, which must be installed.

    python benchmarks/ros/ros_tf.py --steps 0.05 0.15 0.3 --seconds 10

The tracker's results are in `base_link` (a static transform to the camera). For each step of the model: the share of
lookups at now, with 0.1 s of patience, that find `<id>` (stamped with its image) and `<id>_predicted`; how old the
transform is that `<id>` has at any time; and how far the predicted place is off the wall that the camera sees. A model
with random weights, slowed on purpose: only the time matters here.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from typing import Any

import cv2
import numpy as np
from ros_load import SLOW, until
from ros_peer import Node, Peer, nano_folder

LOOKUP = 0.1  # seconds of patience of Nav2's following server
ID, WALL = "wall", 1.5  # metres
PARAMETERS = {
    "threads": 1,
    "verify_period": 0.0,
    "target_frame": "base_link",
    "publish_tf": True,
    "tf_predict": True,
}


def camera_mount() -> Any:
    """The camera's optical frame in `base_link`: at its origin, looking ahead."""
    from geometry_msgs.msg import TransformStamped

    message = TransformStamped(child_frame_id="camera_optical_frame")
    message.header.frame_id = "base_link"
    turned = message.transform.rotation
    turned.x, turned.y, turned.z, turned.w = -0.5, 0.5, -0.5, 0.5
    return message


def measure(peer: Peer, buffer: Any, frame: str, seconds: float) -> dict[str, Any]:
    """Lookups of one step."""
    import tf2_ros
    from rclpy.duration import Duration
    from rclpy.time import Time

    found = {"": 0, "_predicted": 0}
    asked, offs, ages = 0, [], []
    end, clock = time.monotonic() + seconds, peer.node.get_clock()
    while time.monotonic() < end:
        asked += 1
        for suffix in found:
            try:
                moment = clock.now()
                got = buffer.lookup_transform(
                    "base_link", frame + suffix, moment, Duration(seconds=LOOKUP)
                )
            except tf2_ros.TransformException:
                continue
            found[suffix] += 1
            if suffix:
                offs.append(abs(got.transform.translation.x - WALL))
        newest = buffer.lookup_transform("base_link", frame, Time())
        ages.append((clock.now() - Time.from_msg(newest.header.stamp)).nanoseconds / 1e9)
        time.sleep(0.02)
    return {
        "lookups": asked,
        "found": round(found[""] / asked, 3),
        "predicted found": round(found["_predicted"] / asked, 3),
        "newest frame's age p50 (s)": round(float(np.median(ages)), 3),
        "predicted off p50, p95 (m)": [round(float(np.percentile(offs, p)), 3) for p in (50, 95)]
        if offs
        else None,
    }


class WallCamera:
    """A small picture with a wall behind everything at 30 Hz, the stamp of now on each."""

    def __init__(self, peer: Peer) -> None:
        picture = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
        self._rgb = cv2.resize(picture, (160, 120))
        self._depth = np.full((120, 160), WALL, np.float32)
        self._peer, self._stop = peer, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from sensor_msgs.msg import CameraInfo, Image

        from sa2va_ros.messages.images import fill_image

        while not self._stop.wait(1 / 30):
            image = self._peer.image(self._rgb)
            info = CameraInfo(header=image.header, height=120, width=160)
            info.k = [150.0, 0.0, 80.0, 0.0, 150.0, 60.0, 0.0, 0.0, 1.0]
            self._peer.info.publish(info)
            self._peer.depth.publish(fill_image(Image(), self._depth, "32FC1", image.header))
            self._peer.send(image)

    def close(self) -> None:
        """End the camera."""
        self._stop.set()
        self._thread.join()


def run(model: str, step: float, seconds: float) -> None:
    """One node with one step."""
    import tf2_ros

    namespace = f"/tf{round(step * 1000)}"
    peer = Peer(namespace)
    mounted = tf2_ros.StaticTransformBroadcaster(peer.node)
    mounted.sendTransform(camera_mount())
    buffer = tf2_ros.Buffer()
    listener = tf2_ros.TransformListener(buffer, peer.node, spin_thread=False)
    node = Node({"model": model, **PARAMETERS}, namespace=namespace, code=SLOW.format(step=step))
    camera = WallCamera(peer)
    try:
        if not peer.ready(node):
            raise TimeoutError(node.output)
        peer.say("the wall")
        frame = f"{namespace.strip('/')}/{ID}"
        until(
            lambda: buffer.can_transform("base_link", f"{frame}_predicted", _latest()),
            120,
            "a predicted frame",
        )
        figures = measure(peer, buffer, frame, seconds)
        latency = float(np.median([m.latency for _, m in list(peer.tracks)[-20:]]))
        print(
            json.dumps({"step (s)": step, "latency p50 (s)": round(latency, 3), **figures}),
            flush=True,
        )
    finally:
        camera.close()
        node.interrupt()
        listener.unregister()
        peer.close()


def _latest() -> Any:
    from rclpy.time import Time

    return Time()


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=float, nargs="+", default=[0.05, 0.15, 0.3])
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    model = str(nano_folder())
    for step in arguments.steps:
        run(model, step, arguments.seconds)


if __name__ == "__main__":
    main()
