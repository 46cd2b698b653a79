# SPDX-License-Identifier: Apache-2.0
"""Compressed pictures of files, topics and bags: one walk over JPEG markers and PNG chunks, one decoder.

Decoders fill what is missing with grey and say nothing, and cameras append things to whole pictures. So JPEG and PNG
are walked to their end first: what lies behind it is ignored, and a picture that has none is refused.
"""

from __future__ import annotations

import io
import re
import struct

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sa2va_model.errors import InputError

IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".jp2",
    ".avif",
    ".ppm",
    ".pgm",
)
UNREAD_SUFFIXES = (".heic", ".heif", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".exr", ".hdr", ".psd")
"""Pictures that cameras write and nothing here reads; they are named, not passed over."""
READABLE = "JPEG, PNG, WebP, TIFF, JPEG 2000, BMP or AVIF"
MAX_PIXELS = 2**27
"""A header that promises more is not believed: its picture would take all memory."""
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(
    rb"\xff[^\x00\xd0-\xd7\xff]"
)  # in coded data: neither a stuffed byte nor a restart
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
_SIZES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_CONTRAST = (1.0, 99.0)  # percentiles of a 16-bit grey picture that become black and white
_FAINTEST = 256  # counts; a narrower range is not stretched further, or noise would be all there is


def decode_image(data: bytes | memoryview | np.ndarray, name: str) -> np.ndarray:
    """Decode a picture file: uint8 [H, W, 3] RGB, turned as its EXIF data asks.

    Args:
        data: the file's bytes.
        name: what to call it in the message.

    Raises:
        InputError: empty, cut short, too large or no picture.
    """
    return as_picture(decode_pixels(data, name, upright=True), name)


def decode_pixels(
    data: bytes | memoryview | np.ndarray, name: str, *, upright: bool = False
) -> np.ndarray:
    """Decode to the numbers that are stored.

    Args:
        upright: turn as EXIF data asks; not for cameras, whose pixels belong to their camera_info.

    Returns:
        uint8 or uint16 [H, W] or [H, W, 3] RGB without alpha; float32 [H, W] of a TIFF that holds such.

    Raises:
        InputError: as `decode_image`.
    """
    raw = bytes(data)
    if not raw:
        raise InputError(f"{name} is empty, expected {READABLE}")
    if not raw.startswith((_JPEG, _PNG)):
        return _by_pillow(raw, name, upright=upright)
    end, width, height = whole_picture(raw, name)
    check_pixels(name, width, height)
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    flags |= 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8, end), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(f"{name} cannot be decoded, expected {READABLE}")
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def as_picture(pixels: np.ndarray, name: str) -> np.ndarray:
    """What `decode_pixels` gave as uint8 [H, W, 3] RGB.

    Of 16-bit colours the upper eight bits are kept; a 16-bit grey picture gets `contrast`.

    Raises:
        InputError: floats, which are no colours.
    """
    if pixels.dtype.kind == "f":
        raise InputError(f"{name} holds {pixels.dtype} numbers, expected a picture")
    if pixels.dtype == np.uint16:
        pixels = contrast(pixels) if pixels.ndim == 2 else (pixels >> 8).astype(np.uint8)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels


def contrast(grey: np.ndarray) -> np.ndarray:
    """A 16-bit grey picture in 8 bits: its 1st percentile becomes black and its 99th white.

    Thermal cameras use a few hundred of the 65536 values, so the upper eight bits would be one grey.

    Args:
        grey: uint16 [H, W].

    Returns:
        uint8 [H, W].
    """
    low, high = np.percentile(grey, _CONTRAST)
    span = max(float(high - low), _FAINTEST)
    black = (low + high - span) / 2
    return np.clip((grey - black) * (255 / span), 0, 255).astype(np.uint8)


def whole_picture(data: bytes, name: str) -> tuple[int, int, int]:
    """Walk a JPEG or PNG to its end; returns the offset behind it, width and height.

    Raises:
        InputError: it ends before.
    """
    try:
        return _walk_png(data) if data.startswith(_PNG) else _walk_jpeg(data)
    except (struct.error, EOFError) as error:
        what = "IEND chunk" if data.startswith(_PNG) else "end-of-image marker"
        raise InputError(
            f"{name} is cut short (no {what} in {len(data)} bytes), expected a whole image"
        ) from error


def _walk_jpeg(data: bytes) -> tuple[int, int, int]:
    at, width, height = 2, 0, 0
    while True:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        lead, marker = struct.unpack_from(">BB", data, at)
        if lead != 0xFF or marker == 0xD8:
            raise EOFError
        at += 2
        if marker == 0xD9:
            return at, width, height
        if marker in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _SIZES:
            height, width = struct.unpack_from(">HH", data, at + 3)
        at += length
        if marker == 0xDA:  # coded data follows, up to the next marker
            found = _MARKER.search(data, at)
            if found is None:
                raise EOFError
            at = found.start()


def _walk_png(data: bytes) -> tuple[int, int, int]:
    at, width, height = len(_PNG), 0, 0
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, at + 8)
        at += 12 + length
        if at > len(data):
            raise EOFError
        if kind == b"IEND":
            return at, width, height


def check_pixels(name: str, width: int, height: int) -> None:
    """InputError for a picture that would take all memory."""
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} is {width}x{height}, expected at most {MAX_PIXELS >> 20} million pixels"
        )


def _by_pillow(raw: bytes, name: str, *, upright: bool) -> np.ndarray:
    if raw[4:8] == b"ftyp" and raw[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
        raise InputError(f"{name} is HEIC, which is not read; expected {READABLE}")
    try:
        with Image.open(io.BytesIO(raw)) as picture:
            check_pixels(name, *picture.size)
            picture.load()
            turned = ImageOps.exif_transpose(picture) if upright else picture
            return _stored(turned)
    except UnidentifiedImageError:
        return _by_opencv(raw, name)
    except InputError:
        raise
    except Exception as error:  # every plugin of Pillow has its own; a cut file is an OSError
        raise InputError(
            f"{name} cannot be decoded ({' '.join(str(error).split())}), expected {READABLE}"
        ) from error


def _stored(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I"):
        return np.asarray(picture).clip(0, 65535).astype(np.uint16)
    if picture.mode == "F":
        return np.asarray(picture, np.float32)
    return np.array(picture if picture.mode == "L" else picture.convert("RGB"))


def _by_opencv(raw: bytes, name: str) -> np.ndarray:
    """What Pillow does not know, such as TIFF with three times 16 bits."""
    pixels = None
    if raw[:4] in (b"II*\0", b"MM\0*"):
        flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise InputError(f"{name} begins like no picture ({raw[:8]!r}), expected {READABLE}")
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
