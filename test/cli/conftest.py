# SPDX-License-Identifier: Apache-2.0
"""Real inputs, made by the tests: videos by PyAV, image folders, bags of both storages by rosbags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from sa2va_ros.bags.bag import COMPRESSED, IMAGE, fresh, typestore
from sa2va_ros.messages.images import fill_image

START_NS = 1_700_000_000_123_456_789
STEP_NS = 33_333_333


def picture(index: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A red ball that moves to the right over a textured background: rgb uint8 [H, W, 3]."""
    ramp = np.linspace(60, 180, width, dtype=np.float32)
    rgb = np.repeat(np.tile(ramp, (height, 1))[:, :, None], 3, 2).astype(np.uint8)
    cv2.circle(rgb, (20 + 3 * index, height // 2), 12, (210, 40, 40), cv2.FILLED, cv2.LINE_AA)
    return rgb


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    rotation: int = 0,
    container_options: dict[str, str] | None = None,
) -> Path:
    """An H.264 video of 30 frames a second; its index stands at the start, so that a part of it can be opened."""
    options = container_options or ({"movflags": "faststart"} if path.suffix == ".mp4" else {})
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "18"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for rgb in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_bag(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    storage: str = "sqlite3",
    topic: str = "/camera/image_raw",
    encoding: str = "rgb8",
    change: Callable[[int, object], None] | None = None,
    extra: Sequence[tuple[str, str]] = (),
) -> Path:
    """A rosbag2 with one image topic.

    Args:
        encoding: of the messages; "jpeg" or "png" give CompressedImage.
        change: called with (index, message) before a message is written.
        extra: (topic, type) of further topics, with one empty message each.
    """
    store = typestore()
    kind = COMPRESSED if encoding in ("jpeg", "png") else IMAGE
    with Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        link = writer.add_connection(topic, kind, typestore=store)
        for index, rgb in enumerate(frames):
            message = _message(store, kind, rgb, encoding)
            stamp = START_NS + index * STEP_NS
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            message.header.frame_id = "camera_optical_frame"
            if change is not None:
                change(index, message)
            writer.write(link, stamp + 5_000_000, store.serialize_cdr(message, kind))
        for name, other in extra:
            link = writer.add_connection(name, other, typestore=store)
            writer.write(link, START_NS, store.serialize_cdr(fresh(store, other), other))
    return path


def _message(store, kind: str, rgb: np.ndarray, encoding: str):
    message = fresh(store, kind)
    if kind == COMPRESSED:
        ok, data = cv2.imencode(f".{encoding[:4].replace('jpeg', 'jpg')}", rgb[:, :, ::-1])
        assert ok
        message.format, message.data = encoding, data.ravel()
        return message
    pixels = {
        "rgb8": rgb,
        "bgr8": rgb[:, :, ::-1],
        "mono8": cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY),
        "rgba8": cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA),
    }[encoding]
    fill_image(message, np.ascontiguousarray(pixels), encoding, message.header)
    message.data = np.frombuffer(message.data, np.uint8)
    return message


class Make:
    """The makers above, for tests (test modules do not import each other)."""

    picture = staticmethod(picture)
    video = staticmethod(write_video)
    bag = staticmethod(write_bag)


@pytest.fixture
def make() -> Make:
    return Make()


@pytest.fixture
def frames() -> list[np.ndarray]:
    return [picture(index) for index in range(12)]


@pytest.fixture
def video(tmp_path: Path, frames: list[np.ndarray]) -> Path:
    return write_video(tmp_path / "clip.mp4", frames)


@pytest.fixture
def folder(tmp_path: Path, frames: list[np.ndarray]) -> Path:
    place = tmp_path / "images"
    place.mkdir()
    for index, rgb in enumerate(frames):
        cv2.imwrite(str(place / f"frame_{index}.png"), rgb[:, :, ::-1])
    return place


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a nano model that finds whatever it is asked for."""
    return _saved(tmp_path_factory.mktemp("nano"), answers=True)


@pytest.fixture(scope="session")
def blind_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a nano model that never finds anything."""
    return _saved(tmp_path_factory.mktemp("blind"), answers=False)


def _saved(folder: Path, *, answers: bool) -> Path:
    from sa2va_model.checkpoints.load import save_model
    from sa2va_model.testing import nano_model

    save_model(nano_model(0, answers=answers), folder)
    return folder
