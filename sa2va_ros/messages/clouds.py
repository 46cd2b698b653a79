# SPDX-License-Identifier: Apache-2.0
"""Between 3D messages and arrays: poses, boxes and clouds.

As `images.py`, this fills the fields of messages that it is given and needs no ROS.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import numpy as np

from sa2va_ros.space.mask_to_object import Solid, matrix_of, quaternion
from sa2va_ros.space.oriented_box import Box


def fill_point(message: Any, values: np.ndarray) -> Any:
    """Put three numbers into a `Point` or `Vector3` and return it."""
    message.x, message.y, message.z = (float(value) for value in values)
    return message


def fill_pose(message: Any, position: np.ndarray, rotation: np.ndarray) -> Any:
    """Put a position [3] and a rotation [3, 3] into a `geometry_msgs/Pose` and return it."""
    fill_point(message.position, position)
    turned = message.orientation
    turned.x, turned.y, turned.z, turned.w = quaternion(rotation)
    return message


def fill_solid(message: Any, found: Solid, velocity: np.ndarray) -> Any:
    """Put an object's box, covariance and velocity (m/s) into a `Track` message and return it."""
    message.has_3d = True
    fill_pose(message.pose.pose, found.box.centre, found.box.rotation)
    message.pose.covariance = found.covariance.ravel()
    fill_point(message.size, found.box.size)
    fill_point(message.velocity, velocity)
    return message


def fill_cloud(message: Any, found: Solid, header: Any, new_field: Callable[..., Any]) -> Any:
    """Put points and colours into a fresh `sensor_msgs/PointCloud2` (x, y, z, rgb); return it.

    Args:
        new_field: makes a `PointField` from its fields; 7 = FLOAT32.
    """
    count = len(found.points)
    packed = np.zeros(count, [("xyz", "<f4", 3), ("bgr0", "u1", 4)])
    packed["xyz"] = found.points
    packed["bgr0"][:, :3] = found.colours[:, ::-1]  # 0x00RRGGBB in little-endian order
    message.header = header
    message.height, message.width = 1, count
    message.fields = [
        new_field(name=name, offset=4 * i, datatype=7, count=1)
        for i, name in enumerate(("x", "y", "z", "rgb"))
    ]
    message.is_bigendian, message.is_dense = False, True
    message.point_step, message.row_step = 16, 16 * count
    message.data = array.array("B", packed.tobytes())
    return message


def box_from_pose(pose: Any, size: Any) -> Box:
    """The box of a `geometry_msgs/Pose` (middle and axes) and a `Vector3` (its edges along them)."""
    place, turned = pose.position, pose.orientation
    rotation = matrix_of(turned.x, turned.y, turned.z, turned.w)
    centre, edges = np.array([place.x, place.y, place.z]), np.array([size.x, size.y, size.z])
    return Box(centre, rotation, edges)


def matrix_from_transform(transform: Any) -> np.ndarray:
    """The [4, 4] matrix of a `geometry_msgs/Transform`."""
    turned, moved = transform.rotation, transform.translation
    matrix = np.eye(4)
    matrix[:3, :3] = matrix_of(turned.x, turned.y, turned.z, turned.w)
    matrix[:3, 3] = moved.x, moved.y, moved.z
    return matrix
