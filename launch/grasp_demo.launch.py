# SPDX-License-Identifier: Apache-2.0
"""A gripper in the simulator picks up what it is told: `ros2 launch sa2va_ros grasp_demo.launch.py`.

    ros2 topic pub --once /sa2va/pick std_msgs/msg/String "data: pick up the green bottle"
    ros2 topic echo /sa2va/pick_result
    ros2 service call /sa2va/sim_gantry/next_episode std_srvs/srv/Trigger          another table

The benchmark with counts of failures is `ros2 run sa2va_ros grasp_demo --episodes 50`.
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
        DeclareLaunchArgument("seed", default_value="1", description="which table"),
        DeclareLaunchArgument(
            "command",
            default_value="",
            description="picked up at once, such as 'pick up the red bottle' (table 1 has one); "
            "empty = wait for the topic `pick`",
        ),
        DeclareLaunchArgument(
            "min_score", default_value="0.5", description="tracks below it are not taken"
        ),
    ]
    handed = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=choices)
        for name, (value, text, choices) in TRACKER.items()
    ]
    robot = Node(
        package="sa2va_ros",
        executable="sim_gantry",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{"seed": ParameterValue(LaunchConfiguration("seed"), value_type=int)}],
        output="screen",
    )
    picker = Node(
        package="sa2va_ros",
        executable="picker",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            {
                "command": ParameterValue(LaunchConfiguration("command"), value_type=str),
                "min_score": ParameterValue(LaunchConfiguration("min_score"), value_type=float),
            }
        ],
        output="screen",
    )
    return LaunchDescription([*own, *handed, robot, tracker(), picker])


def tracker() -> IncludeLaunchDescription:
    """The tracker on the simulator's topics, which lie in the same namespace."""
    here = os.path.join(get_package_share_directory("sa2va_ros"), "launch", "tracker.launch.py")
    topics = {
        "camera_ns": ["/", LaunchConfiguration("namespace")],
        "image_topic": "image",
        "depth_topic": "depth",
        "camera_info_topic": "camera_info",
        "rviz_frame": "world",
    }
    handed = {name: LaunchConfiguration(name) for name in TRACKER}
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(here), launch_arguments={**topics, **handed}.items()
    )
