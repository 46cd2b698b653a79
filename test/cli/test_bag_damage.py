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


def packets_of(pictures: list[np.ndarray], group: int = 8) -> list[bytes]:
    """H.264 with a keyframe every `group` pictures."""
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = 128, 96, "yuv420p"  # type: ignore[attr-defined]
    codec.gop_size = group  # type: ignore[attr-defined]
    codec.options = {"bf": "0", "tune": "zerolatency", "crf": "10", "sc_threshold": "0"}
    codec.time_base = 1  # type: ignore[assignment]
    shown = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
    return [bytes(packet) for frame in shown for packet in codec.encode(frame)]  # type: ignore[attr-defined]


def video_bag(folder: Path, kind: str, told: str, packets: list[bytes]) -> BagImages:
    """A recording at 25 Hz."""
    store = typestore()
    for name, definition in VIDEO_TYPES.items():
        store.register(get_types_from_msg(definition, name))
    with Writer(folder, version=8) as writer:
        link = writer.add_connection("/v", kind, typestore=store)
        for number, packet in enumerate(packets):
            message = fresh(store, kind)
            due = 10**18 + number * 40_000_000
            stamp = message.timestamp if hasattr(message, "timestamp") else message.header.stamp
            stamp.sec, stamp.nanosec = divmod(due, 10**9)
            setattr(message, "format" if hasattr(message, "format") else "encoding", told)
            message.data = np.frombuffer(packet, np.uint8)
            writer.write(link, due, store.serialize_cdr(message, kind))
    return BagImages(folder)


def with_lengths(packet: bytes) -> bytes:
    """Start codes replaced by lengths, as in MP4."""
    units = [unit for unit in packet.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


FOXGLOVE, FFMPEG = VIDEO_TYPES


@pytest.mark.parametrize(
    ("kind", "told", "form"),
    [
        (FOXGLOVE, "h264", bytes),
        (FFMPEG, "libx264;yuv420p;bgr8", bytes),
        (FFMPEG, "avc1", with_lengths),
    ],
)
def test_video_topics_are_decoded_with_their_stamps(
    tmp_path: Path, frames: list[np.ndarray], kind: str, told: str, form: Any
) -> None:
    source = video_bag(tmp_path / "bag", kind, told, [form(p) for p in packets_of(frames)])
    got = list(source)
    assert source.fps == pytest.approx(25)
    assert source.skipped == 0
    assert [round(f.stamp, 6) for f in got] == [round(0.04 * n, 6) for n in range(len(frames))]
    for frame, picture in zip(got, frames, strict=True):
        assert np.abs(frame.rgb.astype(int) - picture).mean() < 4


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        ("begins in a group", [0, 1]),
        ("empty", [5]),
        ("zeros", [5, 6, 7]),
        ("cut", [5, 6, 7]),
    ],
)
def test_a_damaged_packet_costs_its_group_and_is_counted(
    tmp_path: Path, frames: list[np.ndarray], fault: str, lost: list[int]
) -> None:
    pictures = (frames * 4)[:16]
    packets = packets_of(pictures)
    if fault == "begins in a group":
        packets, pictures = packets[6:], pictures[6:]
    else:
        changed = {"empty": b"", "zeros": bytes(9), "cut": packets[5][: len(packets[5]) // 2]}
        packets[5] = changed[fault]
    source = video_bag(tmp_path / "bag", FOXGLOVE, "h264", packets)
    got = list(source)
    left = [n for n in range(len(pictures)) if n not in lost]
    assert [round(f.recorded - 10**18) // 40_000_000 for f in got] == left
    assert source.skipped == len(lost)
    assert "video packet" in source.first_skipped


def test_parameter_sets_may_come_in_a_packet_of_their_own(
    tmp_path: Path, frames: list[np.ndarray]
) -> None:
    first, *others = packets_of(frames)
    at = first.rindex(b"\0\0\1\x65")  # the picture; before it are its parameter sets
    source = video_bag(tmp_path / "bag", FFMPEG, "h264", [first[:at], first[at:], *others])
    assert len(list(source)) == len(frames)
    assert source.skipped == 0


def test_packets_of_which_no_picture_comes_are_counted(tmp_path: Path) -> None:
    source = video_bag(tmp_path / "bag", FOXGLOVE, "h264", packets_of(NOISE[:3])[1:])
    with pytest.raises(InputError, match="before the first keyframe with its parameter sets"):
        list(source)
    assert source.skipped == 2
