# SPDX-License-Identifier: Apache-2.0
"""From a mask and an aligned depth image to points, a pose and a box. NumPy and OpenCV only; no ROS.

What is called the centroid is that of the *visible surface*: the mean of the points under the mask's
pixels. The far side of the object is not seen and not guessed, so the middle of the object lies a
little behind. (A mean by area instead of by pixels would hang on the rim, where the surface turns
away and depth is worst.) The box is the one around those points.

Everything is in metres, in the optical frame of the camera (x right, y down, z forward), unless a
transform is given. Arrays of points are float64 [N, 3].
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_ros.space.cameras import Camera
from sa2va_ros.space.components import main_pieces
from sa2va_ros.space.oriented_box import Box, grown, oriented_box, rotation_covariance
from sa2va_ros.space.rotations import matrix_of, quaternion

__all__ = [
    "Box",
    "Camera",
    "CloudConfig",
    "Solid",
    "depth_deviation",
    "matrix_of",
    "oriented_box",
    "quaternion",
    "object_from_mask",
    "voxels",
]

MIN_POINTS = 12  # fewer say nothing about a box
LAYER_GAP = (
    0.03  # metres without a point along the line of sight part an object from what is behind
)
LAYER_SHARE = 0.4  # of the pixels of the largest layer, for one that counts as large
EDGE = 0.03  # metres of depth change over three pixels at one metre; steeper is no surface
PATCH = 25  # neighbouring pixels whose depth errors go together, as a number of pixels
EDGE_PIXELS = 1.0  # standard deviation of a mask's outline, pixels


@dataclass(frozen=True)
class CloudConfig:
    """How points are chosen.

    Attributes:
        depth_min, depth_max: metres; outside is not used.
        erode: pixels taken off the mask's edge, where colour and depth do not agree.
        voxel: metres; one point for each cube of this size, 0 = all points.
        outlier: points farther from the middle than so many robust standard deviations go; 0 = none.
        max_points: most points of one object.
        max_pixels: most depth pixels that are looked at for one object; 0 = all.
    """

    depth_min: float = 0.1
    depth_max: float = 10.0
    erode: int = 2
    voxel: float = 0.004
    outlier: float = 7.0
    max_points: int = 20000
    max_pixels: int = 0


@dataclass(frozen=True)
class Solid:
    """One object in space.

    Attributes:
        points: float64 [N, 3].
        colours: uint8 [N, 3] RGB.
        centroid: [3], of the visible surface.
        box: around the points.
        covariance: [6, 6] of centroid and box axes: x, y, z, and rotations about x, y, z (REP 103).
        pixels: depth pixels behind it.
    """

    points: np.ndarray
    colours: np.ndarray
    centroid: np.ndarray
    box: Box
    covariance: np.ndarray
    pixels: int


def object_from_mask(
    mask: np.ndarray,
    depth: np.ndarray,
    rgb: np.ndarray,
    camera: Camera,
    config: CloudConfig | None = None,
    *,
    transform: np.ndarray | None = None,
    up: np.ndarray | None = None,
) -> Solid:
    """The object under a mask.

    Args:
        mask: bool [H, W].
        depth: float32 [H, W], metres along z; NaN = not measured.
        rgb: uint8 [H, W, 3].
        transform: [4, 4], from the camera's frame to that of the result.
        up: [3] unit vector in the frame of the result; the box then stands on it.

    Raises:
        InputError: sizes differ, or too few points are left; the message says of how many.
    """
    config = config or CloudConfig()
    if not mask.shape == depth.shape == rgb.shape[:2] == (camera.height, camera.width):
        raise InputError(
            f"3D: mask {_size(mask)}, depth {_size(depth)}, image {_size(rgb)} and camera "
            f"{camera.width}x{camera.height} differ; expected one size (depth aligned to colour)"
        )
    rows, columns, eroded = _surface(mask, depth, config, float(camera.matrix[0, 0]))
    z = depth[rows, columns].astype(np.float64)
    points, colours = camera.rays(columns, rows) * z[:, None], rgb[rows, columns]
    if not (seen := np.isfinite(points).all(1)).all():  # beyond 90 degrees of a fisheye
        points, colours = points[seen], colours[seen]
    if len(points) < MIN_POINTS:
        raise InputError(f"3D: {len(points)} points are left; expected at least {MIN_POINTS}")
    keep = _inliers(points, config.outlier)
    points, colours = points[keep], colours[keep]
    centroid = points.mean(axis=0)
    spread = _position_covariance(points, centroid, camera)
    points, colours = voxels(points, colours, config.voxel)
    if len(points) < MIN_POINTS:
        raise InputError(f"3D: {len(points)} points are left; expected at least {MIN_POINTS}")
    if len(points) > config.max_points:
        chosen = np.linspace(0, len(points) - 1, config.max_points).astype(int)
        points, colours = points[chosen], colours[chosen]
    if transform is not None:
        turn = transform[:3, :3]
        points = points @ turn.T + transform[:3, 3]
        centroid = turn @ centroid + transform[:3, 3]
        spread = turn @ spread @ turn.T
    box = grown(oriented_box(points, up), eroded, centroid, transform, float(camera.matrix[0, 0]))
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = spread
    covariance[3:, 3:] = rotation_covariance(
        points, box.rotation, max(len(z) / PATCH, 1.0), depth_deviation(float(z.mean()))
    )
    return Solid(points, colours, centroid, box, covariance, len(z))


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


# --- which pixels ---------------------------------------------------------------------------------


def _surface(
    mask: np.ndarray, depth: np.ndarray, config: CloudConfig, focal: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows and columns of the mask's pixels whose depth is that of the object, and how far its edge
    was taken off, in pixels.

    Raises:
        InputError: hardly any.
    """
    found = cv2.boundingRect(mask.view(np.uint8))
    x, y, width, height = found
    area = int(mask[y : y + height, x : x + width].sum()) if width else 0
    if not area:
        raise InputError("3D: the mask is empty; expected an object that is seen")
    # One pixel more on each side, for the depth around the outline.
    top, left = max(y - 1, 0), max(x - 1, 0)
    window = (slice(top, y + height + 1), slice(left, x + width + 1))
    (inside, eroded), z = _eroded(mask[window], config.erode), depth[window]
    with np.errstate(invalid="ignore"):
        valid = inside & (z >= config.depth_min) & (z <= config.depth_max)
    measured = int(valid.sum())
    if measured < MIN_POINTS:
        raise InputError(
            f"3D: {measured} of {area} pixels of the mask have a depth of {config.depth_min:g} to "
            f"{config.depth_max:g} m{_median(z[inside])}; expected at least {MIN_POINTS}"
        )
    edges = _edges(z, valid)
    if (valid & ~edges).sum() < MIN_POINTS:  # a thin thing is all edge
        edges[:] = False
    smooth = valid & main_pieces(inside & ~edges, z, focal)
    rows, columns = np.nonzero(smooth)
    if config.max_pixels and len(rows) > config.max_pixels:
        chosen = np.linspace(0, len(rows) - 1, config.max_pixels).astype(int)
        rows, columns = rows[chosen], columns[chosen]
    keep = nearest_layer(z[rows, columns])
    return rows[keep] + top, columns[keep] + left, eroded


