# SPDX-License-Identifier: Apache-2.0
"""Load, drops and latency of the node under a slow model: a camera at 30 Hz, steps slowed on purpose.

    python benchmarks/ros/ros_load.py --steps 0.05 0.3 1.0 --images 40 --goals 10

For each step: the share of published images with 3D, whether every stamp is that of a camera image, resident memory at
eleven moments, and how old a result is beyond the step that it took (one period of the camera is to be expected, and
the way of an image through DDS). Then README's step 5,
again and again: a TrackExpression goal, and GetTrackCloud without a name, whose points must be those of the object that
was asked for. The scene is a picture of the simulator's table with its true depth and masks. `--small` takes pictures
of 160x120 and a model with random weights, which cost nothing: what the node does with time, on any machine.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from ros_peer import Node, Peer, nano_folder

RATE = 30.0
SLOW = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import ros_slow
sys.exit(ros_slow.run({{step}}))
"""


class CameraNode:
    """One picture with depth and calibration at 30 Hz, the stamp of now on each."""

    def __init__(self, peer: Peer, width: int, height: int) -> None:
        from sa2va_ros.sim.camera import names
        from sa2va_sim.scripted import demo_scene
        from sa2va_sim.simulator import Simulator

        scene = demo_scene(0).scene
        simulator = Simulator(scene, width, height)
        self.frame = simulator.render()
        self.names = {name: int(value) for value, name in names(scene).items()}
        simulator.close()
        self._peer, self._stop = peer, threading.Event()
        self.sent: dict[tuple[int, int], float] = {}  # when each stamp was sent, monotonic
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from sensor_msgs.msg import Image

        from sa2va_ros.messages.images import fill_image
        from sa2va_ros.sim.camera import camera_info

        due, frame = time.monotonic(), self.frame
        while not self._stop.is_set():
            image = self._peer.image(frame.rgb)
            stamp = image.header.stamp
            self.sent[stamp.sec, stamp.nanosec] = time.monotonic()
            self._peer.info.publish(
                camera_info(frame.camera_matrix, frame.rgb.shape[:2], image.header)
            )
            self._peer.depth.publish(fill_image(Image(), frame.depth, "32FC1", image.header))
            self._peer.send(image)
            due = max(due + 1 / RATE, time.monotonic() - 0.5)
            time.sleep(max(due - time.monotonic(), 0.0))

    def place_of(self, name: str) -> np.ndarray:
        """The centroid of an object's visible surface, [3] in metres, from the simulator's truth."""
        rows, columns = np.nonzero(self.frame.instances == self.names[name])
        z, matrix = self.frame.depth[rows, columns], self.frame.camera_matrix
        x = (columns - matrix[0, 2]) / matrix[0, 0] * z
        y = (rows - matrix[1, 2]) / matrix[1, 1] * z
        return np.stack([x, y, z], 1).mean(0)

    def close(self) -> None:
        """End the camera."""
        self._stop.set()
        self._thread.join()


def resident(pid: int) -> float:
    """Memory of a process, MiB."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def until(condition: Any, seconds: float, what: str) -> Any:
    """What the condition returned once it was true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise TimeoutError(f"{what} within {seconds:g} s")


def measure(peer: Peer, camera: CameraNode, node: Node, images: int) -> dict[str, Any]:
    """One step's figures over so many images."""
    peer.tracks.clear()
    memory: list[float] = []

    def enough() -> bool:
        if len(peer.tracks) >= len(memory) * images / 10:
            memory.append(round(resident(node.process.pid), 1))
        return len(peer.tracks) >= images

    until(enough, 60 + 3 * images, f"{images} images")
    results = list(peer.tracks)[:images]
    seen = [m for _, m in results if any(t.area for t in m.tracks)]
    ages = [m.latency for _, m in results]
    arrivals = [arrival for arrival, _ in results]
    steps = np.diff(arrivals) / 1e9
    beyond = np.array(ages[1:]) - steps
    return {
        "images": len(results),
        "with a mask": len(seen),
        "share with 3D": sum(all(t.has_3d for t in m.tracks if t.area) for m in seen) / len(seen),
        "stamps of the camera": all(
            (m.header.stamp.sec, m.header.stamp.nanosec) in camera.sent for _, m in results
        ),
        "between two results p50 (s)": round(float(np.median(steps)), 3),
        "latency p50 (s)": round(float(np.median(ages)), 3),
        "latency p95 (s)": round(float(np.percentile(ages, 95)), 3),
        "beyond its step p50, p95 (s)": np.percentile(beyond, (50, 95)).round(3).tolist(),
        "resident (MiB)": memory,
    }


