# SPDX-License-Identifier: Apache-2.0
"""What the names in `sensor_msgs/image_encodings` mean: one table for node, bags and files.

A name with a picture gives RGB, a name with distances gives metres; mono16 is both, by the topic it comes on. What has
no agreed meaning (8UC2, 32FC3 and other bare types) is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.pictures import contrast


@dataclass(frozen=True)
class Encoding:
    """How pixels are stored and what they say.

    Attributes:
        channels: numbers of `dtype` for each pixel of a row.
        picture: from the stored array to uint8 [H, W, 3] RGB; None = no picture.
        metres: for one unit of a distance; None = no distances.
        rows: stored rows for two rows of the picture; 2 but for formats with colour planes behind the luma.
        even: width and height must be multiples of these.
    """

    dtype: type[np.generic]
    channels: int = 1
    picture: Callable[[np.ndarray], np.ndarray] | None = None
    metres: float | None = None
    rows: int = 2
    even: tuple[int, int] = (1, 1)


def _by(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: cv2.cvtColor(pixels, code)


def _upper(code: int | None) -> Callable[[np.ndarray], np.ndarray]:
    """Of 16 bits the upper eight."""

    def picture(pixels: np.ndarray) -> np.ndarray:
        rgb = pixels if code is None else cv2.cvtColor(pixels, code)
        return (rgb >> 8).astype(np.uint8)

    return picture


def _from_nv24(pixels: np.ndarray) -> np.ndarray:
    """Luma, then a chroma pair for every pixel; BT.601 in video range, as OpenCV has it for the others."""
    height, width = pixels.shape[0] // 3, pixels.shape[1]
    chroma = pixels[height:].reshape(height, width, 2)
    yuv = np.dstack([pixels[:height], chroma]).astype(np.float32) - np.array(
        [16, 128, 128], np.float32
    )
    rgb = yuv @ np.array(
        [[1.164, 1.164, 1.164], [0, -0.391, 2.018], [1.596, -0.813, 0]], np.float32
    )
    return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)


# OpenCV names a Bayer pattern by its second row, ROS by its first.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_UYVY = Encoding(np.uint8, 2, _by(cv2.COLOR_YUV2RGB_UYVY), even=(2, 1))
_YUYV = Encoding(np.uint8, 2, _by(cv2.COLOR_YUV2RGB_YUY2), even=(2, 1))
_GREY = Encoding(np.uint8, 1, _by(cv2.COLOR_GRAY2RGB))
_BGR, _BGRA = (
    Encoding(np.uint8, 3, _by(cv2.COLOR_BGR2RGB)),
    Encoding(np.uint8, 4, _by(cv2.COLOR_BGRA2RGB)),
)
_BGR16 = Encoding(np.uint16, 3, _upper(cv2.COLOR_BGR2RGB))
_BGRA16 = Encoding(np.uint16, 4, _upper(cv2.COLOR_BGRA2RGB))
ENCODINGS: dict[str, Encoding] = {
    "rgb8": Encoding(np.uint8, 3, lambda pixels: pixels),
    "rgba8": Encoding(np.uint8, 4, _by(cv2.COLOR_RGBA2RGB)),
    "bgr8": _BGR,
    "bgra8": _BGRA,
    "rgb16": Encoding(np.uint16, 3, _upper(None)),
    "rgba16": Encoding(np.uint16, 4, _upper(cv2.COLOR_RGBA2RGB)),
    "bgr16": _BGR16,
    "bgra16": _BGRA16,
    "mono8": _GREY,
    "mono16": Encoding(
        np.uint16, 1, lambda p: cv2.cvtColor(contrast(p), cv2.COLOR_GRAY2RGB), 0.001
    ),
    "8UC1": _GREY,
    "8UC3": _BGR,  # OpenCV's order
    "8UC4": _BGRA,
    "16UC3": _BGR16,
    "16UC4": _BGRA16,
    "16UC1": Encoding(np.uint16, 1, metres=0.001),
    "32FC1": Encoding(np.float32, 1, metres=1.0),
    "64FC1": Encoding(np.float64, 1, metres=1.0),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": Encoding(np.uint8, 1, _by(cv2.COLOR_YUV2RGB_NV12), rows=3, even=(2, 2)),
    "nv21": Encoding(np.uint8, 1, _by(cv2.COLOR_YUV2RGB_NV21), rows=3, even=(2, 2)),
    "nv24": Encoding(np.uint8, 1, _from_nv24, rows=6),
    **{f"bayer_{name}8": Encoding(np.uint8, 1, _by(code)) for name, code in _BAYER.items()},
    **{f"bayer_{name}16": Encoding(np.uint16, 1, _upper(code)) for name, code in _BAYER.items()},
}
PICTURES = tuple(name for name, entry in ENCODINGS.items() if entry.picture is not None)
DISTANCES = tuple(name for name, entry in ENCODINGS.items() if entry.metres is not None)


def picture_encoding(name: str) -> Encoding:
    """The entry of an encoding that holds a picture; InputError lists those that do."""
    if name in DISTANCES and name not in PICTURES:
        raise InputError(
            f"image encoding '{name}' holds distances, not colours; expected one of {', '.join(PICTURES)}"
        )
    return _entry("image", name, PICTURES)


def depth_encoding(name: str) -> Encoding:
    """The entry of an encoding that holds distances; InputError lists those that do."""
    return _entry("depth", name, DISTANCES)


def metres(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Distances as float32 [H, W], NaN where nothing was measured.

    Integers: 0 and the largest one mean that (REP 118, and cameras that saturate); floats: all but finite ones above 0.

    Args:
        pixels: [H, W] as stored.
        scale: metres for one unit.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = pixels.astype(np.float32)
        if scale != 1:
            found *= np.float32(scale)
        if pixels.dtype.kind == "f":
            bad = ~(np.isfinite(found) & (found > 0))
        else:
            bad = (pixels == 0) | (pixels == np.iinfo(pixels.dtype).max)
    found[bad] = np.nan
    return found


def _entry(what: str, name: str, known: tuple[str, ...]) -> Encoding:
    if name in known:
        return ENCODINGS[name]
    near = difflib.get_close_matches(name.strip().lower(), known, n=1, cutoff=0.85)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise InputError(
        f"{what} encoding '{name}' is not supported{hint}; expected one of {', '.join(known)}"
    )
