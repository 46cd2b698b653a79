# SPDX-License-Identifier: Apache-2.0
"""What is tracked as an obstacle, or the thing to grasp, in MoveIt's planning scene: a normal ROS client.

    ros2 run sa2va_ros collision_object --ros-args -r __ns:=/sa2va -p command:="the red mug" -p shape:=mesh

    collision_object          std_msgs/String   "the red mug": add it; "remove the red mug", "remove": take it out
    collision_object_result   std_msgs/String   JSON: outcome (added, removed, refused), cause, detail, frame, size
    /collision_object         moveit_msgs/CollisionObject, which MoveIt's planning scene monitor listens to

Finds it (TrackExpression), gets its points once (GetTrackCloud), and publishes a box, or a mesh that lies closer: the
outline of the points along the last axis of the box, which is up in a frame with z up (`target_frame`). Its id is the
track's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import Point
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from shape_msgs.msg import Mesh, MeshTriangle, SolidPrimitive

from sa2va_model.errors import InputError
from sa2va_ros.clients.command_node import CAUSES, CommandNode, CommandResult
from sa2va_ros.clients.tracker_client import Cloud, TrackerError
from sa2va_ros.interfaces.commands import clean_text
from sa2va_ros.messages.clouds import fill_pose
from sa2va_ros.messages.images import fill_time
from sa2va_ros.support.parameter import Parameter
from sa2va_ros.support.spinning import serve

TABLE = (
    Parameter("shape", "box", "What it becomes.", choices=("box", "mesh"), dynamic=True),
    Parameter("padding", 0.005, "Metres added on every side.", span=(0.0, 0.5), dynamic=True),
)
REMOVE = re.compile(r"^remove\b\s*", re.IGNORECASE)
# A planning scene that starts later still gets it.
_LATCHED = QoSProfile(
    depth=16, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


@dataclass(frozen=True)
class ObstacleResult(CommandResult):
    """What became of a command.

    Attributes:
        track_id: the object's id in the planning scene.
        frame: of its pose.
        size: of its box, metres.
    """

    track_id: str = ""
    frame: str = ""
    size: tuple[float, ...] = ()


class CollisionObjects(CommandNode):
    """One command after the other; what was added stays until it is removed.

    Raises:
        InputError: moveit_msgs is not installed.
    """

    def __init__(self) -> None:
        self._moveit = moveit_messages()
        help_text = "Added at the start, as if it had come on the topic; empty = wait for one."
        super().__init__(
            "collision_object", "collision_object", "collision_object_result", TABLE, help_text
        )
        self._publisher = self.create_publisher(
            self._moveit.CollisionObject, "/collision_object", _LATCHED
        )
        self._added: dict[str, Any] = {}  # by what it was called
        self._begin()

    def _perform(self, command: str) -> ObstacleResult:
        try:
            text = clean_text(command, "collision_object")
            rest = REMOVE.sub("", text)
            return self._remove(command, rest) if rest != text else self._add(command, text)
        except TrackerError as error:
            cause = CAUSES.get(error.code, "error")
            return ObstacleResult(command, "refused", cause=cause, detail=str(error))
        except InputError as error:
            return ObstacleResult(command, "refused", cause="error", detail=str(error))

    def _add(self, command: str, expression: str) -> ObstacleResult:
        track = self._tracker.find(
            expression, self._value("acquire_timeout"), stop_requested=self._stop_requested.is_set
        )
        cloud = self._tracker.cloud(track.id)
        message = self._moveit.CollisionObject(id=track.id)
        shape, padding = self._value("shape"), self._value("padding")
        fill(message, cloud, mesh=shape == "mesh", padding=padding)
        self._publisher.publish(message)
        self._added[expression] = message
        size = tuple(round(float(edge), 3) for edge in cloud.box.size)
        return ObstacleResult(command, "added", track_id=track.id, frame=cloud.frame, size=size)

    def _remove(self, command: str, expression: str) -> ObstacleResult:
        names = [expression] if expression else list(self._added)
        if unknown := [name for name in names if name not in self._added]:
            raise InputError(f"'{unknown[0]}' was not added; expected one of {list(self._added)}")
        result = ObstacleResult(command, "removed")
        for message in (self._added.pop(name) for name in names):
            message.operation = self._moveit.CollisionObject.REMOVE
            message.primitives, message.primitive_poses = [], []
            message.meshes, message.mesh_poses = [], []
            self._publisher.publish(message)
            result = replace(result, track_id=message.id, frame=message.header.frame_id)
        return result


def moveit_messages() -> Any:
    """The module `moveit_msgs.msg`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module("moveit_msgs.msg")
    except ImportError as error:
        raise InputError(
            f"moveit_msgs is not installed ({error}); expected ros-$ROS_DISTRO-moveit-msgs"
        ) from error


