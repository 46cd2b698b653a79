# SPDX-License-Identifier: Apache-2.0
"""Several cameras on one model: `ros2 launch sa2va_ros cameras.launch.py cameras:="[front, wrist]"`.

Each camera has a tracker with all its topics in a namespace of its own, such as `/sa2va/front`; `/sa2va/command` is for
all of them. The model is in memory once.

    ros2 launch sa2va_ros cameras.launch.py cameras:="[front, wrist]" \\
        camera_namespaces:="[/front_camera, /wrist_camera]" model:=/models/Sa2VA-4B
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from sa2va_ros.support.launch_files import COMMON, SHUTDOWN, Arguments, declared, fail_with

if TYPE_CHECKING:
    from launch import LaunchContext

OWN: Arguments = {
    "cameras": ("[front, wrist]", "names of the cameras, each a namespace below `namespace`", None),
    "camera_namespaces": (
        "",
        "namespaces of the cameras' own topics, in the same order; empty = /NAME",
        None,
    ),
    "image_topic": ("color/image_raw", "colour image, below the camera's namespace", None),
    "depth_topic": ("aligned_depth_to_color/image_raw", "depth aligned to colour", None),
    "camera_info_topic": ("color/camera_info", "of the colour camera", None),
    "prompt": ("", "what every camera tracks from its first image on", None),
}
SHARED = ("namespace", "model", "device", "log_level", "on_exit", "respawn")


def start(context: LaunchContext, *_: Any) -> list[Node]:
    """The process with all cameras."""

    def value(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    given = {
        name: ParameterValue(LaunchConfiguration(name))
        for name in ("cameras", "camera_namespaces", "model", "device")
        if value(name)
    }
    topics = {name: value(name) for name in ("image_topic", "depth_topic", "camera_info_topic")}
    words = {"default_expression": value("prompt")} if value("prompt") else {}
    share = get_package_share_directory("sa2va_ros")
    ends = value("on_exit") == SHUTDOWN and value("respawn") != "true"
    space = "/" + value("namespace").strip("/")
    return [
        Node(
            package="sa2va_ros",
            executable="cameras_node",
            parameters=[
                os.path.join(share, "config", "tracker.yaml"),
                {**given, **topics, **words},
            ],
            # Of the one node alone: the cameras' nodes have namespaces below.
            ros_arguments=["-r", f"sa2va_cameras:__ns:={space}", "--log-level", value("log_level")],
            output="screen",
            respawn=value("respawn") == "true",
            respawn_delay=1.0,
            on_exit=fail_with if ends else None,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    common = {name: COMMON[name] for name in SHARED}
    return LaunchDescription([*declared({**common, **OWN}), OpaqueFunction(function=start)])
