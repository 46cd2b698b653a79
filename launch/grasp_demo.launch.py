# SPDX-License-Identifier: Apache-2.0
"""A gripper in the simulator picks up what it is told: `ros2 launch sa2va_ros grasp_demo.launch.py`.

    ros2 topic pub --once /sa2va/pick std_msgs/msg/String "data: pick up the green bottle"
    ros2 topic echo /sa2va/pick_result
    ros2 service call /sa2va/sim_gantry/next_episode std_srvs/srv/Trigger          another table

The benchmark with counts of failures is `ros2 run sa2va_ros grasp_demo --episodes 50`.
"""

from __future__ import annotations

from launch import LaunchDescription

from sa2va_ros.support.launch_files import COMMON, SIMULATED, Arguments, node, simulation

OWN: Arguments = {
    "seed": ("1", "which table", None),
    "command": (
        "",
        "picked up at once, such as 'pick up the red bottle' (table 1 has one); empty = wait for the topic `pick`",
        None,
    ),
    "min_score": ("0.5", "tracks below it are not taken", None),
}
# What goes on to tracker.launch.py.
TRACKER: Arguments = {**COMMON, **SIMULATED}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    robot = node("sim_gantry", {"seed": int})
    picker = node("picker", {"command": str, "min_score": float})
    return simulation(OWN, TRACKER, "world", robot, picker)
