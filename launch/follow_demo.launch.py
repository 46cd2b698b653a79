# SPDX-License-Identifier: Apache-2.0
"""A base in the simulator follows what it is told: `ros2 launch sa2va_ros follow_demo.launch.py`.

    ros2 topic pub --once /sa2va/follow std_msgs/msg/String "data: follow the red can"
    ros2 topic pub --once /sa2va/follow std_msgs/msg/String "data: stop"
    ros2 topic echo /sa2va/follow_result

The benchmark is `ros2 run sa2va_ros follow_demo --episodes 20`.
"""

from __future__ import annotations

from launch import LaunchDescription

from sa2va_ros.support.launch_files import COMMON, SIMULATED, Arguments, node, simulation

OWN: Arguments = {
    "seed": ("1", "which scene", None),
    "command": (
        "",
        "followed at once, such as 'follow the red can' (scene 1 has one); empty = wait for the topic `follow`",
        None,
    ),
    "distance": ("0.7", "metres to keep", None),
    "duration": ("0.0", "seconds to follow; 0 = until `stop`", None),
}
# What goes on to tracker.launch.py.
TRACKER: Arguments = {**COMMON, **SIMULATED}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    robot = node("sim_rover", {"seed": int})
    follower = node("follower", {"command": str, "distance": float, "duration": float})
    return simulation(OWN, TRACKER, "odom", robot, follower)
