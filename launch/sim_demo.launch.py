# SPDX-License-Identifier: Apache-2.0
"""A simulated camera and the tracker: `ros2 launch sa2va_ros sim_demo.launch.py prompt:="the red mug"`.

Then, in another terminal: `ros2 topic pub --once /sa2va/command std_msgs/msg/String "data: the green bottle"`.
"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SWITCH = ("true", "false")
# Arguments that go on to tracker.launch.py: name -> (default, description, choices).
TRACKER = {
    "namespace": ("sa2va", "namespace of both nodes", None),
    "prompt": ("the red mug", "what to track from the first image on", None),
    "model": ("", "folder of the model; empty = the tiny one that ships", None),
    "device": ("", "auto, cpu, cuda or cuda:N; empty = auto", None),
    "rviz": ("false", "also start RViz", SWITCH),
    "truth": ("false", "masks from the simulator's truth instead of a model", SWITCH),
    "log_level": ("info", "of the tracker", ("debug", "info", "warn", "error", "fatal")),
}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    own = [
        DeclareLaunchArgument(
            "scene",
            default_value="demo",
            choices=("demo", "random"),
            description="demo: five objects and a script; random: a table that is a function of seed",
        ),
        DeclareLaunchArgument("seed", default_value="0", description="which table"),
        DeclareLaunchArgument("rate", default_value="10.0", description="images per second"),
    ]
    handed = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=choices)
        for name, (value, text, choices) in TRACKER.items()
    ]
    camera = Node(
        package="sa2va_ros",
        executable="sim_camera",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            {
                "scene": LaunchConfiguration("scene"),
                "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
            }
        ],
        output="screen",
    )
    return LaunchDescription([*own, *handed, camera, tracker()])


def tracker() -> IncludeLaunchDescription:
    """The tracker on the simulator's topics, which lie in the same namespace."""
    here = os.path.join(get_package_share_directory("sa2va_ros"), "launch", "tracker.launch.py")
    topics = {
        "camera_ns": ["/", LaunchConfiguration("namespace")],
        "image_topic": "image",
        "depth_topic": "depth",
        "camera_info_topic": "camera_info",
        "rviz_frame": "camera_optical_frame",
    }
    handed = {name: LaunchConfiguration(name) for name in TRACKER}
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(here), launch_arguments={**topics, **handed}.items()
    )
