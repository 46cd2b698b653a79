# SPDX-License-Identifier: Apache-2.0
"""A colour image keeps its depth and its calibration, however long the step takes. No ROS."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_ros.messages import images
from sa2va_ros.space import depth as module
from sa2va_ros.space.depth import DepthBuffer

SIZE = (48, 64)
START = 10**18


def header(after: float) -> Any:
    sec, nanosec = divmod(START + round(after * 1e9), 10**9)
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id="cam")


def depth_image(after: float, metres: float = 1.0) -> Any:
    pixels = np.full(SIZE, round(metres * 1000), np.uint16)
    return SimpleNamespace(
        header=header(after),
        height=SIZE[0],
        width=SIZE[1],
        encoding="16UC1",
        is_bigendian=0,
        step=2 * SIZE[1],
        data=pixels.tobytes(),
    )


def info(after: float, focal: float = 50.0) -> Any:
    k = [focal, 0.0, 32.0, 0.0, focal, 24.0, 0.0, 0.0, 1.0]
    p = [focal, 0.0, 32.0, 0.0, 0.0, focal, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return SimpleNamespace(
        header=header(after),
        height=SIZE[0],
        width=SIZE[1],
        distortion_model="plumb_bob",
        k=k,
        d=[],
        p=p,
    )


@pytest.fixture
def buffer() -> DepthBuffer:
    made = DepthBuffer()
    made.add_info(info(0.0))
    return made


@pytest.mark.parametrize("rate", [10, 15, 30, 60])
@pytest.mark.parametrize("step", [0.1, 0.3, 1.0, 3.0])
def test_an_image_in_work_keeps_its_depth_at_every_rate(
    buffer: DepthBuffer, rate: int, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    buffer.add_depth(depth_image(0.0, 1.5))
    pinned = buffer.pin(header(0.0))
    for k in range(1, int(step * rate) + 1):
        now[0] = k / rate
        buffer.add_depth(depth_image(k / rate))
        buffer.pin(header(k / rate))  # an image that was dropped: nobody keeps it
    assert np.allclose(pinned.frame(SIZE).metres, 1.5)


def test_a_late_depth_image_joins_its_frame(buffer: DepthBuffer) -> None:
    pinned = buffer.pin(header(0.1))
    with pytest.raises(InputError, match="no depth image"):
        pinned.frame(SIZE)
    buffer.add_depth(depth_image(0.0))
    threading.Timer(0.05, buffer.add_depth, [depth_image(0.1, 2.0)]).start()
    assert np.allclose(pinned.frame(SIZE, wait=5.0).metres, 2.0)
    late = buffer.pin(header(0.2))
    buffer.add_depth(depth_image(0.28))  # depth has passed it: nobody waits
    with pytest.raises(InputError, match=r"the nearest is \+0.080 s away"):
        late.frame(SIZE, wait=5.0)
    buffer.add_depth(depth_image(0.2, 3.0))
    assert np.allclose(late.frame(SIZE).metres, 3.0)


def test_the_nearest_stamp_within_slop_is_taken(buffer: DepthBuffer) -> None:
    buffer.add_depth(depth_image(0.096, 1.0))
    pinned = buffer.pin(header(0.1), slop=0.005)
    buffer.add_depth(depth_image(0.101, 2.0))
    buffer.add_depth(depth_image(0.104, 3.0))
    assert np.allclose(pinned.frame(SIZE).metres, 2.0)


def test_the_calibration_is_that_of_the_moment(buffer: DepthBuffer) -> None:
    buffer.add_depth(depth_image(0.1))
    buffer.add_depth(depth_image(0.5))
    before, after = buffer.pin(header(0.1)), buffer.pin(header(0.5))
    buffer.add_info(info(0.4, focal=80.0))  # zoomed
    buffer.add_info(info(0.5, focal=80.0))
    assert before.frame(SIZE).camera.matrix[0, 0] == 50.0
    assert after.frame(SIZE).camera.matrix[0, 0] == 80.0


def test_a_camera_info_that_comes_late_holds_for_images_before_it() -> None:
    buffer = DepthBuffer()
    buffer.add_depth(depth_image(0.1))
    pinned = buffer.pin(header(0.1))
    with pytest.raises(InputError, match="no camera_info yet"):
        pinned.frame(SIZE)
    buffer.add_info(info(0.7))
    assert pinned.frame(SIZE).camera.matrix[0, 0] == 50.0


def test_an_image_is_decoded_once(buffer: DepthBuffer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(message: Any, scale: float) -> np.ndarray:
        calls.append(1)
        return images.depth_from_message(message, scale)

    monkeypatch.setattr(module, "depth_from_message", counted)
    buffer.add_depth(depth_image(0.1))
    pinned = buffer.pin(header(0.1))
    frames = [pinned.frame(SIZE, rectified=rectified) for rectified in (False, True, False)]
    assert len(calls) == 1
    assert frames[0].metres is frames[2].metres


def test_bytes_and_seconds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    one = len(depth_image(0.0).data)
    buffer = DepthBuffer(limit=10 * one)
    buffer.add_info(info(0.0))
    pins = []
    for k in range(40):
        now[0] = k / 30
        buffer.add_depth(depth_image(k / 30))
        pins.append(buffer.pin(header(k / 30)))
        assert buffer.kept_bytes <= 10 * one
    assert all(pinned.frame(SIZE) for pinned in pins[-9:])
    with pytest.raises(InputError, match="let go"):
        pins[0].frame(SIZE)
    now[0] += module.PINNED_SECONDS + 1
    buffer.add_depth(depth_image(9.0))
    buffer.pin(header(9.0))
    kept = [pinned for pinned in pins if pinned.message is not None]
    assert kept == pins[-module.NEWEST + 1 :]
    del pins, kept
    gc.collect()
    buffer.add_depth(depth_image(9.1))
    assert buffer.kept_bytes <= 2 * one  # nobody keeps the images


def test_a_stream_that_begins_again_takes_no_depth_of_the_one_before(buffer: DepthBuffer) -> None:
    for k in range(5):
        buffer.add_depth(depth_image(1.0 + k / 10, 1.0))
    buffer.add_depth(depth_image(0.0, 2.0))
    buffer.add_info(info(0.0, focal=80.0))
    with pytest.raises(InputError, match="no depth image of the image's stamp"):
        buffer.pin(header(1.2)).frame(SIZE)
    frame = buffer.pin(header(0.0)).frame(SIZE)
    assert np.allclose(frame.metres, 2.0)
    assert frame.camera.matrix[0, 0] == 80.0
