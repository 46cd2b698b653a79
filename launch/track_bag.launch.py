# SPDX-License-Identifier: Apache-2.0
"""The tracker on a recording: `ros2 launch sa2va_ros track_bag.launch.py bag:=FOLDER prompt:="the blue mug"`.

Time is the recording's (/clock); everything ends when it is over, unless it loops. For masks of every frame, however
long that takes, use `sa2va track FOLDER -e "the blue mug" -o out`, which needs no ROS.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from sa2va_ros.support.launch_files import COMMON, SWITCH, Arguments, declared, tracker

OWN: Arguments = {
    "speed": ("1.0", "times its own speed", None),
    "loop": (
        "false",
        "begin again at the end; tracks are reset then, as time jumps back",
        SWITCH,
    ),
}
# What goes on to tracker.launch.py.
TRACKER: Arguments = {
    **COMMON,
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
    "depth_transport": ("", "raw, compressed or compressedDepth; empty = raw", None),
    "rviz_frame": ("camera_color_optical_frame", "fixed frame of RViz", None),
}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    bag = DeclareLaunchArgument("bag", description="folder or file of the recording")
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
    followed = tracker(TRACKER, use_sim_time="true")
    return LaunchDescription([bag, *declared({**OWN, **TRACKER}), followed, player])
