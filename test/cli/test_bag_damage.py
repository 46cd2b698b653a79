# SPDX-License-Identifier: Apache-2.0
"""Recordings as power cuts leave them, rates that clocks spoil, topics of video packets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg

from sa2va_model.errors import InputError
from sa2va_ros.bags.bag import BagImages, fresh, typestore
from sa2va_ros.bags.cut_files import messages_until_cut
from sa2va_ros.bags.video_topics import VIDEO_TYPES

RNG = np.random.default_rng(0)
NOISE = [RNG.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(20)]


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def read(path: Path) -> tuple[list[Any], str]:
    """The frames, and the error after them."""
    got: list[Any] = []
    try:
        got.extend(BagImages(path))
    except InputError as error:
        return got, str(error)
    return got, ""


@pytest.mark.parametrize(
    ("storage", "compression"),
    [("MCAP", "NONE"), ("MCAP", "STORAGE"), ("SQLITE3", "NONE"), ("SQLITE3", "MESSAGE")],
)
def test_a_recording_is_read_up_to_its_cut(
    make: Any, tmp_path: Path, storage: str, compression: str
) -> None:
    store = typestore()
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin[storage])
    writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    plain = make.bag(tmp_path / "plain", NOISE, storage="mcap")
    with writer:
        link = writer.add_connection("/c", "sensor_msgs/msg/Image", typestore=store)
        for message in messages_until_cut(plain / "plain.mcap"):
            writer.write(link, message.recorded, message.data)
    file = next(p for p in (tmp_path / "bag").iterdir() if p.suffix in (".db3", ".mcap"))
    (tmp_path / "bag" / "metadata.yaml").unlink()
    cut(file, 0.7)
    got, fault = read(tmp_path / "bag")
    assert 12 <= len(got) <= 14
    for frame, picture in zip(got, NOISE, strict=False):
        np.testing.assert_array_equal(frame.rgb, picture)
    assert f"{file}: cut off or damaged" in fault
    assert f"{len(got)} images were read, expected a whole rosbag2" in fault


def test_parts_are_read_in_the_order_of_their_numbers_and_a_broken_one_costs_only_itself(
    make: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(12):
        part = make.bag(tmp_path / f"p{number}", NOISE[number : number + 1], storage="mcap")
        shutil.copy(part / f"p{number}.mcap", folder / f"rec_{number}.mcap")
    got, fault = read(folder)
    assert not fault
    assert [int(f.rgb[0, 0, 0]) for f in got] == [int(picture[0, 0, 0]) for picture in NOISE[:12]]
    cut(folder / "rec_3.mcap", 0.1)  # nothing in it
    got, fault = read(folder)
    assert len(got) == 11
    assert "rec_3.mcap" in fault


@pytest.mark.parametrize("clock", ["equal receive times", "equal stamps", "one late image"])
def test_the_rate_comes_from_the_clock_that_runs(make: Any, tmp_path: Path, clock: str) -> None:
    store = typestore()
    with Writer(tmp_path / "bag", version=8) as writer:
        link = writer.add_connection("/c", "sensor_msgs/msg/Image", typestore=store)
        for number, message in enumerate(_messages(make, tmp_path)):
            step = number if clock != "one late image" or number != 5 else 3
            due = 10**18 + step * 40_000_000
            stamp = 10**18 if clock == "equal stamps" else due
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            received = 10**18 if clock == "equal receive times" else due
            writer.write(link, received, store.serialize_cdr(message, link.msgtype))
    source = BagImages(tmp_path / "bag")
    assert source.fps == pytest.approx(25)
    stamps = [frame.stamp for frame in source]
    if clock != "one late image":
        assert np.diff(stamps) == pytest.approx(0.04)


def _messages(make: Any, tmp_path: Path) -> list[Any]:
    store = typestore()
    plain = make.bag(tmp_path / "plain", NOISE[:10], storage="mcap")
    found = messages_until_cut(plain / "plain.mcap")
    return [store.deserialize_cdr(message.data, message.kind) for message in found]


@pytest.mark.parametrize("kind", VIDEO_TYPES)
def test_video_topics_are_decoded_with_their_stamps(
    tmp_path: Path, frames: list[np.ndarray], kind: str
) -> None:
    store = typestore()
    for name, definition in VIDEO_TYPES.items():
        store.register(get_types_from_msg(definition, name))
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = 128, 96, "yuv420p"  # type: ignore[attr-defined]
    codec.options = {"bf": "0", "tune": "zerolatency", "crf": "10"}
    codec.time_base = 1  # type: ignore[assignment]
    packets = []
    for picture in frames:
        packets += codec.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))  # type: ignore[attr-defined]
    with Writer(tmp_path / "bag", version=8) as writer:
        link = writer.add_connection("/v", kind, typestore=store)
        for number, packet in enumerate(packets[2:] if len(packets) > 20 else packets):
            message = fresh(store, kind)
            due = 10**18 + number * 40_000_000
            stamp = message.timestamp if hasattr(message, "timestamp") else message.header.stamp
            stamp.sec, stamp.nanosec = divmod(due, 10**9)
            name = "format" if hasattr(message, "format") else "encoding"
            setattr(message, name, "h264" if name == "format" else "libx264;yuv420p;bgr8")
            message.data = np.frombuffer(bytes(packet), np.uint8)
            writer.write(link, due, store.serialize_cdr(message, kind))
    source = BagImages(tmp_path / "bag")
    got = list(source)
    assert source.fps == pytest.approx(25)
    assert [round(f.stamp, 6) for f in got] == [round(0.04 * n, 6) for n in range(len(frames))]
    for frame, picture in zip(got, frames, strict=True):
        assert np.abs(frame.rgb.astype(int) - picture).mean() < 4
