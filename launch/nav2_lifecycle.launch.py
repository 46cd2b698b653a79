# SPDX-License-Identifier: Apache-2.0
"""The tracker on a simulated camera, started and stopped by Nav2's lifecycle manager.

ros2 launch sa2va_ros nav2_lifecycle.launch.py                # without a bond: bond_timeout is 0.0
ros2 launch sa2va_ros nav2_lifecycle.launch.py bond:=true     # with one; needs bondpy

ros2 service call /sa2va/lifecycle_manager_sa2va/manage_nodes nav2_msgs/srv/ManageLifecycleNodes "{command: 1}"
"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from sa2va_ros.support.launch_files import (
    COMMON,
    SIMULATED,
    SWITCH,
    Arguments,
    declared,
    node,
    tracker_of_simulator,
)

BOND_TIMEOUT = 4.0  # seconds, Nav2's own
OWN: Arguments = {
    "scene": (
        "demo",
        "demo: five objects and a script; random: a table that is a function of seed",
        None,
    ),
    "seed": ("0", "which table", None),
    "rate": ("10.0", "images per second", None),
}
TRACKER: Arguments = {
    **COMMON,
    **SIMULATED,
    "bond": ("false", "form a bond between tracker and manager; needs bondpy", SWITCH),
    "autostart": ("false", "false: the manager starts the tracker", SWITCH),
}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    share = get_package_share_directory("sa2va_ros")
    seconds = PythonExpression(
        [f"{BOND_TIMEOUT} if '", LaunchConfiguration("bond"), "' == 'true' else 0.0"]
    )
    manager = Node(
        package="nav2_lifecycle_manager",
        executable="lifecycle_manager",
        name="lifecycle_manager_sa2va",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            os.path.join(share, "config", "nav2", "lifecycle_manager.yaml"),
            {"bond_timeout": ParameterValue(seconds, value_type=float)},
        ],
        output="screen",
    )
    camera = node("sim_camera", {"scene": str, "seed": int, "rate": float})
    followed = tracker_of_simulator(TRACKER, "camera_optical_frame")
    return LaunchDescription([*declared({**OWN, **TRACKER}), camera, manager, followed])
