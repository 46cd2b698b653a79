# SPDX-License-Identifier: Apache-2.0
"""A base in the simulator follows what it is told: `ros2 launch sa2va_ros follow_demo.launch.py`.

    ros2 topic pub --once /sa2va/follow std_msgs/msg/String "data: follow the red can"
    ros2 topic pub --once /sa2va/follow std_msgs/msg/String "data: stop"
    ros2 topic echo /sa2va/follow_result

The benchmark is `ros2 run sa2va_ros follow_demo --episodes 20`.
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
    "namespace": ("sa2va", "namespace of all nodes", None),
    "model": ("", "folder of the model; empty = the tiny one that ships", None),
    "device": ("", "auto, cpu, cuda or cuda:N; empty = auto", None),
    "rviz": ("false", "also start RViz", SWITCH),
    "truth": ("false", "masks from the simulator's truth instead of a model", SWITCH),
    "log_level": ("info", "of the tracker", ("debug", "info", "warn", "error", "fatal")),
}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    own = [
        DeclareLaunchArgument("seed", default_value="1", description="which scene"),
        DeclareLaunchArgument(
            "command",
            default_value="",
            description="followed at once, such as 'follow the red can' (scene 1 has one); "
            "empty = wait for the topic `follow`",
        ),
        DeclareLaunchArgument("distance", default_value="0.7", description="metres to keep"),
        DeclareLaunchArgument(
            "duration", default_value="0.0", description="seconds to follow; 0 = until `stop`"
        ),
    ]
    handed = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=choices)
        for name, (value, text, choices) in TRACKER.items()
    ]
    robot = Node(
        package="sa2va_ros",
        executable="sim_rover",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{"seed": ParameterValue(LaunchConfiguration("seed"), value_type=int)}],
        output="screen",
    )
    follower = Node(
        package="sa2va_ros",
        executable="follower",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            {
                "command": ParameterValue(LaunchConfiguration("command"), value_type=str),
                "distance": ParameterValue(LaunchConfiguration("distance"), value_type=float),
                "duration": ParameterValue(LaunchConfiguration("duration"), value_type=float),
            }
        ],
        output="screen",
    )
    return LaunchDescription([*own, *handed, robot, tracker(), follower])


def tracker() -> IncludeLaunchDescription:
    """The tracker on the simulator's topics, which lie in the same namespace."""
    here = os.path.join(get_package_share_directory("sa2va_ros"), "launch", "tracker.launch.py")
    topics = {
        "camera_ns": ["/", LaunchConfiguration("namespace")],
        "image_topic": "image",
        "depth_topic": "depth",
        "camera_info_topic": "camera_info",
        "rviz_frame": "odom",
    }
    handed = {name: LaunchConfiguration(name) for name in TRACKER}
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(here), launch_arguments={**topics, **handed}.items()
    )
