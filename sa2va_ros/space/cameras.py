# SPDX-License-Identifier: Apache-2.0
"""Camera models: from `sensor_msgs/CameraInfo` to rays through pixels. The only file that reads camera_info.

`width`, `height`, `k` and `p` of a camera_info belong to the whole sensor; `roi` and `binning` say what of it the image
is (REP 104), and are applied as image_geometry does. Many drivers send the size of the image instead of the sensor's;
what can be read in two ways is refused with the numbers, because a wrong guess gives 3D that looks right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError

FOCAL = (0.05, 200.0)  # focal lengths in image widths that a camera can have: 170 degrees to 0.3
CENTRE = 3.0  # how far outside of the image, in image sizes, the optical axis may lie (a crop of a sensor)
STEEPEST = (
    20.0  # tangent of the angle to the axis (87 degrees) beyond which depth along z says nothing
)
SQUARE = 4.0  # how many times wider than high a pixel may be, or higher than wide (binning along one side is 2)
SKEW = 0.05  # of the focal length
BENDING = 1e4  # no coefficient of a real lens is larger
ROUND_TRIP = 1.0  # pixels by which undistorting and distorting again may differ


def _plumb_bob(pixels: np.ndarray, matrix: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return cv2.undistortPoints(pixels, matrix, numbers)


def _bent(rays: np.ndarray, matrix: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return cv2.projectPoints(rays, np.zeros(3), np.zeros(3), matrix, numbers)[0]


def _fisheye(pixels: np.ndarray, matrix: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    flat = cv2.fisheye.undistortPoints(pixels, matrix, numbers)
    flat[np.linalg.norm(flat, axis=-1) > STEEPEST] = np.nan
    return flat


def _fisheye_bent(rays: np.ndarray, matrix: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(rays[:, None, :2])
    return cv2.fisheye.distortPoints(flat, matrix, numbers)


@dataclass(frozen=True)
class LensModel:
    """One distortion model of `sensor_msgs/distortion_models`.

    Attributes:
        counts: how many coefficients it may have.
        flatten: pixels [N, 1, 2] to directions [N, 1, 2] at z = 1; `bend`: rays [N, 3] back to pixels.
    """

    counts: tuple[int, ...]
    flatten: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    bend: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


_OPENCV = LensModel((4, 5, 8, 12, 14), _plumb_bob, _bent)
_EQUIDISTANT = LensModel((4,), _fisheye, _fisheye_bent)
MODELS = {
    "plumb_bob": _OPENCV,
    "rational_polynomial": _OPENCV,
    "equidistant": _EQUIDISTANT,
    "fisheye": _EQUIDISTANT,
    "kannala_brandt4": _EQUIDISTANT,
}


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with distortion.

    Attributes:
        matrix: float64 [3, 3], for the pixels of the image.
        distortion: coefficients of `model`; none for rectified images.
        model: a name in `MODELS`.
    """

    matrix: np.ndarray
    width: int
    height: int
    distortion: tuple[float, ...] = ()
    model: str = "plumb_bob"

    def rays(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Directions [N, 3] with z = 1 through the middle of pixels; NaN where there is none (fisheye, 90 degrees)."""
        if any(self.distortion) or MODELS[self.model] is _EQUIDISTANT:
            pixels = np.column_stack([columns, rows]).astype(np.float64)[:, None]
            numbers = np.asarray(self.distortion or (0.0,) * 4)
            flat = MODELS[self.model].flatten(pixels, self.matrix, numbers)[:, 0]
            return np.column_stack([flat, np.ones(len(flat))])
        (fx, _, cx), (_, fy, cy) = self.matrix[0], self.matrix[1]
        return np.column_stack([(columns - cx) / fx, (rows - cy) / fy, np.ones(len(columns))])


def camera_from_info(
    message: Any, *, rectified: bool = False, size: tuple[int, int] | None = None
) -> Camera:
    """The camera of a `sensor_msgs/CameraInfo`.

    Args:
        rectified: for rectified images, which `p` describes; otherwise as they come from the camera (`k` and `d`).
        size: height and width of the images; None = as the message has it.

    Raises:
        InputError: it is not calibrated or not plausible, its size is another or can be read in two ways, or its
            distortion is no model that is known.
    """
    matrix, (height, width) = _for_image(message, "p" if rectified else "k", size)
    named = f"camera_info {message.width}x{message.height}"
    _check_plausible(named, "p" if rectified else "k", matrix, height, width)
    if rectified:
        return Camera(matrix, width, height)
    camera = Camera(matrix, width, height, *_distortion(message, named))
    _check_invertible(camera, named)
    return camera


def _for_image(
    message: Any, field: str, size: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """The matrix for the pixels of the image, and the image's height and width."""
    whole = np.asarray(getattr(message, field), np.float64).reshape(3, -1)[:, :3]
    sensor = (int(message.height), int(message.width))
    roi, (left, top, wide, high) = getattr(message, "roi", None), (0, 0, 0, 0)
    if roi is not None:
        left, top, wide, high = (
            int(v) for v in (roi.x_offset, roi.y_offset, roi.width, roi.height)
        )
    by_x, by_y = (max(int(getattr(message, f"binning_{axis}", 1)), 1) for axis in "xy")
    cut = np.array(whole)
    cut[0, 2], cut[1, 2] = cut[0, 2] - left, cut[1, 2] - top
    cut[0], cut[1] = cut[0] / by_x, cut[1] / by_y
    seen = ((high or sensor[0]) // by_y, (wide or sensor[1]) // by_x)
    size = size or seen
    inside = left + (wide or sensor[1]) <= sensor[1] and top + (high or sensor[0]) <= sensor[0]
    # Drivers that round up, or that crop to a multiple of something, are a pixel or two away.
    if inside and max(abs(seen[0] - size[0]), abs(seen[1] - size[1])) < max(by_x, by_y):
        return cut, size
    if sensor != size or (sensor == seen and inside):
        raise InputError(_said(message, left, top, wide, high, by_x, by_y, size))
    # The size is the image's, so `k` may be for the image or for the sensor: the axis tells, or nothing does.
    fitting = [m for m in (cut, whole) if 0 < m[0, 2] < size[1] and 0 < m[1, 2] < size[0]]
    if len(fitting) != 1:
        raise InputError(_said(message, left, top, wide, high, by_x, by_y, size))
    return fitting[0], size


def _said(
    message: Any,
    left: int,
    top: int,
    wide: int,
    high: int,
    by_x: int,
    by_y: int,
    size: tuple[int, int],
) -> str:
    changes = f" with roi {wide}x{high} at {left},{top} and binning {by_x}x{by_y}"
    changed = any((left, top, wide, high)) or by_x > 1 or by_y > 1
    return (
        f"camera_info is {message.width}x{message.height}{changes if changed else ''}; expected "
        f"{size[1]}x{size[0]} as the image (depth aligned to colour)"
        + ("; width and height are the whole sensor's (REP 104)" if changed else "")
    )


def _check_plausible(named: str, field: str, matrix: np.ndarray, height: int, width: int) -> None:
    (fx, _, cx), (_, fy, cy) = matrix[0], matrix[1]
    if not (np.isfinite(matrix).all() and fx > 0 and fy > 0):
        raise InputError(
            f"{named}: {field} is {matrix.ravel().tolist()}; expected focal lengths above 0"
        )
    low, high = (share * max(width, height) for share in FOCAL)
    if max(fx, fy) > SQUARE * min(fx, fy):
        raise InputError(
            f"{named}: focal lengths are {fx:g} and {fy:g} pixels; expected them alike (up to {SQUARE:g} times)"
        )
    if not (low <= fx <= high and low <= fy <= high):
        raise InputError(
            f"{named}: focal lengths are {fx:g} and {fy:g} pixels; expected {low:g} to {high:g}"
        )
    empty = [matrix[1, 0], *matrix[2, :2], matrix[2, 2] * (matrix[2, 2] - 1)]
    if np.abs(empty).max() > 1e-6 or abs(matrix[0, 1]) > SKEW * fx:
        raise InputError(
            f"{named}: {field} is {matrix.ravel().tolist()}; expected fx 0 cx, 0 fy cy, 0 0 1 row by row"
        )
    if abs(cx) > CENTRE * width or abs(cy) > CENTRE * height or cx == cy == 0:
        raise InputError(
            f"{named}: the optical axis is at {cx:g},{cy:g}; expected it near the image of {width}x{height}"
        )


def _distortion(message: Any, named: str) -> tuple[tuple[float, ...], str]:
    numbers, model = tuple(float(value) for value in message.d), message.distortion_model
    if not (np.abs(numbers) <= BENDING).all():
        raise InputError(f"{named}: d is {list(numbers)}; expected numbers up to {BENDING:g}")
    if model not in MODELS:
        if any(numbers):
            raise InputError(
                f"{named}: distortion_model is '{model}'; expected one of {', '.join(MODELS)} "
                "(or rectified images, with parameter rectified)"
            )
        return (), "plumb_bob"
    counts = MODELS[model].counts
    fewer = max((count for count in counts if count <= len(numbers)), default=0)
    if not any(numbers[fewer:]):
        numbers = numbers[:fewer]  # fields of a fixed length, filled up with zeros
    if numbers and len(numbers) not in counts:
        raise InputError(
            f"{named}: d has {len(numbers)} numbers; expected 0 or {' or '.join(map(str, counts))} for {model}"
        )
    return numbers, model


def _check_invertible(camera: Camera, named: str) -> None:
    """In the middle half of the image; polynomials are fitted to what was seen, and corners may be out of hand."""
    if not any(camera.distortion):
        return
    columns, rows = (
        grid.ravel()
        for grid in np.meshgrid(
            *(np.linspace(s / 4, 3 * s / 4, 5) for s in (camera.width, camera.height))
        )
    )
    model, numbers = MODELS[camera.model], np.asarray(camera.distortion)
    with np.errstate(all="ignore"):
        rays = camera.rays(columns, rows)
        back = model.bend(rays, camera.matrix, numbers).reshape(-1, 2)
        off = np.abs(back - np.column_stack([columns, rows])).max()
    if not off <= ROUND_TRIP:
        raise InputError(
            f"{named}: d is {list(camera.distortion)}, which bends the middle of the image beyond repair; "
            "expected the coefficients of a lens"
        )
