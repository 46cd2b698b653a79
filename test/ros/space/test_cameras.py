# SPDX-License-Identifier: Apache-2.0
"""camera_info as drivers send it: regions, binning, lenses, nonsense."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_ros.space.cameras import camera_from_info

F, CX, CY = 600.0, 640.0, 480.0  # of a sensor of 1280x960


def info(width: int = 1280, height: int = 960, **changes: object) -> SimpleNamespace:
    k = [F, 0, CX, 0, F, CY, 0, 0, 1]
    fields = {"width": width, "height": height, "k": k, "d": [], "distortion_model": "plumb_bob"}
    fields |= {"p": [F, 0, CX, 0, 0, F, CY, 0, 0, 0, 1, 0], "binning_x": 0, "binning_y": 0}
    return SimpleNamespace(**(fields | {"roi": roi()} | changes))


def roi(x: int = 0, y: int = 0, width: int = 0, height: int = 0) -> SimpleNamespace:
    return SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height, do_rectify=False)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("message", "size", "expected"),
    [
        (info(), (960, 1280), (F, CX, CY)),
        (info(roi=roi(320, 240, 640, 480)), (480, 640), (F, 320, 240)),
        (info(roi=roi(100, 50, 640, 480)), (480, 640), (F, 540, 430)),
        (info(binning_x=2, binning_y=2), (480, 640), (300, 320, 240)),
        (info(roi=roi(320, 240, 640, 480), binning_x=4, binning_y=4), (120, 160), (150, 80, 60)),
        # A driver that sends the size of the image, and `k` of the sensor.
        (info(640, 480, roi=roi(474, 300, 640, 480)), (480, 640), (F, 166, 180)),
        (info(640, 480, binning_x=2, binning_y=2), (480, 640), (300, 320, 240)),
    ],
)
def test_regions_and_binning(
    message: SimpleNamespace, size: tuple[int, int], expected: tuple[float, ...], rectified: bool
) -> None:
    camera = camera_from_info(message, rectified=rectified, size=size)
    matrix = camera.matrix
    assert (matrix[0, 0], matrix[0, 2], matrix[1, 2]) == expected
    assert (camera.height, camera.width) == size
    # 2 cm to the right at 1 m, wherever the sensor was cut
    pixel = np.array([expected[1] + 0.02 * expected[0]])
    assert camera.rays(pixel, np.array([expected[2]]))[0, 0] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        # `k` may be the sensor's or the image's: both put the axis into the image
        (
            info(640, 480, k=[F, 0, 320, 0, F, 240, 0, 0, 1], roi=roi(100, 50, 640, 480)),
            "roi 640x480 at 100,50",
        ),
        (info(roi=roi(0, 0, 320, 240)), "roi 320x240 at 0,0"),
        (info(320, 240), "camera_info is 320x240; expected 640x480"),
        (info(0, 0), "camera_info is 0x0; expected 640x480"),
        (info(640, 480, k=[1e-300, 0, 320, 0, 1e-300, 240, 0, 0, 1]), "focal lengths are 1e-300"),
        (info(640, 480, k=[1e-3, 0, 320, 0, 1e-3, 240, 0, 0, 1]), "expected 32 to 128000"),
        (info(640, 480, k=[F, 0, 1e9, 0, F, 240, 0, 0, 1]), r"optical axis is at 1e\+09,240"),
        (
            info(640, 480, k=[F, 0, 320, 0, 60, 240, 0, 0, 1]),
            "600 and 60 pixels; expected them alike",
        ),
        (
            info(640, 480, k=[F, 0, 0, 0, F, 0, 320, 240, 1]),
            "expected fx 0 cx, 0 fy cy",
        ),  # by columns
        (info(640, 480, k=[F, 320, 0, 0, F, 240, 0, 0, 1]), "expected fx 0 cx, 0 fy cy"),
        (info(640, 480, k=[F, 0, 0, 0, F, 0, 0, 0, 1]), "optical axis is at 0,0"),
        (info(640, 480, k=[float("nan")] * 9), "expected focal lengths above 0"),
        (info(640, 480, d=[1e300] * 5), r"d is \[1e\+300"),
        (info(640, 480, d=[float("nan")] * 5), r"d is \[nan"),
        (info(640, 480, d=[-40.0, 900.0, 0, 0, 0]), "beyond repair"),
        (info(640, 480, d=[0.1] * 6), "d has 6 numbers"),
        (
            info(640, 480, d=[0.1] * 5, distortion_model="equidistant"),
            "expected 0 or 4 for equidistant",
        ),
        (info(640, 480, d=[0.1] * 5, distortion_model=""), "distortion_model is ''"),
    ],
)
def test_what_cannot_be_interpreted_is_refused_with_the_numbers(
    message: SimpleNamespace, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        camera_from_info(message, size=(480, 640))


@pytest.mark.parametrize("name", ["equidistant", "fisheye"])
def test_a_fisheye_is_undone(name: str) -> None:
    numbers = [0.1, 0.01, 0.001, 0.0001]
    camera = camera_from_info(info(d=numbers, distortion_model=name))
    directions = np.array([[0.0, 0.0], [0.5, -0.3], [-1.5, 0.9]])
    pixels = cv2.fisheye.distortPoints(directions[:, None], camera.matrix, np.array(numbers))[:, 0]
    rays = camera.rays(pixels[:, 0], pixels[:, 1])
    np.testing.assert_allclose(rays[:, :2], directions, atol=1e-6)
    assert np.isnan(camera.rays(np.array([-1e5]), np.array([0.0]))[0, :2]).all()


@pytest.mark.parametrize(
    ("model", "numbers", "kept"),
    [
        ("equidistant", [0.1, 0.01, 0.001, 0.0001, 0.0], 4),
        ("plumb_bob", [0.1, -0.2, 0, 0, 0, 0], 5),
        ("plumb_bob", [0.0] * 2, 0),
        ("rational_polynomial", [0.1, 0, 0, 0, 0, 0, 0, 0], 8),
    ],
)
def test_zeros_behind_the_coefficients_are_no_coefficients(
    model: str, numbers: list[float], kept: int
) -> None:
    camera = camera_from_info(info(d=numbers, distortion_model=model))
    assert camera.distortion == tuple(numbers[:kept])
