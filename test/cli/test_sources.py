# SPDX-License-Identifier: Apache-2.0
"""Videos, folders and images as frame sources, whole and broken."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.io.frames import (
    Frame,
    FrameSource,
    ImageFolder,
    VideoFile,
    looks_like_bag,
    natural_key,
    open_source,
)


def read_until_error(source: FrameSource) -> tuple[list[Frame], str]:
    frames = iter(source)
    got: list[Frame] = []
    try:
        for frame in frames:
            got.append(frame)
    except InputError as error:
        message = str(error)
    else:
        pytest.fail(f"{source.name}: read to its end without an error")
    assert "\n" not in message
    return got, message


def noise(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(count)]


def test_video_gives_pictures_stamps_and_count(video: Path, frames: list[np.ndarray]) -> None:
    source = VideoFile(video)
    assert isinstance(source, FrameSource)
    assert (source.fps, source.frame_count) == (30.0, 12)
    got = list(source)
    assert [frame.index for frame in got] == list(range(12))
    assert [frame.stamp for frame in got] == pytest.approx([i / 30 for i in range(12)], abs=1e-4)
    for frame, rgb in zip(got, frames, strict=True):
        assert frame.rgb.dtype == np.uint8
        assert np.abs(frame.rgb.astype(int) - rgb).mean() < 4
    assert len(list(source)) == 12  # a second pass starts again


def test_portrait_video_stands_upright(make, tmp_path: Path, frames: list[np.ndarray]) -> None:
    path = make.video(tmp_path / "phone.mp4", frames[:3], rotation=90)
    first = next(iter(VideoFile(path)))
    assert first.rgb.shape == (128, 96, 3)
    assert np.abs(first.rgb.astype(int) - np.rot90(frames[0])).mean() < 4


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_truncated_video_yields_what_it_has_then_says_so(make, tmp_path: Path, suffix: str) -> None:
    path = make.video(tmp_path / f"whole{suffix}", noise(30))
    data = path.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: len(data) * 6 // 10])
    got, message = read_until_error(VideoFile(cut))
    assert 10 < len(got) < 25
    assert [frame.index for frame in got] == list(range(len(got)))
    assert str(cut) in message
    assert "cut short" in message
    assert f"{len(got)} frames were read" in message


def test_damaged_video_yields_what_comes_before(make, tmp_path: Path) -> None:
    path = make.video(tmp_path / "damaged.mp4", noise(30))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40000] = bytes(40000)
    path.write_bytes(data)
    source = VideoFile(path)
    got, message = read_until_error(source)
    assert len(got) >= 5
    assert "damaged" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "not readable as a video"), (b"no video at all" * 99, "not readable as a video")],
)
def test_no_video(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        open_source(path)
    assert str(path) in str(caught.value)


def test_audio_only_is_no_video(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="audio streams only, expected a video stream"):
        open_source(path)


def test_folder_is_read_in_natural_order(folder: Path, frames: list[np.ndarray]) -> None:
    source = ImageFolder(folder, fps=10.0)
    assert source.frame_count == 12
    got = list(source)
    assert all((a.rgb == b).all() for a, b in zip(got, frames, strict=True))
    assert [frame.stamp for frame in got] == pytest.approx([i / 10 for i in range(12)])
    names = ["b10", "b9", "a2", "B1", "3", "10"]
    assert sorted(names, key=natural_key) == ["3", "10", "a2", "B1", "b9", "b10"]


def test_folder_names_the_unreadable_file(folder: Path) -> None:
    data = (folder / "frame_4.png").read_bytes()
    (folder / "frame_4.png").write_bytes(data[: len(data) // 2])
    got, message = read_until_error(ImageFolder(folder))
    assert len(got) == 4
    assert str(folder / "frame_4.png") in message
    assert "cut short" in message
    (folder / "frame_4.png").write_bytes(b"")
    assert "is empty" in read_until_error(ImageFolder(folder))[1]
    (folder / "frame_4.png").write_text("hello")
    assert "begins like no picture" in read_until_error(ImageFolder(folder))[1]


def test_truncated_jpeg_is_not_a_grey_picture(make, tmp_path: Path) -> None:
    path = tmp_path / "one.jpg"
    cv2.imwrite(str(path), make.picture(0))
    path.write_bytes(path.read_bytes()[:-300])
    assert "no end-of-image marker" in read_until_error(open_source(path))[1]


def test_frames_that_change_size(make, folder: Path) -> None:
    cv2.imwrite(str(folder / "frame_7.png"), make.picture(0, 60, 80))
    got, message = read_until_error(ImageFolder(folder))
    assert len(got) == 7
    assert message == (f"{folder / 'frame_7.png'} is 80x60, expected 128x96 like the first frame")


def test_what_open_source_does_not_take(tmp_path: Path, folder: Path, video: Path) -> None:
    assert isinstance(open_source(folder), ImageFolder)
    assert isinstance(open_source(video), VideoFile)
    assert len(list(open_source(folder / "frame_3.png"))) == 1
    with pytest.raises(InputError, match="no such file or folder, expected a video file"):
        open_source(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"the folder is empty, expected pictures"):
        open_source(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds notes\.txt, expected"):
        open_source(tmp_path / "empty")
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(InputError, match="ROS 1 bag"):
        open_source(tmp_path / "old.bag")
    (tmp_path / "some.mcap").write_bytes(b"")
    assert looks_like_bag(tmp_path / "some.mcap")
    with pytest.raises(InputError, match="is a rosbag2"):
        open_source(tmp_path / "some.mcap")


def test_one_frame_in_memory_at_a_time(make, tmp_path: Path) -> None:
    path = make.video(tmp_path / "long.mp4", [make.picture(i % 30, 240, 320) for i in range(120)])
    tracemalloc.start()
    for _ in VideoFile(path):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 240 * 320 * 3  # far below the 120 frames of the video
