# SPDX-License-Identifier: Apache-2.0
"""The table of encodings, and what `format` of compressed images decides."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_ros.messages.compressed import depth_from_compressed, rgb_from_compressed
from sa2va_ros.messages.encodings import DISTANCES, ENCODINGS, PICTURES
from sa2va_ros.messages.images import depth_from_image, rgb_from_image

WIDTH, HEIGHT = 64, 48
X, Y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
SMOOTH = np.dstack([60 + X, 200 - X, 40 + 2 * Y]).astype(np.uint8)  # RGB, red differs from blue


def image(pixels: np.ndarray, form: str, **changes: object) -> SimpleNamespace:
    fields = {"height": HEIGHT, "width": WIDTH, "encoding": form, "is_bigendian": 0}
    fields |= {"step": pixels[0].nbytes, "data": pixels.tobytes()}
    return SimpleNamespace(**(fields | changes))


def packed(form: str, *pictures: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(format=form, data=b"".join(p.tobytes() for p in pictures))


def encoded(suffix: str, pixels: np.ndarray, *options: int) -> np.ndarray:
    """Compressed by OpenCV, which takes colours as BGR."""
    return cv2.imencode(suffix, pixels, list(options))[1]


def mosaic(pattern: str, rgb: np.ndarray) -> np.ndarray:
    out = np.empty(rgb.shape[:2], rgb.dtype)
    for place, colour in enumerate(pattern):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        out[rows, columns] = rgb[rows, columns, "rgb".index(colour)]
    return out


def distance(found: np.ndarray, truth: np.ndarray) -> float:
    inner = (slice(2, -2), slice(2, -2))
    return float(np.abs(found[inner].astype(int) - truth[inner]).mean())


@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb16", "rgb"),
        ("bgr16", "bgr"),
        ("rgba16", "rgba"),
        ("bgra16", "bgra"),
        ("16UC3", "bgr"),
        ("16UC4", "bgra"),
    ],
)
def test_colours_of_16_bits_keep_the_upper_eight(encoding: str, order: str) -> None:
    layers = np.dstack([SMOOTH, np.full_like(SMOOTH[..., 0], 255)])
    deep = layers[..., ["rgba".index(c) for c in order]].astype(np.uint16) * 257
    np.testing.assert_array_equal(rgb_from_image(image(deep, encoding)), SMOOTH)


def test_planar_yuv_with_padded_rows_and_with_planes_counted_into_the_step() -> None:
    yuv = cv2.cvtColor(SMOOTH, cv2.COLOR_RGB2YUV_I420)
    luma, u, v = yuv[:HEIGHT], *yuv[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    for name, pair in (("nv12", (u, v)), ("nv21", (v, u))):
        stored = np.vstack([luma, np.dstack(pair).reshape(HEIGHT // 2, WIDTH)])
        assert distance(rgb_from_image(image(stored, name)), SMOOTH) < 3
        wide = np.pad(stored, ((0, 0), (0, 8)))
        assert distance(rgb_from_image(image(wide, name)), SMOOTH) < 3
        odd = image(stored, name, step=WIDTH * 3 // 2)
        assert distance(rgb_from_image(odd), SMOOTH) < 3
    full = np.dstack([np.kron(plane, np.ones((2, 2), np.uint8)) for plane in (u, v)])
    nv24 = np.vstack([luma, full.reshape(2 * HEIGHT, WIDTH)])
    assert distance(rgb_from_image(image(nv24, "nv24")), SMOOTH) < 3
    with pytest.raises(InputError, match="even width and height"):
        rgb_from_image(image(stored[:-2], "nv12", height=HEIGHT - 1))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_mosaic_is_one_raw_and_compressed(pattern: str) -> None:
    plain, deep = mosaic(pattern, SMOOTH), mosaic(pattern, SMOOTH).astype(np.uint16) * 257
    assert distance(rgb_from_image(image(deep, f"bayer_{pattern}16")), SMOOTH) < 3
    for form, data in (
        (
            f"bayer_{pattern}8; jpeg compressed ",
            encoded(".jpg", plain, cv2.IMWRITE_JPEG_QUALITY, 99),
        ),
        (f"bayer_{pattern}8; png compressed bayer_{pattern}8", encoded(".png", plain)),
        (f"bayer_{pattern}16; png compressed ", encoded(".png", deep)),
    ):
        assert distance(rgb_from_compressed(packed(form, data)), SMOOTH) < 4, form


def test_format_says_whether_colours_were_made_and_in_which_order() -> None:
    bgr = np.ascontiguousarray(SMOOTH[..., ::-1])
    made = packed("bayer_rggb8; png compressed bgr8", encoded(".png", bgr))
    np.testing.assert_array_equal(rgb_from_compressed(made), SMOOTH)
    unswapped = packed("rgb8; png compressed rgb8", encoded(".png", SMOOTH))
    np.testing.assert_array_equal(rgb_from_compressed(unswapped), SMOOTH)
    grey = packed("bayer_rggb8; png compressed mono8", encoded(".png", SMOOTH[..., 0]))
    np.testing.assert_array_equal(rgb_from_compressed(grey)[..., 2], SMOOTH[..., 0])


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".bmp", ".jp2"])
def test_a_topic_reads_what_files_read(suffix: str) -> None:
    data = encoded(suffix, np.ascontiguousarray(SMOOTH[..., ::-1]))
    for form in ("", suffix[1:], f"bgr8; {suffix[1:]} compressed bgr8"):
        assert distance(rgb_from_compressed(packed(form, data)), SMOOTH) < 3


def test_compressed_depth_is_metres() -> None:
    millimetres = np.full((HEIGHT, WIDTH), 1500, np.uint16)
    millimetres[0] = 0
    png = encoded(".png", millimetres)
    header = np.frombuffer(struct.pack("<iff", 0, 0, 0), np.uint8)
    for message in (
        packed("16UC1; compressedDepth png", header, png),
        packed("16UC1; compressedDepth", header, png),
        packed("16UC1; png compressed ", png),
        packed("png", png),
    ):
        depth = depth_from_compressed(message)
        assert np.isnan(depth[0]).all()
        np.testing.assert_allclose(depth[1:], 1.5, rtol=1e-6)
    # As compressed_depth_image_transport writes floats: a / depth + b, with 100 m largest and 100 m quantisation.
    a, b = 100.0 * 101.0, 1.0 - 100.0 * 101.0 / 100.0
    inverse = np.full((HEIGHT, WIDTH), a / 1.5 + b).astype(np.uint16)
    header = np.frombuffer(struct.pack("<iff", 0, a, b), np.uint8)
    depth = depth_from_compressed(
        packed("32FC1; compressedDepth png", header, encoded(".png", inverse))
    )
    np.testing.assert_allclose(depth, 1.5, rtol=1e-3)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("16UC1; png compressed ", "holds distances"),
        ("16UC1; compressedDepth rvl", "holds distances"),
        ("32FC1; compressedDepth png", "holds distances"),
        ("h264", "one packet of a video"),
    ],
)
def test_what_is_no_picture_is_refused_as_one(form: str, says: str) -> None:
    data = encoded(".png", np.full((HEIGHT, WIDTH), 1500, np.uint16))
    with pytest.raises(InputError, match=says):
        rgb_from_compressed(packed(form, data))


def test_a_colour_picture_is_no_depth() -> None:
    for form in ("jpeg", "rgb8; png compressed bgr8"):
        with pytest.raises(InputError, match="is a picture"):
            depth_from_compressed(packed(form, encoded(".png", SMOOTH)))


def rvl(depth: np.ndarray) -> np.ndarray:
    """The published encoder, word for word."""
    nibbles: list[int] = []

    def put(value: int) -> None:
        while True:
            nibble, value = value & 7, value >> 3
            nibbles.append(nibble | (8 if value else 0))
            if not value:
                return

    values, at, previous = depth.ravel().tolist(), 0, 0
    while at < len(values):
        zeros = next((n for n, v in enumerate(values[at:]) if v), len(values) - at)
        count = next((n for n, v in enumerate(values[at + zeros :]) if not v), None)
        count = len(values) - at - zeros if count is None else count
        put(zeros)
        put(count)
        for value in values[at + zeros : at + zeros + count]:
            delta, previous = value - previous, value
            put((delta << 1) ^ (delta >> 31))
        at += zeros + count
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        sum(n << (28 - 4 * k) for k, n in enumerate(nibbles[i : i + 8]))
        for i in range(0, len(nibbles), 8)
    ]
    size = struct.pack("<iffII", 0, 0.0, 0.0, depth.shape[1], depth.shape[0])
    return np.frombuffer(size + np.array(words, "<u4").tobytes(), np.uint8)


@pytest.mark.parametrize("kind", ["noise", "holes", "empty", "full"])
def test_rvl_gives_back_every_number(kind: str) -> None:
    rng = np.random.default_rng(4)
    depth = rng.integers(1, 65535, (HEIGHT, WIDTH)).astype(np.uint16)
    if kind == "holes":
        depth[rng.random(depth.shape) < 0.5] = 0
        depth[-5:] = 0
    elif kind == "empty":
        depth[:] = 0
    elif kind == "full":
        depth[:] = 1500
    found = depth_from_compressed(packed("16UC1; compressedDepth rvl", rvl(depth)))
    np.testing.assert_array_equal(np.nan_to_num(found * 1000).round(), depth)
    tenths = depth_from_compressed(packed("16UC1; compressedDepth rvl", rvl(depth)), 0.0001)
    np.testing.assert_allclose(tenths, found / 10, rtol=1e-6)


def test_rvl_that_is_damaged_is_refused() -> None:
    whole = rvl(np.full((HEIGHT, WIDTH), 1500, np.uint16))
    for data, says in (
        (whole[:15], "cut short"),
        (whole[:20], "cut short"),
        (whole[:200], "beyond its 3072 pixels or its data"),
        (np.r_[whole[:12], np.full(8, 255, np.uint8), whole[20:]], "expected at most"),
        (np.r_[whole[:20], np.full(400, 255, np.uint8)], "cut short"),
        (np.r_[whole[:20], np.full(400, 15, np.uint8), whole[20:]], "ends after"),
    ):
        with pytest.raises(InputError, match=says):
            depth_from_compressed(packed("16UC1; compressedDepth rvl", data))


def test_errors_list_only_what_is_taken() -> None:
    for read, listed in ((rgb_from_image, PICTURES), (depth_from_image, DISTANCES)):
        for name in ("8UC2", "32FC3", "RGB8", "mono12", *ENCODINGS):
            if name in listed:
                continue
            with pytest.raises(InputError, match=f"'{name}'") as caught:
                read(image(np.zeros((HEIGHT, WIDTH), np.uint8), name))
            assert str(caught.value).endswith("expected one of " + ", ".join(listed))
