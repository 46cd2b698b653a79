# SPDX-License-Identifier: Apache-2.0
"""Compressed pictures: the walk to their end, what lies behind it, other formats, headers that lie."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sa2va_model.errors import InputError
from sa2va_model.io.frames import ImageFolder, open_source
from sa2va_model.io.pictures import contrast, decode_image, decode_pixels, whole_picture

RGB = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8), (9, 9), 0)


def saved(kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(RGB).save(data, kind, **options)
    return data.getvalue()


WHOLE = {
    "jpeg": saved("jpeg"),
    "progressive": saved("jpeg", progressive=True),
    "restarts": cv2.imencode(".jpg", RGB, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes(),
    "thumbnail": saved("jpeg", exif=b"Exif\0\0" + saved("jpeg")),  # a JPEG with an end inside
    "png": saved("png"),
}
BEHIND = {
    "junk": bytes(range(1, 256)) * 2,
    "line": b"\r\n",
    "padding": b"\0" * 300,
    "film": b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 80,
    "another": saved("jpeg"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_lies_behind_the_end_changes_nothing(kind: str) -> None:
    data = WHOLE[kind]
    assert whole_picture(data, "x") == (len(data), 64, 48)
    plain = decode_image(data, "x")
    for behind in BEHIND.values():
        np.testing.assert_array_equal(decode_image(data + behind, "x"), plain)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("part", [0.2, 0.6, 0.97])
@pytest.mark.parametrize("behind", ["", "padding", "another"])
def test_a_cut_picture_is_refused_whatever_follows(kind: str, part: float, behind: str) -> None:
    cut = WHOLE[kind][: int(len(WHOLE[kind]) * part)] + BEHIND.get(behind, b"")
    if behind == "another" and (kind == "png" or part < 0.9):
        return  # inside of a chunk or a table, which may hold anything
    with pytest.raises(InputError, match=r"x is cut short|x cannot be decoded"):
        decode_image(cut, "x")


@pytest.mark.parametrize("kind", ["webp", "tiff", "bmp", "avif", "jpeg2000", "ppm"])
def test_other_formats(kind: str) -> None:
    options = {"lossless": True} if kind == "webp" else {}
    found = decode_image(saved(kind, **options), "x")
    assert np.abs(found.astype(int) - RGB).mean() < 6
    with pytest.raises(InputError, match=r"x cannot be decoded|x begins like no picture"):
        decode_image(saved(kind)[:60], "x")


def test_pixels_of_16_bits_and_floats() -> None:
    deep = np.linspace(14000, 14800, 48 * 64).astype(np.uint16).reshape(48, 64)
    png = cv2.imencode(".png", deep)[1].tobytes()
    np.testing.assert_array_equal(decode_pixels(png, "x"), deep)
    np.testing.assert_array_equal(decode_image(png, "x")[..., 1], contrast(deep))
    colours = np.dstack([deep, deep // 2, deep // 4])
    tiff = cv2.imencode(".tiff", colours)[1].tobytes()
    np.testing.assert_array_equal(decode_image(tiff, "x"), (colours[..., ::-1] >> 8))
    metres = io.BytesIO()
    Image.fromarray(deep.astype(np.float32)).save(metres, "tiff")
    with pytest.raises(InputError, match="float32 numbers"):
        decode_image(metres.getvalue(), "x")


def test_a_header_that_promises_too_much_is_not_believed() -> None:
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    with pytest.raises(InputError, match="x is 60000x60000, expected at most 128 million pixels"):
        decode_image(png, "x")
    bmp = bytearray(saved("bmp"))
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    with pytest.raises(InputError, match="expected"):
        decode_image(bytes(bmp), "x")


def test_a_folder_drops_no_picture(tmp_path: Path) -> None:
    for n, suffix in enumerate((".png", ".webp", ".bmp", ".tif", ".JPG", ".jp2")):
        (tmp_path / f"f{n}{suffix}").write_bytes(cv2.imencode(suffix.lower(), RGB)[1].tobytes())
    (tmp_path / "notes.txt").write_text("light on")
    assert [frame.index for frame in ImageFolder(tmp_path)] == list(range(6))
    (tmp_path / "f9.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(InputError, match=r"holds f9\.HEIC \(1 of 8 files"):
        ImageFolder(tmp_path)
    with pytest.raises(InputError, match=r"\.heic is not read, expected JPEG"):
        open_source(tmp_path / "f9.HEIC")
    with pytest.raises(InputError, match="is HEIC, which is not read"):
        decode_image((tmp_path / "f9.HEIC").read_bytes(), "x")
    (tmp_path / "a.db3.zstd").write_bytes(b"x")
    with pytest.raises(InputError, match="compressed part of a rosbag2, expected the bag's folder"):
        open_source(tmp_path / "a.db3.zstd")
