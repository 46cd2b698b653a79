# SPDX-License-Identifier: Apache-2.0
"""Which images are used and when a stream has started anew, without ROS."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sa2va_model.errors import InputError
from sa2va_model.io.stamp_order import PATIENCE
from sa2va_ros.node.stream import ImageStream

START = 1_790_000_000_000_000_003  # nanoseconds


def image(seconds: float, size: tuple[int, int] = (4, 6), **changes: object) -> SimpleNamespace:
    """A grey picture of height and width `size`, taken `seconds` after START."""
    sec, nanosec = divmod(START + round(seconds * 1e9), 1_000_000_000)
    stamp = SimpleNamespace(sec=sec, nanosec=nanosec)
    fields = {
        "header": SimpleNamespace(stamp=stamp, frame_id="camera"),
        "height": size[0],
        "width": size[1],
        "encoding": "mono8",
        "is_bigendian": 0,
        "step": size[1],
        "data": bytes(size[0] * size[1]),
    }
    return SimpleNamespace(**(fields | changes))


def test_frames_count_up_and_keep_the_header_itself() -> None:
    stream = ImageStream()
    for i in range(3):
        message = image(i / 10)
        admitted = stream.admit(message)
        assert admitted.header is message.header
        assert (admitted.frame.index, admitted.frame.stamp) == (i, i / 10)
        assert stream.clock.nanoseconds(admitted.frame.stamp) == START + i * 100_000_000
        assert admitted.reset == ""


def test_a_refused_image_leaves_no_trace() -> None:
    stream = ImageStream()
    stream.admit(image(0.0))
    for bad in (
        image(9.0, encoding="what"),
        image(9.0, data=b""),
        image(9.0, size=(5, 5)),
        image(9.0, header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))),
    ):
        with pytest.raises(InputError):
            stream.admit(bad)
    good = stream.admit(image(0.1))  # older than the bad ones claimed to be
    assert (good.frame.index, good.reset) == (1, "")


def test_late_images_are_refused_and_a_clock_set_back_starts_anew() -> None:
    stream = ImageStream()
    stream.admit(image(10.0))
    with pytest.raises(InputError, match=r"0\.200 s before the last one"):
        stream.admit(image(9.8))
    with pytest.raises(InputError, match=r"0\.000 s before"):
        stream.admit(image(10.0))
    for k in range(PATIENCE - 1):
        with pytest.raises(InputError, match="before the last one"):
            stream.admit(image(2.0 + k / 10))
    admitted = stream.admit(image(2.5))
    assert admitted.reset == "time jumped back by 7.500 s"
    assert stream.clock.nanoseconds(admitted.frame.stamp) == START + 2_500_000_000
    assert stream.admit(image(2.6)).reset == ""


@pytest.mark.parametrize("wrong", [-9.0, -1e6, 60.0, 1e6])
def test_one_wrong_stamp_forgets_nothing(wrong: float) -> None:
    stream = ImageStream()
    for k in range(3 * PATIENCE):
        assert stream.admit(image(10.0 + k / 10)).reset == ""
        if k % 2:  # now and then, however often
            with pytest.raises(InputError, match="expected one that follows it"):
                stream.admit(image(10.0 + k / 10 + wrong))
    for k in range(2 * PATIENCE):  # nor do stamps that do not follow each other
        with pytest.raises(InputError):
            stream.admit(image(10.0 + wrong * (1 if k % 2 else 2)))
    assert stream.admit(image(12.0)).reset == ""


def test_a_pause_or_a_jump_ahead_is_followed_without_forgetting() -> None:
    stream = ImageStream()
    stream.admit(image(0.0))
    assert stream.admit(image(9.0)).reset == ""
    for k in range(PATIENCE - 1):
        with pytest.raises(InputError, match="after the last one"):
            stream.admit(image(500.0 + k))
    assert stream.admit(image(505.0)).reset == ""
    assert stream.admit(image(505.1)).reset == ""


def test_one_image_of_another_size_is_refused_a_changed_camera_is_followed() -> None:
    stream = ImageStream()
    stream.admit(image(0.0))
    with pytest.raises(InputError, match="size changed from 6x4 to 5x8; expected the size of"):
        stream.admit(image(0.1, size=(8, 5)))
    assert stream.admit(image(0.2)).reset == ""
    for i in range(PATIENCE - 1):
        with pytest.raises(InputError):
            stream.admit(image(1.0 + i, size=(8, 5)))
    changed = stream.admit(image(9.0, size=(8, 5)))
    assert changed.reset == "images changed size from 6x4 to 5x8"
    assert changed.frame.rgb.shape == (8, 5, 3)
    assert stream.admit(image(9.1, size=(8, 5))).reset == ""


def test_old_images_are_refused_only_if_asked() -> None:
    stream = ImageStream()
    now = START + 3_000_000_000
    stream.admit(image(0.0), now=now)
    with pytest.raises(InputError, match=r"image is 2.90 s old; max_age is 1 s"):
        stream.admit(image(0.1), now=now, max_age=1.0)
    stream.admit(image(2.5), now=now, max_age=1.0)
