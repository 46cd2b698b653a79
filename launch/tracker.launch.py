# SPDX-License-Identifier: Apache-2.0
"""The tracker on any camera. The defaults fit a RealSense: `ros2 launch sa2va_ros tracker.launch.py`.

`ros2 launch sa2va_ros tracker.launch.py --show-args` lists the arguments. An argument that is left empty leaves the
value in the parameter file alone.

    ros2 launch realsense2_camera rs_launch.py align_depth.enable:=true
    ros2 launch sa2va_ros tracker.launch.py prompt:="the blue mug" rviz:=true
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

from sa2va_ros.support.launch_files import (
    COMMON,
    SHUTDOWN,
    SIMULATED,
    SWITCH,
    Arguments,
    declared,
    fail_with,
)

if TYPE_CHECKING:
    from launch import LaunchContext

# Launch argument -> (parameter of the node, its type, description).
PARAMETERS: dict[str, tuple[str, type, str]] = {
    "model": ("model", str, "folder of the model: ours or an official Sa2VA checkpoint"),
    "adapter": ("adapter", str, "folder of a fine-tuned adapter"),
    "device": ("device", str, "auto, cpu, cuda or cuda:N"),
    "image_transport": ("image_transport", str, "raw or compressed"),
    "depth_transport": ("depth_transport", str, "raw, compressed or compressedDepth"),
    "use_depth": ("use_depth", bool, "3D results where depth and camera_info arrive"),
    "target_frame": ("target_frame", str, "TF frame of 3D results, such as base_link; needs tf2"),
    "publish_tf": ("publish_tf", bool, "a TF frame for each object; needs tf2"),
    "max_objects": ("max_objects", int, "how many objects may be tracked at once"),
    "prompt": ("default_expression", str, "what to track from the first image on"),
    "autostart": ("autostart", bool, "false = wait for lifecycle transitions"),
    "bond": ("bond", bool, "true = form a bond with Nav2's lifecycle manager; needs bondpy"),
    "use_sim_time": ("use_sim_time", bool, "true = time from /clock"),
}
TOPICS: Arguments = {
    "name": ("sa2va_tracker", "name of the node", None),
    "camera_ns": ("/camera/camera", "namespace of the camera's topics", None),
    "image_topic": (
        "color/image_raw",
        "colour image, below camera_ns unless it begins with /",
        None,
    ),
    "depth_topic": (
        "aligned_depth_to_color/image_raw",
        "depth aligned to colour (16UC1 mm or 32FC1 m), below camera_ns unless it begins with /",
        None,
    ),
    "camera_info_topic": (
        "color/camera_info",
        "of the colour camera, below camera_ns unless it begins with /",
        None,
    ),
    "rviz_frame": ("camera_color_optical_frame", "fixed frame of RViz", None),
}


def arguments() -> list[DeclareLaunchArgument]:
    """All launch arguments, with what `--show-args` prints."""
    share = get_package_share_directory("sa2va_ros")
    file: Arguments = {
        "params_file": (
            os.path.join(share, "config", "tracker.yaml"),
            "parameter file with all parameters of the node",
            None,
        )
    }
    common = {name: row for name, row in COMMON.items() if name not in PARAMETERS}
    own: Arguments = {
        name: (
            "",
            f"{description}; empty = as in params_file (parameter {parameter})",
            ("", *SWITCH) if kind is bool else None,
        )
        for name, (parameter, kind, description) in PARAMETERS.items()
    }
    return declared({**common, **TOPICS, **file, **SIMULATED, **own})


def full_topic(camera: str, topic: str) -> str:
    """The full name of a camera's topic."""
    return topic if topic.startswith("/") else f"{camera.rstrip('/')}/{topic}"


def start(context: LaunchContext, *_: Any) -> list[Node]:
    """The nodes, once the arguments have values."""

    def value(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    given: dict[str, Any] = {
        parameter: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, (parameter, kind, _) in PARAMETERS.items()
        if value(name)
    }
    image, depth, info = (
        full_topic(value("camera_ns"), value(f"{name}_topic"))
        for name in ("image", "depth", "camera_info")
    )
    ends = value("on_exit") == SHUTDOWN and value("respawn") != "true"
    tracker = Node(
        package="sa2va_ros",
        executable="truth_tracker" if value("truth") == "true" else "tracker_node",
        namespace=value("namespace"),
        name=value("name"),
        parameters=[value("params_file"), given] if given else [value("params_file")],
        remappings=[
            ("image", image),
            ("image/compressed", f"{image}/compressed"),
            ("depth", depth),
            ("depth/compressed", f"{depth}/compressed"),
            ("depth/compressedDepth", f"{depth}/compressedDepth"),
            ("camera_info", info),
        ],
        arguments=["--ros-args", "--log-level", value("log_level")],
        output="screen",
        respawn=value("respawn") == "true",
        respawn_delay=1.0,
        on_exit=fail_with if ends else None,
    )
    if value("rviz") != "true":
        return [tracker]
    return [tracker, viewer(value("namespace"), value("rviz_frame"), depth, info)]


def viewer(namespace: str, frame: str, depth: str, info: str) -> Node:
    """RViz; its layout knows the topics by the names they have in the namespace sa2va."""
    share = get_package_share_directory("sa2va_ros")
    here = "/" + namespace.strip("/")
    topics = ("overlay", "target_pose", "target_points", "markers", "detections_3d", "command")
    remaps = [(f"/sa2va/{topic}", f"{here}/{topic}") for topic in topics]
    remaps += [("/sa2va/depth", depth), ("/sa2va/camera_info", info)]
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", os.path.join(share, "rviz", "tracker.rviz"), "-f", frame],
        remappings=remaps,
        output="log",
    )


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=start)])
