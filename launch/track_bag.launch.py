# SPDX-License-Identifier: Apache-2.0
"""The tracker on a recording: `ros2 launch sa2va_ros track_bag.launch.py bag:=FOLDER prompt:="the blue mug"`.

Time is the recording's (/clock); everything ends when it is over, unless it loops. For masks of every frame, however
long that takes, use `sa2va track FOLDER -e "the blue mug" -o out`, which needs no ROS.
"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SWITCH = ("true", "false")
# Arguments that go on to tracker.launch.py: name -> (default, description, choices).
TRACKER = {
    "namespace": ("sa2va", "namespace of the tracker", None),
    "prompt": ("", "what to track from the first image on; empty = wait for a command", None),
    "camera_ns": ("/camera/camera", "namespace of the camera's topics in the recording", None),
    "image_topic": (
        "color/image_raw",
        "colour image, below camera_ns unless it begins with /",
        None,
    ),
    "depth_topic": (
        "aligned_depth_to_color/image_raw",
        "aligned depth, below camera_ns unless it begins with /",
        None,
    ),
    "camera_info_topic": (
        "color/camera_info",
        "of the colour camera, below camera_ns unless it begins with /",
        None,
    ),
    "image_transport": ("", "raw or compressed; empty = raw", None),
    "model": ("", "folder of the model; empty = the tiny one that ships", None),
    "device": ("", "auto, cpu, cuda or cuda:N; empty = auto", None),
    "rviz": ("false", "also start RViz", SWITCH),
    "rviz_frame": ("camera_color_optical_frame", "fixed frame of RViz", None),
    "log_level": ("info", "of the tracker", ("debug", "info", "warn", "error", "fatal")),
}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    own = [
        DeclareLaunchArgument("bag", description="folder or file of the recording"),
        DeclareLaunchArgument("speed", default_value="1.0", description="times its own speed"),
        DeclareLaunchArgument(
            "loop",
            default_value="false",
            choices=SWITCH,
            description="begin again at the end; tracks are reset then, as time jumps back",
        ),
    ]
    handed = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=choices)
        for name, (value, text, choices) in TRACKER.items()
    ]
    player = Node(
        package="sa2va_ros",
        executable="bag_player",
        on_exit=Shutdown(reason="the recording is over"),
        parameters=[
            {
                "bag": ParameterValue(LaunchConfiguration("bag"), value_type=str),
                "speed": ParameterValue(LaunchConfiguration("speed"), value_type=float),
                "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
                # The tracker is ready after its model is loaded.
                "wait": 120.0,
            }
        ],
        output="screen",
    )
    return LaunchDescription([*own, *handed, tracker(), player])


def tracker() -> IncludeLaunchDescription:
    """The tracker on the recording's topics and time."""
    here = os.path.join(get_package_share_directory("sa2va_ros"), "launch", "tracker.launch.py")
    handed = {name: LaunchConfiguration(name) for name in TRACKER}
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(here),
        launch_arguments={"use_sim_time": "true", **handed}.items(),
    )
