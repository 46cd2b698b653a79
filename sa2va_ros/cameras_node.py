# SPDX-License-Identifier: Apache-2.0
"""Several cameras, one model: a tracker node for each camera, in one process.

    python -m sa2va_ros.cameras_node --ros-args -r sa2va_cameras:__ns:=/sa2va -p "cameras:=[front, wrist]" \\
        -p "camera_namespaces:=[/front_camera, /wrist_camera]"

The camera `front` has a node `sa2va_tracker` in the namespace `/sa2va/front`, with all topics, services, actions and
parameters of `tracker_node`. The model is in memory once; questions of all cameras wait in one queue, and the cameras
take turns at the frames. What is said on `/sa2va/command` is said to all cameras.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import rclpy
from rclpy.node import Node
from std_msgs.msg import String

from sa2va_model.errors import InputError
from sa2va_model.freed_memory import keep_freed_memory
from sa2va_ros.node.model_session import ModelSession
from sa2va_ros.node.shared_model import SharedModel
from sa2va_ros.support.parameter import Parameter, declare
from sa2va_ros.support.qos import reliable
from sa2va_ros.support.spinning import context, spin
from sa2va_ros.tracker_node import TrackerNode, leave

TOPICS = {"image": "image_topic", "depth": "depth_topic", "camera_info": "camera_info_topic"}
"""What a tracker subscribes to, and the parameter that says where it is, below the camera's namespace."""
TABLE = (
    Parameter("image_topic", "color/image_raw", "Colour image, below the camera's namespace."),
    Parameter("depth_topic", "aligned_depth_to_color/image_raw", "Depth aligned to colour."),
    Parameter("camera_info_topic", "color/camera_info", "Of the colour camera."),
)


class CamerasNode(Node):
    """Makes the cameras' nodes and hands commands on to all of them.

    Raises:
        InputError: no camera, the same name twice, or another number of namespaces.
    """

    def __init__(self, stop_requested: threading.Event) -> None:
        super().__init__("sa2va_cameras")
        names = list(self.declare_parameter("cameras", ["front", "wrist"]).value or [])
        spaces = list(self.declare_parameter("camera_namespaces", [""]).value or [])
        declare(self, TABLE)
        spaces = [f"/{name}" for name in names] if spaces in ([], [""]) else spaces
        check_cameras(names, spaces)
        self._shared = SharedModel()
        self.trackers = [
            self._tracker(name, space, stop_requested)
            for name, space in zip(names, spaces, strict=True)
        ]
        self.create_subscription(String, "command", self._on_command, reliable(10))

    def _tracker(self, name: str, space: str, stop_requested: threading.Event) -> TrackerNode:
        inside = f"{self.get_namespace().rstrip('/')}/{name}"
        rules = [f"__ns:={inside}"]
        for topic, parameter in TOPICS.items():
            source = f"{space.rstrip('/')}/{self.get_parameter(parameter).value}"
            kinds = ("", "/compressed", "/compressedDepth") if topic != "camera_info" else ("",)
            rules += [f"{topic}{kind}:={source}{kind}" for kind in kinds]
        return TrackerNode(
            stop_requested,
            session=ModelSession(self._shared, name),
            cli_args=["--ros-args", *(part for rule in rules for part in ("-r", rule))],
        )

    def _on_command(self, message: String) -> None:
        for tracker in self.trackers:
            tracker.obey(message.data)


def check_cameras(names: Sequence[str], spaces: Sequence[str]) -> None:
    """Refuse names that cannot be told apart, and another number of namespaces.

    Raises:
        InputError: says which parameter.
    """
    if not names or len(set(names)) < len(names):
        raise InputError(f"parameter cameras is {list(names)}; expected names, each of them once")
    bad = [name for name in names if not name.isidentifier()]
    if bad:
        raise InputError(f"parameter cameras has {bad[0]!r}; expected letters, digits and _")
    if len(spaces) != len(names):
        raise InputError(
            f"parameter camera_namespaces has {len(spaces)} entries; expected {len(names)}, one for each camera"
        )


def main(args: list[str] | None = None) -> int:
    """Run all cameras until asked to stop; the exit status is 2 if one could not start."""
    keep_freed_memory()
    try:
        with context(args) as stop_requested:
            status = run(CamerasNode(stop_requested), stop_requested)
    except (InputError, rclpy.exceptions.ParameterException) as error:
        print(f"cameras_node: {error}", file=sys.stderr)  # noqa: T201 - there is no node that could log
        return 2
    return leave(status)


def run(cameras: CamerasNode, stop_requested: threading.Event) -> int:
    """Serve all nodes on one thread."""
    problems: list[str] = []

    def failed() -> None:
        problems.append("a camera did not start")
        stop_requested.set()

    def on_stop() -> None:
        for tracker in cameras.trackers:
            tracker.on_stop()

    try:
        for tracker in cameras.trackers:
            tracker.autostart(failed)
        spin(cameras, stop_requested, on_stop, cameras.trackers)
    finally:
        for tracker in cameras.trackers:
            tracker.close()
            tracker.destroy_node()
        cameras.destroy_node()
    return 2 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
