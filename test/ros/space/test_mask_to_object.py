# SPDX-License-Identifier: Apache-2.0
"""Masks and depth to points, boxes and velocities, on shapes whose truth is computed; without ROS."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_ros.space.mask_to_object import (
    Camera,
    CloudConfig,
    depth_deviation,
    matrix_of,
    object_from_mask,
    oriented_box,
    quaternion,
    voxels,
)
from sa2va_ros.space.velocity import VelocityEstimator

WIDTH, HEIGHT = 320, 240
CAMERA = Camera(np.array([[300.0, 0, 160], [0, 300.0, 120], [0, 0, 1]]), WIDTH, HEIGHT)
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
RAYS = CAMERA.rays(COLUMNS.ravel(), ROWS.ravel()).reshape(HEIGHT, WIDTH, 3)


def ball(
    centre: tuple[float, float, float], radius: float, behind: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mask and depth image of a ball before a wall."""
    middle = np.array(centre)
    a, b = (RAYS**2).sum(-1), RAYS @ middle
    discriminant = b**2 - a * (middle @ middle - radius**2)
    mask = discriminant > 0
    near = (b - np.sqrt(np.maximum(discriminant, 0))) / a
    return mask, np.where(mask, near, behind).astype(np.float32)


def test_the_visible_half_of_a_ball() -> None:
    mask, depth = ball((0.05, -0.02, 0.8), 0.06)
    found = object_from_mask(mask, depth, RGB, CAMERA)
    assert np.allclose(np.linalg.norm(found.points - (0.05, -0.02, 0.8), axis=1), 0.06, atol=2e-3)
    # The mean over the pixels of a ball lies two thirds of a radius before its middle.
    ray = np.array([0.05, -0.02, 0.8]) / np.linalg.norm([0.05, -0.02, 0.8])
    expected = np.array([0.05, -0.02, 0.8]) - 0.04 * ray
    assert np.linalg.norm(found.centroid - expected) < 0.008
    assert np.linalg.norm(found.centroid - (RAYS * depth[..., None])[mask].mean(0)) < 0.005
    assert found.box.size.max() == pytest.approx(0.12, abs=0.015)
    row, column = np.argwhere(mask)[len(np.argwhere(mask)) // 2]
    assert (RGB[mask] == found.colours[0]).all(1).any(), (row, column)


def test_a_mask_that_leaks_onto_the_wall_and_a_few_wild_pixels_change_little() -> None:
    mask, depth = ball((0.0, 0.0, 0.8), 0.06)
    clean = object_from_mask(mask, depth, RGB, CAMERA)
    leaking = mask.copy()
    leaking[:, 156:166] = True
    wild = depth.copy()
    wild[118:121, 158:161] = 0.45
    found = object_from_mask(leaking, wild, RGB, CAMERA)
    assert np.linalg.norm(found.centroid - clean.centroid) < 0.01
    nothing_done = CloudConfig(erode=0, outlier=0)
    assert len(object_from_mask(mask, depth, RGB, CAMERA, nothing_done).points) > len(clean.points)


def test_a_neighbour_in_the_mask_is_left_out_and_what_stands_before_parts_nothing() -> None:
    """Two boards 12 cm apart at nearly one distance, on nothing; then one board behind a pole."""
    depth = np.full((120, 160), 3.0, np.float32)
    depth[40:80, 30:80], depth[40:80, 100:130] = 1.0, 1.01
    mask = np.zeros(depth.shape, bool)
    mask[40:80, 30:80] = mask[40:80, 100:130] = True
    rgb = np.zeros((*depth.shape, 3), np.uint8)
    camera = Camera(np.array([[150.0, 0, 80], [0, 150, 60], [0, 0, 1]]), 160, 120)
    alone = mask.copy()
    alone[:, 90:] = False
    expected = object_from_mask(alone, depth, rgb, camera).centroid
    assert object_from_mask(mask, depth, rgb, camera).centroid == pytest.approx(expected, abs=1e-3)

    depth[40:80, 80:100] = 1.005  # all one board
    depth[:, 82:98] = 0.6  # and a pole before it
    whole = object_from_mask(mask, depth, rgb, camera)
    right = object_from_mask(mask & ~alone, depth, rgb, camera).centroid
    assert expected[0] + 0.05 < whole.centroid[0] < right[0] - 0.05


@pytest.mark.parametrize("size", [0, 3])
def test_holes_in_the_depth_are_left_out(size: int) -> None:
    mask, depth = ball((0.0, 0.0, 0.8), 0.06)
    full = object_from_mask(mask, depth, RGB, CAMERA)
    depth[::5] = np.nan
    depth[:, ::7] = 0.0 if size else np.inf
    found = object_from_mask(mask, depth, RGB, CAMERA)
    assert np.isfinite(found.points).all()
    assert np.linalg.norm(found.centroid - full.centroid) < 0.005


def test_what_cannot_be_used_is_refused_with_numbers() -> None:
    mask, depth = ball((0.0, 0.0, 0.8), 0.06)
    for arguments, says in (
        ((mask, depth[::2], RGB), "depth 320x120"),
        ((mask, depth, RGB[:, ::2]), "image 160x240"),
        ((np.zeros_like(mask), depth, RGB), "the mask is empty"),
        ((mask, np.full_like(depth, np.nan), RGB), "0 of"),
        ((mask, depth * 100, RGB), "0.1 to 10 m"),
    ):
        with pytest.raises(InputError, match=says):
            object_from_mask(*arguments, CAMERA)


def test_distortion_is_undone() -> None:
    import cv2

    bent = replace(CAMERA, distortion=(0.1, -0.05, 0.001, 0.002, 0.0))
    place = np.array([[0.2, 0.1, 1.0]])
    pixel = cv2.projectPoints(
        place, np.zeros(3), np.zeros(3), CAMERA.matrix, np.array(bent.distortion)
    )[0][0]
    assert np.allclose(bent.rays(pixel[:, 0], pixel[:, 1]), place, atol=1e-5)
    assert not np.allclose(CAMERA.rays(pixel[:, 0], pixel[:, 1]), place, atol=1e-3)


def cuboid(
    size: tuple[float, float, float], turn: np.ndarray, middle: tuple[float, float, float]
) -> np.ndarray:
    grid = np.random.default_rng(1).uniform(-0.5, 0.5, (6000, 3))
    return grid * size @ turn.T + middle


def test_the_box_of_a_cuboid_with_and_without_a_known_up() -> None:
    turn = matrix_of(0.0, 0.0, np.sin(0.35), np.cos(0.35))  # 40 degrees about z
    points = cuboid((0.30, 0.10, 0.04), turn, (0.5, -0.2, 1.0))
    for up in (None, np.array([0.0, 0.0, 1.0])):
        box = oriented_box(points, up)
        assert box.centre == pytest.approx((0.5, -0.2, 1.0), abs=0.004)
        assert box.size == pytest.approx((0.30, 0.10, 0.04), rel=0.05)
        assert np.abs(box.rotation.T @ turn) == pytest.approx(np.eye(3), abs=0.05)
        assert np.linalg.det(box.rotation) == pytest.approx(1.0)
        assert np.allclose(box.rotation.T @ box.rotation, np.eye(3))
    upright = oriented_box(cuboid((0.1, 0.1, 0.4), np.eye(3), (0, 0, 1)), np.array([0.0, 0.0, 1.0]))
    assert upright.rotation[:, 2] == pytest.approx((0, 0, 1))
    assert upright.size[2] == pytest.approx(0.4, rel=0.05)


def test_axes_do_not_flip_between_frames() -> None:
    rng = np.random.default_rng(2)
    turn = matrix_of(0.1, 0.2, 0.3, 0.9)
    before = oriented_box(cuboid((0.3, 0.15, 0.05), turn, (0, 0, 1)))
    for _ in range(20):
        points = cuboid((0.3, 0.15, 0.05), turn, (0, 0, 1)) + rng.normal(0, 0.002, (6000, 3))
        assert np.trace(oriented_box(points).rotation.T @ before.rotation) > 2.9


def test_results_in_another_frame_are_the_same_object() -> None:
    mask, depth = ball((0.05, -0.02, 0.8), 0.06)
    transform = np.eye(4)
    transform[:3, :3] = matrix_of(0.5, -0.5, 0.5, -0.5)
    transform[:3, 3] = 1.0, 2.0, 3.0
    here = object_from_mask(mask, depth, RGB, CAMERA)
    there = object_from_mask(mask, depth, RGB, CAMERA, transform=transform)
    assert there.centroid == pytest.approx(transform[:3, :3] @ here.centroid + transform[:3, 3])
    turned = transform[:3, :3] @ here.covariance[:3, :3] @ transform[:3, :3].T
    assert there.covariance[:3, :3] == pytest.approx(turned, abs=1e-12)
    assert sorted(there.box.size) == pytest.approx(sorted(here.box.size), abs=1e-6)


def test_covariance_says_more_for_what_is_far_and_along_the_ray() -> None:
    near = object_from_mask(*ball((0.0, 0.0, 0.6), 0.05), RGB, CAMERA).covariance
    far = object_from_mask(*ball((0.0, 0.0, 1.4), 0.05), RGB, CAMERA).covariance
    assert far[2, 2] > near[2, 2]
    assert far[2, 2] > 1.5e-3**2
    # a variance: the square of what a stereo camera errs by at 0.6 and 1.4 m
    assert near[2, 2] ** 0.5 == pytest.approx(0.001 + 0.0015 * 0.6**2, rel=0.5)
    assert far[2, 2] ** 0.5 == pytest.approx(0.001 + 0.0015 * 1.4**2, rel=0.5)
    for covariance in (near, far):
        assert np.allclose(covariance, covariance.T)
        assert (np.linalg.eigvalsh(covariance) > 0).all()


def test_one_point_for_each_voxel() -> None:
    points = np.array([[0.0, 0, 1], [0.001, 0, 1], [0.011, 0, 1]])
    colours = np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3]], np.uint8)
    kept, of = voxels(points, colours, 0.01)
    assert kept == pytest.approx(np.array([[0.0005, 0, 1], [0.011, 0, 1]]))
    assert of.tolist() == [[1, 1, 1], [3, 3, 3]]
    assert voxels(points, colours, 0.0)[0] is points