def ask(peer: Peer, camera: CameraNode, name: str) -> dict[str, Any]:
    """README's step 5 for one object: the goal, and the points without a name."""
    from rclpy.action import ActionClient

    from sa2va_ros.action import TrackExpression
    from sa2va_ros.srv import GetTrackCloud

    action = ActionClient(peer.node, TrackExpression, "sa2va_tracker/track_expression")
    service = peer.node.create_client(GetTrackCloud, "sa2va_tracker/get_track_cloud")
    until(lambda: action.server_is_ready() and service.service_is_ready(), 60, "the tracker")
    goal = TrackExpression.Goal(
        expression=f"the {name}", stop_when_found=True, continue_after_goal=True
    )
    executor, began = peer.node.executor, time.monotonic()

    def spun(call: Any) -> Any:
        task = executor.create_task(call)
        until(task.done, 30, "a request")
        future = task.result()
        until(future.done, 120, "an answer")
        return future.result()

    handle = spun(lambda: action.send_goal_async(goal))
    result = spun(handle.get_result_async).result
    answer = spun(lambda: service.call_async(GetTrackCloud.Request()))
    outcome: dict[str, Any] = {
        "object": name,
        "code": int(result.error_code),
        "seconds": round(time.monotonic() - began, 1),
        "has_3d": bool(result.track.has_3d),
        "cloud": bool(answer.success),
        "whose": answer.track_id,
    }
    if answer.success:
        dtype = [("xyz", "<f4", 3), ("rgb", "u1", 4)]
        points = np.frombuffer(bytes(answer.cloud.data), dtype)["xyz"]
        outcome["points"] = len(points)
        outcome["off (m)"] = round(float(np.linalg.norm(points.mean(0) - camera.place_of(name))), 3)
    else:
        outcome["message"] = answer.message
    return outcome


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=float, nargs="+", default=[0.05, 0.3, 1.0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--goals", type=int, default=10, help="of README's step 5, at 0.3 s")
    parser.add_argument("--small", action="store_true", help="small pictures and random weights")
    arguments = parser.parse_args()
    for step in arguments.steps:
        run(step, arguments.images, 0 if arguments.small else arguments.goals, arguments.small)


def run(step: float, images: int, goals: int, small: bool) -> None:
    """One node with one step, from its start to its end."""
    namespace = f"/load{round(step * 1000)}"
    parameters: dict[str, object] = {"threads": 1}
    if small:
        parameters |= {"model": str(nano_folder()), "verify_period": 0.0}
    node = Node(parameters, namespace=namespace, code=SLOW.format(step=step))
    peer = Peer(namespace)
    camera = CameraNode(peer, *((160, 120) if small else (640, 480)))

    def masks() -> bool:
        return bool(peer.tracks) and any(t.area for t in peer.tracks[-1][1].tracks)

    try:
        if not peer.ready(node):
            raise TimeoutError(node.output)
        peer.say("the red mug")
        until(masks, 120, "a mask")
        figures = measure(peer, camera, node, images)
        print(json.dumps({"step (s)": step, **figures}), flush=True)
        chosen = sorted(camera.names)
        for k in range(goals if step == 0.3 else 0):
            print(json.dumps(ask(peer, camera, chosen[k % len(chosen)])), flush=True)
    finally:
        camera.close()
        node.interrupt()


if __name__ == "__main__":
    main()
