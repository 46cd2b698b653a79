# SPDX-License-Identifier: Apache-2.0
"""A simulated camera and the tracker: `ros2 launch sa2va_ros sim_demo.launch.py prompt:="the red mug"`.

Then, in another terminal: `ros2 topic pub --once /sa2va/command std_msgs/msg/String "data: the green bottle"`.
"""

from __future__ import annotations

from launch import LaunchDescription

from sa2va_ros.support.launch_files import COMMON, SIMULATED, Arguments, node, simulation

OWN: Arguments = {
    "scene": (
        "demo",
        "demo: five objects and a script; random: a table that is a function of seed",
        ("demo", "random"),
    ),
    "seed": ("0", "which table", None),
    "rate": ("10.0", "images per second", None),
}
# What goes on to tracker.launch.py.
TRACKER: Arguments = {
    **COMMON,
    **SIMULATED,
    "prompt": ("the red mug", "what to track from the first image on", None),
}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    camera = node("sim_camera", {"scene": str, "seed": int, "rate": float})
    return simulation(OWN, TRACKER, "camera_optical_frame", camera)