def _median(z: np.ndarray) -> str:
    """What was measured instead, for the message: a wrong unit shows here."""
    z = z[np.isfinite(z)]
    return (
        f" (median {np.median(z):g} m: is depth_scale right?)"
        if z.size
        else " (nothing was measured)"
    )


def _eroded(mask: np.ndarray, pixels: int) -> tuple[np.ndarray, int]:
    """The mask without its edge; a thin object loses less, so that at least a third of it stays."""
    area = int(mask.sum())
    for size in range(pixels, 0, -1):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * size + 1, 2 * size + 1))
        inner = cv2.erode(mask.view(np.uint8), kernel, borderType=cv2.BORDER_REPLICATE)
        if 3 * int(inner.sum()) >= area:
            return inner.view(bool), size
    return mask, 0


def _edges(z: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Where depth changes so fast that a pixel may lie between object and background."""
    kernel = np.ones((3, 3), np.uint8)
    near = cv2.erode(np.where(valid, z, np.float32(1e6)).astype(np.float32), kernel)
    far = cv2.dilate(np.where(valid, z, np.float32(-1e6)).astype(np.float32), kernel)
    with np.errstate(invalid="ignore"):
        return (far - near) > EDGE * np.maximum(z, 1.0)


def nearest_layer(z: np.ndarray) -> np.ndarray:
    """Which depths [N] belong to the layer of the object: the nearest large group without a gap in it.

    What shows through a hole in the mask, or past its edge, lies in a layer of its own farther away.
    """
    order = np.argsort(z, kind="stable")
    gaps = np.flatnonzero(np.diff(z[order]) > LAYER_GAP * max(1.0, float(np.median(z))))
    edges = np.concatenate([[0], gaps + 1, [len(z)]])
    sizes = np.diff(edges)
    chosen = int(np.flatnonzero(sizes >= LAYER_SHARE * sizes.max())[0])
    keep = np.zeros(len(z), bool)
    keep[order[edges[chosen] : edges[chosen + 1]]] = True
    return keep


# --- which points ---------------------------------------------------------------------------------


def voxels(points: np.ndarray, colours: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """One point for each cube of `size` metres that holds any: their mean, and the colour of one."""
    if size <= 0:
        return points, colours
    cells = np.floor((points - points.min(axis=0)) / size).astype(np.int64)
    spans = cells.max(axis=0) + 1
    keys = (cells[:, 0] * spans[1] + cells[:, 1]) * spans[2] + cells[:, 2]
    _, first, inverse, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)  # NumPy 2.0 gave it the shape of its input
    means = [np.bincount(inverse, points[:, axis]) / counts for axis in range(3)]
    return np.column_stack(means), colours[first]


def _inliers(points: np.ndarray, limit: float) -> np.ndarray:
    """Points whose distance from the middle is no outlier among the distances."""
    if limit <= 0 or len(points) < MIN_POINTS:
        return np.ones(len(points), bool)
    distance = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    middle = np.median(distance)
    deviation = 1.4826 * np.median(np.abs(distance - middle))  # that of a normal distribution
    return distance <= middle + limit * max(deviation, 1e-4)


# --- how sure -------------------------------------------------------------------------------------


def depth_deviation(z: float) -> float:
    """Standard deviation in metres of a stereo camera's depth at z metres; grows with its square."""
    return 0.001 + 0.0015 * z * z


def _position_covariance(points: np.ndarray, centre: np.ndarray, camera: Camera) -> np.ndarray:
    """[3, 3] of the centroid: sampling, the mask's outline, and depth errors that do not average out."""
    sampled: np.ndarray = np.cov(points.T) / max(len(points) / PATCH, 1.0)
    focal = float(camera.matrix[0, 0] + camera.matrix[1, 1]) / 2
    outline = np.diag([1.0, 1.0, 0.0]) * (EDGE_PIXELS * centre[2] / focal) ** 2
    ray = centre / np.linalg.norm(centre)
    depth: np.ndarray = np.outer(ray, ray) * depth_deviation(float(centre[2])) ** 2
    return sampled + outline + depth