def test_velocity_of_a_straight_way_and_after_gaps() -> None:
    motion, speed = VelocityEstimator(window=0.5), np.array([0.3, -0.1, 0.05])
    for n in range(10):
        velocity = motion.update(100.0 + 0.1 * n, speed * 0.1 * n)
        assert np.allclose(velocity, speed if n > 1 else 0, atol=1e-9)
    assert np.allclose(motion.update(105.0, np.ones(3)), 0)  # away for long: not a speed
    assert np.allclose(motion.update(2.0, np.ones(3)), 0)  # time jumped back


def test_quaternions_and_matrices_are_inverse() -> None:
    for values in np.random.default_rng(4).normal(size=(50, 4)):
        matrix = matrix_of(*values)
        assert matrix_of(*quaternion(matrix)) == pytest.approx(matrix)


@pytest.mark.parametrize("metres", [0.5, 2.0, 4.0])
def test_the_variance_of_depth_is_the_square_of_its_deviation(metres: float) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[90:150, 130:190] = True  # around the axis, where the ray is z
    depth = np.full((HEIGHT, WIDTH), metres, np.float32)
    found = object_from_mask(mask, depth, RGB, CAMERA)
    assert np.sqrt(found.covariance[2, 2]) == pytest.approx(depth_deviation(metres), rel=0.05)