def fill(message: Any, cloud: Cloud, *, mesh: bool, padding: float) -> Any:
    """Put an object into a fresh `moveit_msgs/CollisionObject` (ADD) and return it.

    Args:
        mesh: the outline along the box's last axis (up, where that is known) in place of the box.
        padding: metres on every side.
    """
    box = cloud.box
    message.header.frame_id = cloud.frame
    fill_time(message.header.stamp, cloud.stamp)
    fill_pose(message.pose, box.centre, box.rotation)
    here = type(message.pose)()
    here.orientation.w = 1.0
    if mesh:
        vertices, triangles = prism((cloud.points - box.centre) @ box.rotation, padding)
        message.meshes = [
            Mesh(
                vertices=[Point(x=x, y=y, z=z) for x, y, z in vertices.tolist()],
                triangles=[MeshTriangle(vertex_indices=row) for row in triangles.astype(np.uint32)],
            )
        ]
        message.mesh_poses = [here]
    else:
        edges = (box.size + 2 * padding).tolist()
        message.primitives = [SolidPrimitive(type=SolidPrimitive.BOX, dimensions=edges)]
        message.primitive_poses = [here]
    return message


def prism(points: np.ndarray, padding: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The upright prism around points [N, 3]: the convex outline in x and y, from the lowest to the highest.

    Returns:
        Vertices float64 [2 n, 3], the lower ring first, and triangles int [4 n - 4, 3] whose normals point outwards.

    Raises:
        InputError: fewer than three points that are not on one line.
    """
    outline = _outline(points[:, :2])
    if padding:
        turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        around = padding * np.column_stack([np.cos(turns), np.sin(turns)])
        outline = _outline((outline[:, None] + around).reshape(-1, 2))
    low, high = points[:, 2].min() - padding, points[:, 2].max() + padding
    n = len(outline)
    vertices = np.concatenate([np.column_stack([outline, np.full(n, z)]) for z in (low, high)])
    here, after = np.arange(n), np.roll(np.arange(n), -1)
    fan = np.arange(1, n - 1)
    sides = [
        np.column_stack([here, after, after + n]),
        np.column_stack([here, after + n, here + n]),
    ]
    floor = np.column_stack([np.zeros(n - 2, int), fan + 1, fan])
    lid = np.column_stack([np.full(n - 2, n), fan + n, fan + 1 + n])
    return vertices, np.concatenate([*sides, floor, lid])


def _outline(points: np.ndarray) -> np.ndarray:
    """The convex outline of points [N, 2], counted against the clock."""
    outline = cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)
    if len(outline) < 3:
        raise InputError(
            f"{len(points)} points have no outline; expected three that are not on one line"
        )
    x, y = outline.T
    area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum()
    return outline if area > 0 else outline[::-1]


def main(args: list[str] | None = None) -> int:
    """Run the node until it is asked to stop; the exit status is 2 if it could not start."""
    return serve("collision_object", lambda _: CollisionObjects(), args)


if __name__ == "__main__":
    raise SystemExit(main())
