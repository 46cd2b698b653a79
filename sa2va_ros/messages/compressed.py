# SPDX-License-Identifier: Apache-2.0
"""`sensor_msgs/CompressedImage` to arrays. Its `format` decides what the decoded numbers mean.

image_transport writes `SOURCE; jpeg|png|tiff compressed TARGET`: the encoding of the camera, and what was made of it
before compression. An empty TARGET means that the camera's own numbers were compressed: a mosaic stays a mosaic.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.pictures import READABLE, as_picture, decode_pixels
from sa2va_ros.messages.encodings import DISTANCES, ENCODINGS, PICTURES, metres
from sa2va_ros.messages.rvl import decode_rvl

_FORMAT = re.compile(
    r"^(?:(?P<source>[^;]*);)?\s*(?P<codec>\S*)(?:\s+compressed)?\s*(?P<target>\S*)\s*$"
)
_DEPTH_HEADER = struct.Struct(
    "<iff"
)  # compressed_depth_image_transport: format, two numbers of its quantisation
_VIDEO = ("h264", "h265", "hevc", "vp8", "vp9", "av1")


@dataclass(frozen=True)
class Format:
    """A `format` taken apart; what it does not say is ""."""

    source: str = ""
    codec: str = ""
    target: str = ""

    @staticmethod
    def of(text: str) -> Format:
        """From the field of a message; foreign words are kept in `codec`."""
        found = _FORMAT.match(text)
        if found is None:
            return Format(codec=text)
        source, codec, target = ((found[n] or "").strip() for n in ("source", "codec", "target"))
        return Format(source, codec, target)

    @property
    def depth(self) -> bool:
        """Whether it can only be distances."""
        only = self.source in DISTANCES and self.source not in PICTURES
        return only or "compresseddepth" in self.codec.lower()

    @property
    def mosaic(self) -> bool:
        """Whether a Bayer camera's own numbers were compressed."""
        return self.source.startswith("bayer_") and self.target in ("", self.source)


def rgb_from_compressed(message: Any) -> np.ndarray:
    """The picture of a `sensor_msgs/CompressedImage`: uint8 [H, W, 3] RGB.

    Raises:
        InputError: it holds distances or video, is cut short, or cannot be decoded.
    """
    form, named = Format.of(message.format), _named(message)
    if form.depth:
        raise InputError(f"{named}: holds distances, not colours; expected {READABLE}")
    if form.codec.lower() in _VIDEO:
        raise InputError(f"{named}: is one packet of a video; expected {READABLE}")
    pixels = decode_pixels(message.data, named)
    if (
        form.source.startswith("bayer_")
        and (form.mosaic or pixels.ndim == 2)
        and form.target != "mono8"
    ):
        return _from_mosaic(form.source, pixels, named)
    if form.target.startswith("rgb") and pixels.ndim == 3:
        # The encoder, which takes its input for BGR, was given RGB; image_transport's subscriber turns it back.
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    return as_picture(pixels, named)


def depth_from_compressed(message: Any, scale: float = 0.0) -> np.ndarray:
    """The distances of a `sensor_msgs/CompressedImage`: float32 [H, W] metres, NaN where nothing was measured.

    Reads `compressedDepth` (PNG, RVL) of 16UC1 and 32FC1, and 16-bit PNG or TIFF.

    Args:
        scale: metres for one unit; 0 = millimetres for integers, metres for floats.

    Raises:
        InputError: a picture of colours, or data that cannot be decoded.
    """
    form, named, data = Format.of(message.format), _named(message), bytes(message.data)
    if "compresseddepth" in form.codec.lower():
        return _from_compressed_depth(form, data, named, scale)
    pixels = decode_pixels(data, named)
    if (
        pixels.ndim != 2
        or pixels.dtype == np.uint8
        or (form.source and form.source not in DISTANCES)
    ):
        raise InputError(
            f"{named}: is a picture; expected distances as 16-bit PNG or compressedDepth"
        )
    return metres(pixels, scale or (0.001 if pixels.dtype == np.uint16 else 1.0))


def _from_compressed_depth(form: Format, data: bytes, named: str, scale: float) -> np.ndarray:
    if len(data) <= _DEPTH_HEADER.size:
        raise InputError(f"{named}: is cut short; expected a header, and a PNG or RVL data")
    _, numerator, offset = _DEPTH_HEADER.unpack_from(data)
    rvl = "rvl" in (form.target + form.codec).lower()
    pixels = (decode_rvl if rvl else decode_pixels)(data[_DEPTH_HEADER.size :], named)
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise InputError(
            f"{named}: holds {pixels.dtype} {list(pixels.shape)}; expected 16-bit grey"
        )
    if form.source != "32FC1":
        return metres(pixels, scale or 0.001)
    with np.errstate(divide="ignore"):  # stored is a / depth + b
        found = np.float32(numerator) / (pixels.astype(np.float32) - np.float32(offset))
    found[pixels == 0] = np.nan
    return metres(found, scale or 1.0)


def _from_mosaic(source: str, pixels: np.ndarray, named: str) -> np.ndarray:
    if pixels.ndim == 3:
        if not ((pixels[..., 0] == pixels[..., 1]) & (pixels[..., 0] == pixels[..., 2])).all():
            return as_picture(pixels, named)  # somebody has made colours of it
        pixels = np.ascontiguousarray(pixels[..., 0])
    name = re.sub(r"\d+$", "16" if pixels.dtype == np.uint16 else "8", source)
    picture = ENCODINGS[name].picture if name in ENCODINGS else None
    if picture is None:
        raise InputError(
            f"{named}: '{source}' is no Bayer pattern; expected one such as bayer_rggb8"
        )
    return picture(pixels)


def _named(message: Any) -> str:
    return f"compressed image '{message.format}' of {len(message.data)} bytes"
