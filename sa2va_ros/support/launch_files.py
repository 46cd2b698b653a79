# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: tables of arguments, the tracker as an included file, nodes whose death ends the launch.

`launch` is imported here and in `launch/` alone; nodes never import this.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description import LaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# name -> (default, description, choices)
Arguments = Mapping[str, tuple[str, str, tuple[str, ...] | None]]

SWITCH = ("true", "false")
SHUTDOWN, IGNORE = "shutdown", "ignore"
COMMON: Arguments = {
    "namespace": ("sa2va", "namespace of the node and its topics", None),
    "model": ("", "folder of the model; empty = the tiny one that ships", None),
    "device": ("", "auto, cpu, cuda or cuda:N; empty = auto", None),
    "rviz": ("false", "also start RViz with a layout for this node", SWITCH),
    "log_level": ("info", "of the tracker", ("debug", "info", "warn", "error", "fatal")),
    "on_exit": (
        SHUTDOWN,
        "when the tracker fails: shutdown ends the launch with status 1, ignore leaves the rest running",
        (SHUTDOWN, IGNORE),
    ),
    "respawn": (
        "false",
        "start the tracker again when it ends; on_exit does not count then",
        SWITCH,
    ),
}
"""Arguments of tracker.launch.py that every launch file hands on."""
SIMULATED: Arguments = {
    "truth": ("false", "masks from the simulator's truth instead of a model", SWITCH),
}


def declared(arguments: Arguments) -> list[DeclareLaunchArgument]:
    """Launch arguments, with what `--show-args` prints."""
    return [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=choices)
        for name, (value, text, choices) in arguments.items()
    ]


def tracker(handed: Iterable[str], **given: Any) -> IncludeLaunchDescription:
    """tracker.launch.py with the arguments of those names handed on, and others given."""
    here = os.path.join(get_package_share_directory("sa2va_ros"), "launch", "tracker.launch.py")
    values = {**given, **{name: LaunchConfiguration(name) for name in handed}}
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(here), launch_arguments=values.items()
    )


def tracker_of_simulator(handed: Iterable[str], frame: str) -> IncludeLaunchDescription:
    """The tracker on a simulator's topics, which lie in the same namespace; `frame`: the fixed one of RViz."""
    return tracker(
        handed,
        camera_ns=["/", LaunchConfiguration("namespace")],
        image_topic="image",
        depth_topic="depth",
        camera_info_topic="camera_info",
        rviz_frame=frame,
    )


def simulation(own: Arguments, handed: Arguments, frame: str, *nodes: Node) -> LaunchDescription:
    """A simulator, the tracker on its topics, and who uses the results.

    Args:
        own: arguments of this launch file alone; `handed`: those that go on to tracker.launch.py.
        frame: the fixed one of RViz.
    """
    followed = tracker_of_simulator(handed, frame)
    return LaunchDescription([*declared({**own, **handed}), *nodes, followed])


def node(executable: str, parameters: Mapping[str, type], **more: Any) -> Node:
    """A node of this package in the launch's namespace, whose parameters are launch arguments of the same names."""
    values = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in parameters.items()
    }
    return Node(
        package="sa2va_ros",
        executable=executable,
        namespace=LaunchConfiguration("namespace"),
        parameters=[values],
        output="screen",
        **more,
    )


def fail_with(event: Any, context: Any) -> None:
    """End the launch with status 1 if a process failed; what Ctrl-C ended did not fail.

    Raises:
        RuntimeError: it failed; launch tells it and shuts down.
    """
    if event.returncode > 0 and not context.is_shutdown:
        raise RuntimeError(f"{event.process_name} ended with status {event.returncode}")
