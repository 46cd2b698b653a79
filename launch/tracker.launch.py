# SPDX-License-Identifier: Apache-2.0
"""The tracker on any camera. The defaults fit a RealSense: `ros2 launch sa2va_ros tracker.launch.py`.

`ros2 launch sa2va_ros tracker.launch.py --show-args` lists the arguments. An argument that is left empty leaves the
value in the parameter file alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

if TYPE_CHECKING:
    from launch import LaunchContext

# Launch argument -> (parameter of the node, its type, description).
PARAMETERS: dict[str, tuple[str, type, str]] = {
    "model": ("model", str, "folder of the model: ours or an official Sa2VA checkpoint"),
    "device": ("device", str, "auto, cpu, cuda or cuda:N"),
    "image_transport": ("image_transport", str, "raw or compressed"),
    "max_objects": ("max_objects", int, "how many objects may be tracked at once"),
    "prompt": ("default_expression", str, "what to track from the first image on"),
    "autostart": ("autostart", bool, "false = wait for lifecycle transitions"),
    "use_sim_time": ("use_sim_time", bool, "true = time from /clock"),
}


def arguments() -> list[DeclareLaunchArgument]:
    """All launch arguments, with what `--show-args` prints."""
    share = get_package_share_directory("sa2va_ros")
    fixed = [
        ("namespace", "sa2va", "namespace of the node and its topics"),
        ("name", "sa2va_tracker", "name of the node"),
        ("camera_ns", "/camera/camera", "namespace of the camera's topics"),
        ("image_topic", "color/image_raw", "colour image, below camera_ns unless it begins with /"),
        ("params_file", os.path.join(share, "config", "tracker.yaml"), "parameter file"),
        ("log_level", "info", "debug, info, warn, error or fatal"),
    ]
    declared = [DeclareLaunchArgument(n, default_value=v, description=d) for n, v, d in fixed]
    for name, (parameter, _, description) in PARAMETERS.items():
        text = f"{description}; empty = as in params_file (parameter {parameter})"
        declared.append(DeclareLaunchArgument(name, default_value="", description=text))
    return declared


def image_topic(camera: str, topic: str) -> str:
    """The full name of the image topic."""
    return topic if topic.startswith("/") else f"{camera.rstrip('/')}/{topic}"


def start(context: LaunchContext, *_: Any) -> list[Node]:
    """The node, once the arguments have values."""

    def value(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    given: dict[str, Any] = {
        parameter: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, (parameter, kind, _) in PARAMETERS.items()
        if value(name)
    }
    topic = image_topic(value("camera_ns"), value("image_topic"))
    node = Node(
        package="sa2va_ros",
        executable="tracker_node",
        namespace=value("namespace"),
        name=value("name"),
        parameters=[value("params_file"), given] if given else [value("params_file")],
        remappings=[("image", topic), ("image/compressed", f"{topic}/compressed")],
        arguments=["--ros-args", "--log-level", value("log_level")],
        output="screen",
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=start)])
