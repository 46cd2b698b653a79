# SPDX-License-Identifier: Apache-2.0
"""Looking a track's frame up at now, as Nav2's following server does: on real tf2, which must be installed.

    python benchmarks/ros_tf.py --steps 0.05 0.15 0.3 --seconds 10

The tracker's results are in `base_link` (a static transform to the camera). For each step of the model: the share of
lookups at now, with 0.1 s of patience, that find `<id>` (stamped with its image) and `<id>_predicted`; how old the
transform is that `<id>` has at any time; and how far the predicted place is from the simulator's truth.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from ros_load import SLOW, CameraNode, until
from ros_peer import Node, Peer

LOOKUP = 0.1  # seconds of patience of Nav2's following server
ID = "red_mug"
PARAMETERS = {"threads": 1, "target_frame": "base_link", "publish_tf": True, "tf_predict": True}


def camera_mount() -> Any:
    """The camera's optical frame in `base_link`: at its origin, looking ahead."""
    from geometry_msgs.msg import TransformStamped

    message = TransformStamped(child_frame_id="camera_optical_frame")
    message.header.frame_id = "base_link"
    turned = message.transform.rotation
    turned.x, turned.y, turned.z, turned.w = -0.5, 0.5, -0.5, 0.5
    return message


def measure(
    peer: Peer, buffer: Any, frame: str, truth: np.ndarray, seconds: float
) -> dict[str, Any]:
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
                place = got.transform.translation
                offs.append(float(np.linalg.norm([place.x, place.y, place.z] - truth)))
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


def run(step: float, seconds: float) -> None:
    """One node with one step."""
    import tf2_ros
    from tf2_ros import StaticTransformBroadcaster

    from sa2va_ros.messages.clouds import matrix_from_transform

    namespace = f"/tf{round(step * 1000)}"
    peer = Peer(namespace)
    mount = camera_mount()
    mounted = StaticTransformBroadcaster(peer.node)
    mounted.sendTransform(mount)
    buffer = tf2_ros.Buffer()
    listener = tf2_ros.TransformListener(buffer, peer.node, spin_thread=False)
    node = Node(PARAMETERS, namespace=namespace, code=SLOW.format(step=step))
    camera = CameraNode(peer)
    try:
        if not peer.ready(node):
            raise TimeoutError(node.output)
        peer.say("the red mug")
        until(
            lambda: peer.tracks and any(t.has_3d for t in peer.tracks[-1][1].tracks),
            120,
            "an object",
        )
        rotation = matrix_from_transform(mount.transform)[:3, :3]
        truth = rotation @ camera.place_of("red mug")
        frame = f"{namespace.strip('/')}/{ID}"
        until(
            lambda: buffer.can_transform("base_link", f"{frame}_predicted", _latest()),
            60,
            "a frame",
        )
        print(
            json.dumps({"step (s)": step, **measure(peer, buffer, frame, truth, seconds)}),
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
    for step in arguments.steps:
        run(step, arguments.seconds)


if __name__ == "__main__":
    main()
