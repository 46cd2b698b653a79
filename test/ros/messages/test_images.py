# SPDX-License-Identifier: Apache-2.0
"""Image messages to arrays and back, without ROS: every encoding, byte order, padding, and what
must be refused."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.tracks import Track, TrackState
from sa2va_ros.messages import images as conversions
from sa2va_ros.messages import tracks as conversions_tracks

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def image(
    pixels: np.ndarray,
    form: str,
    *,
    padding: int = 0,
    big_endian: bool = False,
    **changes: object,
) -> SimpleNamespace:
    """A hand-made `sensor_msgs/Image`, with `padding` bytes after each row."""
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = [row.tobytes() + b"\xee" * padding for row in stored]
    fields = {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": form,
        "is_bigendian": int(big_endian),
        "step": len(rows[0]),
        "data": b"".join(rows),
    }
    return SimpleNamespace(**(fields | changes))


def compressed(data: bytes, form: str = "jpeg") -> SimpleNamespace:
    return SimpleNamespace(format=form, data=data)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", COLOUR),
        ("bgr8", COLOUR[..., ::-1]),
        ("8UC3", COLOUR[..., ::-1]),
        ("rgba8", np.dstack([COLOUR, COLOUR[..., 0]])),
        ("bgra8", np.dstack([COLOUR[..., ::-1], COLOUR[..., 0]])),
    ],
)
def test_colour_encodings_give_the_same_picture(
    encoding: str, pixels: np.ndarray, padding: int
) -> None:
    rgb = conversions.rgb_from_image(image(pixels, encoding, padding=padding))
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb, COLOUR)


@pytest.mark.parametrize("big_endian", [False, True])
def test_grey_of_8_bits_is_repeated_and_of_16_bits_gets_contrast(big_endian: bool) -> None:
    grey = COLOUR[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(conversions.rgb_from_image(image(grey, "mono8")), expected)
    thermal = np.linspace(14000, 14800, 4800).astype(np.uint16).reshape(60, 80)
    message = image(thermal, "mono16", big_endian=big_endian, padding=2)
    rgb = conversions.rgb_from_image(message)
    assert (rgb.min(), rgb.max()) == (0, 255)
    assert abs(int(rgb[30, 0, 0]) - 127) < 4
    flat = np.full((4, 4), 14000, np.uint16)  # nothing to see is no noise
    assert set(conversions.rgb_from_image(image(flat, "mono16")).ravel()) == {127}


@pytest.mark.parametrize(("encoding", "luma"), [("yuv422", 1), ("yuv422_yuy2", 0)])
def test_yuv422_of_a_grey_picture_is_that_grey(encoding: str, luma: int) -> None:
    pixels = np.full((4, 6, 2), 128, np.uint8)  # 128 = no colour
    pixels[..., luma] = 235  # video white
    rgb = conversions.rgb_from_image(image(pixels, encoding))
    assert rgb.shape == (4, 6, 3)
    assert rgb.min() >= 253
    with pytest.raises(InputError, match="even width"):
        conversions.rgb_from_image(image(pixels[:, :5], encoding))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_give_back_a_plain_colour(pattern: str) -> None:
    colour = {"r": 200, "g": 90, "b": 30}
    cell = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    rgb = conversions.rgb_from_image(image(np.tile(cell, (6, 6)), f"bayer_{pattern}8"))
    np.testing.assert_array_equal(rgb[4, 4], (200, 90, 30))


@pytest.mark.parametrize("big_endian", [False, True])
def test_depth_is_decided_by_the_encoding(big_endian: bool) -> None:
    metres = np.array([[0.5, 1.25], [0.0, 3.0]], np.float32)
    millimetres = (metres * 1000).astype(np.uint16)
    for pixels, encoding in ((metres, "32FC1"), (millimetres, "16UC1")):
        depth = conversions.depth_from_image(image(pixels, encoding, big_endian=big_endian))
        assert depth.dtype == np.float32
        np.testing.assert_allclose(depth[[0, 0, 1], [0, 1, 1]], [0.5, 1.25, 3.0], rtol=1e-6)
        assert np.isnan(depth[1, 0])
        with pytest.raises(InputError, match="distances, not colours"):
            conversions.rgb_from_image(image(pixels, encoding))
    tenths = conversions.depth_from_image(image(millimetres, "mono16"), 0.0001)
    np.testing.assert_allclose(tenths[0], [0.05, 0.125], rtol=1e-6)
    full = np.full((2, 2), 65535, np.uint16)  # cameras that saturate
    assert np.isnan(conversions.depth_from_image(image(full, "16UC1"), 0.0001)).all()
    with pytest.raises(InputError, match="depth encoding 'rgb8'"):
        conversions.depth_from_image(image(COLOUR, "rgb8"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoding": "yuv999"}, r"encoding 'yuv999' is not supported; expected one of rgb8"),
        ({"data": b"\0" * 100}, r"image 8x6 rgb8: data has 100 bytes; expected 144"),
        ({"step": 23}, r"image 8x6 rgb8: step is 23 bytes; expected at least 24"),
        ({"width": 0}, r"image 0x6 rgb8: empty"),
        ({"height": 10_000_000}, r"data has 144 bytes; expected 240000000"),
    ],
)
def test_what_cannot_be_an_image_is_refused_by_name(changes: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        conversions.rgb_from_image(image(COLOUR, "rgb8", **changes))


def test_compressed_png_is_exact_and_jpeg_is_close() -> None:
    smooth = cv2.resize(COLOUR, (64, 48), interpolation=cv2.INTER_CUBIC)
    bgr = smooth[..., ::-1]
    png = cv2.imencode(".png", bgr)[1].tobytes()
    np.testing.assert_array_equal(conversions.rgb_from_compressed(compressed(png, "png")), smooth)
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    rgb = conversions.rgb_from_compressed(compressed(jpeg, "rgb8; jpeg compressed bgr8"))
    assert np.abs(rgb.astype(int) - smooth).mean() < 6


@pytest.mark.parametrize("kind", [".png", ".jpg"])
@pytest.mark.parametrize("part", [0.3, 0.95])
def test_a_cut_off_compressed_image_is_refused(kind: str, part: float) -> None:
    data = cv2.imencode(kind, RNG.integers(0, 256, (40, 50, 3), np.uint8))[1].tobytes()
    with pytest.raises(InputError, match="is cut short"):
        conversions.rgb_from_compressed(compressed(data[: int(len(data) * part)]))


def test_compressed_data_of_another_kind_is_refused() -> None:
    for data in (b"", b"hello", b"GIF89a"):
        with pytest.raises(InputError, match="expected JPEG, PNG"):
            conversions.rgb_from_compressed(compressed(data))
    with pytest.raises(InputError, match="distances"):
        conversions.rgb_from_compressed(compressed(b"\x89PNG", "16UC1; compressedDepth png"))
    inside = b"\xff\xd8\xff" + b"\0" * 40 + b"\xff\xd9"  # right ends, nothing in between
    with pytest.raises(InputError, match="is cut short"):
        conversions.rgb_from_compressed(compressed(inside))


@pytest.mark.parametrize("encoding", ["rgb8", "mono8", "32FC1", "16UC1"])
def test_filled_images_read_back_equal(encoding: str) -> None:
    dtype = {"32FC1": np.float32, "16UC1": np.uint16}.get(encoding, np.uint8)
    pixels = COLOUR if encoding == "rgb8" else COLOUR[..., 0].astype(dtype)
    header = object()
    message = conversions.fill_image(SimpleNamespace(), pixels, encoding, header)
    assert message.header is header
    assert (
        message.data.typecode == "B"
    )  # what the generated setters take without a look at each element
    np.testing.assert_array_equal(conversions.array_from_image(message), pixels)


def test_stamps_go_through_the_models_seconds_without_loss() -> None:
    clock = conversions.StampClock()
    first = SimpleNamespace(sec=1_790_000_000, nanosec=123_456_789)
    assert clock.seconds(first) == 0.0
    for days, nano in ((0, 123_456_790), (1, 1), (40, 999_999_999), (-20, 7)):
        stamp = SimpleNamespace(sec=first.sec + days * 86_400, nanosec=nano)
        back = conversions.fill_time(SimpleNamespace(), clock.nanoseconds(clock.seconds(stamp)))
        assert (back.sec, back.nanosec) == (stamp.sec, nano)


def test_a_track_fills_its_message() -> None:
    clock = conversions.StampClock()
    clock.seconds(SimpleNamespace(sec=100, nanosec=5))
    mask = np.zeros((20, 30), bool)
    mask[4:8, 10:20] = True
    track = Track(
        id="mug-1",
        expression="the mug",
        state=TrackState.TRACKING,
        mask_value=3,
        mask=mask,
        box=(10, 4, 20, 8),
        area=40,
        score=0.5,
        last_seen=1.5,
    )
    times = {
        name: SimpleNamespace(sec=0, nanosec=0)
        for name in ("first_seen", "last_seen", "last_keyframe")
    }
    message = conversions_tracks.fill_track(
        SimpleNamespace(roi=SimpleNamespace(), **times), track, clock
    )
    roi = message.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (10, 4, 10, 4)
    assert (message.centroid_x, message.centroid_y) == (14.5, 5.5)
    assert (message.mask_value, message.state, message.area) == (3, 1, 40)
    assert (message.last_seen.sec, message.last_seen.nanosec) == (101, 500_000_005)
    assert (message.first_seen.sec, message.first_seen.nanosec) == (0, 0)


def prompt(**fields: object) -> SimpleNamespace:
    defaults = {
        "POINTS": 0,
        "BOX": 1,
        "MASK": 2,
        "OBJECT": 3,
        "type": 0,
        "track_id": "",
        "label": "it",
    }
    nothing = SimpleNamespace(width=0, height=0)
    given = {"x": [], "y": [], "point_labels": [], "image": nothing, "object": ""} | fields
    return SimpleNamespace(**(defaults | given))


def test_prompts_become_arguments() -> None:
    given = conversions_tracks.prompt_arguments(prompt(x=[3.5, 4.0], y=[1.0, 2.0]))
    np.testing.assert_array_equal(given["points"], [[3.5, 1.0], [4.0, 2.0]])
    assert given["labels"].tolist() == [1, 1]
    assert given["track_id"] is None
    box = SimpleNamespace(x_offset=5, y_offset=6, width=7, height=8)
    assert conversions_tracks.prompt_arguments(prompt(type=1, box=box, track_id="a"))["box"] == (
        5,
        6,
        12,
        14,
    )
    photo = conversions_tracks.prompt_arguments(
        prompt(type=1, box=box, image=image(COLOUR[..., ::-1], "bgr8"))
    )
    np.testing.assert_array_equal(photo["image"], COLOUR)
    assert conversions_tracks.prompt_arguments(prompt(type=3, object="red mug")) == {
        "label": "it",
        "track_id": None,
        "object": "red mug",
    }
    mask = image((COLOUR[..., 0] > 99).astype(np.uint8) * 255, "mono8")
    np.testing.assert_array_equal(
        conversions_tracks.prompt_arguments(prompt(type=2, mask=mask))["mask"], COLOUR[..., 0] > 99
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "at least one"),
        ({"x": [1.0], "y": []}, "1 x, 0 y"),
        ({"x": [1.0], "y": [1.0], "point_labels": [2]}, "point label 2"),
        ({"x": [1.0], "y": [float("nan")]}, "not a number"),
        ({"x": [3.0] * 100_000, "y": [3.0] * 100_000}, "100000 points; expected at most 64"),
        ({"x": [0.3], "y": [0.5]}, "looks like fractions"),
        (
            {"type": 2, "mask": image(np.full((4, 4), np.nan, np.float32), "32FC1")},
            "expected mono8",
        ),
        ({"type": 2, "mask": image(COLOUR, "rgb8")}, "expected mono8"),
        ({"type": 1, "box": SimpleNamespace(x_offset=0, y_offset=0, width=0, height=3)}, "0x3"),
        ({"type": 2, "mask": image(np.zeros((4, 4), np.uint8), "mono8")}, "no pixel"),
        ({"type": 9}, "prompt type 9"),
        ({"type": 3, "object": " "}, "object is empty"),
        ({"x": [1.0], "y": [1.0], "image": image(COLOUR, "wrong")}, "wrong"),
    ],
)
def test_prompts_that_show_nothing_are_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        conversions_tracks.prompt_arguments(prompt(**fields))


def test_the_overlay_is_bgr_for_viewers() -> None:
    assert conversions.overlay_bgr(np.full((2, 2, 3), (200, 90, 30), np.uint8))[0, 0].tolist() == [
        30,
        90,
        200,
    ]
