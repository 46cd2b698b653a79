# SPDX-License-Identifier: Apache-2.0
"""From the points of a track to a collision object of MoveIt; with its own messages where they are installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

from geometry_msgs.msg import Pose
from std_msgs.msg import Header

from sa2va_model.errors import InputError
from sa2va_ros.clients.collision_object import fill, moveit_messages, prism
from sa2va_ros.clients.tracker_client import Cloud
from sa2va_ros.messages.clouds import matrix_from_transform
from sa2va_ros.space.oriented_box import oriented_box

STAMP = 1_234_567_000_001
REASON = "moveit_msgs is not installed: it comes with MoveIt"


def messages() -> list[Any]:
    installed = find_spec("moveit_msgs") is not None
    real = import_module("moveit_msgs.msg").CollisionObject if installed else None
    skip = pytest.mark.skipif(not installed, reason=REASON)

    def stand_in() -> Any:
        return SimpleNamespace(header=Header(), pose=Pose(), primitives=[], meshes=[])

    return [pytest.param(stand_in, id="stand-in"), pytest.param(real, id="moveit_msgs", marks=skip)]


def can(turn: float = 0.4) -> np.ndarray:
    """The surface of something 6 by 4 cm and 12 cm high that stands turned at (0.3, 0.1, 0)."""
    random = np.random.default_rng(0)
    points = random.uniform(-1, 1, (4000, 3)) * (0.03, 0.02, 0.06)
    side = random.integers(0, 3, 4000)
    points[np.arange(4000), side] = (
        np.sign(random.normal(size=4000)) * np.array([0.03, 0.02, 0.06])[side]
    )
    c, s = np.cos(turn), np.sin(turn)
    return points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]]) + (0.3, 0.1, 0.06)


def inside(points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Whether points lie behind every face of a convex mesh."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    return ((points[:, None] - a) * normals).sum(2).max(1) <= 1e-9


@pytest.mark.parametrize("padding", [0.0, 0.01])
def test_a_prism_is_closed_convex_and_holds_all_points(padding: float) -> None:
    points = can()
    vertices, triangles = prism(points, padding)
    edges = np.concatenate([triangles[:, [k, (k + 1) % 3]] for k in range(3)])
    assert len({tuple(e) for e in edges}) == len(edges)  # each edge once in each direction
    assert {tuple(e) for e in edges} == {tuple(e[::-1]) for e in edges}
    assert len(vertices) - len(edges) // 2 + len(triangles) == 2
    assert inside(points, vertices, triangles).all()
    assert np.ptp(vertices[:, 2]) == pytest.approx(0.12 + 2 * padding, abs=1e-3)
    assert not inside(points + np.array([0.2, 0.0, 0.0]), vertices, triangles).any()


def test_points_on_a_line_have_no_outline() -> None:
    with pytest.raises(InputError, match="no outline"):
        prism(np.outer(np.linspace(0, 1, 9), (1.0, 2.0, 3.0)))


@pytest.mark.parametrize("make", messages())
@pytest.mark.parametrize("mesh", [False, True])
def test_a_collision_object_holds_the_points_in_the_frame_of_the_cloud(
    make: Any, mesh: bool
) -> None:
    points = can()
    box = oriented_box(points, np.array([0.0, 0.0, 1.0]))
    message = fill(make(), Cloud(points, "world", STAMP, box), mesh=mesh, padding=0.002)
    assert message.header.frame_id == "world"
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1234, 567_000_001)
    pose = SimpleNamespace(translation=message.pose.position, rotation=message.pose.orientation)
    world = matrix_from_transform(pose)
    local = (points - world[:3, 3]) @ world[:3, :3]
    np.testing.assert_allclose(world[:3, 3], (0.3, 0.1, 0.06), atol=2e-3)
    if mesh:
        (shape,), (place,) = message.meshes, message.mesh_poses
        vertices = np.array([[v.x, v.y, v.z] for v in shape.vertices])
        triangles = np.array([t.vertex_indices for t in shape.triangles], int)
        assert inside(local, vertices, triangles).all()
    else:
        (shape,), (place,) = message.primitives, message.primitive_poses
        assert shape.type == shape.BOX
        np.testing.assert_allclose(shape.dimensions, (0.064, 0.044, 0.124), atol=2e-3)
        assert (np.abs(local) <= np.array(shape.dimensions) / 2 + 1e-3).all()
    assert place.orientation.w == 1.0


@pytest.mark.skipif(find_spec("moveit_msgs") is not None, reason="moveit_msgs is installed")
def test_without_moveit_it_says_what_is_missing() -> None:
    with pytest.raises(InputError, match="moveit_msgs is not installed"):
        moveit_messages()
