# SPDX-License-Identifier: Apache-2.0
"""References to pictures: frames of videos by number, sizes without decoding, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sa2va_cli.output import VideoWriter
from sa2va_model.errors import InputError
from sa2va_model.io.frames import VideoFile
from sa2va_training.data.pictures import ImageFile, VideoFrame, read_pictures


def long_video(path: Path, stamps: list[float]) -> list[np.ndarray]:
    """Every frame has its number as a pattern of bars."""
    writer = VideoWriter(path, 25.0)
    for number, stamp in enumerate(stamps):
        rgb = np.full((32, 64, 3), 40, np.uint8)
        for bit in range(8):
            if number >> bit & 1:
                rgb[:, 8 * bit : 8 * bit + 8] = 220
        writer.add(rgb, stamp)
    writer.close()
    return [frame.rgb for frame in VideoFile(path)]


@pytest.mark.parametrize("steady", [True, False])
def test_frames_by_number_are_those_of_reading_it_all(steady: bool, tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    rng = np.random.default_rng(0)
    gaps = np.full(200, 1 / 25) if steady else rng.uniform(0.02, 0.3, 200)
    frames = long_video(path, np.cumsum(gaps).tolist())
    numbers = [199, 0, 100, 101, 37, 150]
    found = VideoFile(path).pick(numbers)
    assert sorted(found) == sorted(numbers)
    assert all((found[n] == frames[n]).all() for n in numbers)
    pictures = read_pictures([VideoFrame(path, n) for n in (150, 3)])
    assert (pictures[0] == frames[150]).all()
    assert (pictures[1] == frames[3]).all()
    assert VideoFrame(path, 3).size() == (32, 64)


def test_a_frame_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    long_video(path, [t / 25 for t in range(5)])
    for number in (5, 500):
        with pytest.raises(InputError, match=f"short.mp4: has no frame {number}"):
            VideoFile(path).pick([0, number])


def test_a_lying_photo_has_the_size_it_is_decoded_with(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path, exif=exif)
    picture = ImageFile(path)
    assert picture.size() == picture.read().shape[:2] == (30, 20)


def test_pictures_of_one_sample_have_one_size(tmp_path: Path) -> None:
    for name, side in (("a.png", 8), ("b.png", 9)):
        cv2.imwrite(str(tmp_path / name), np.zeros((side, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"b\.png is 8x9, expected 8x8"):
        read_pictures([ImageFile(tmp_path / "a.png"), ImageFile(tmp_path / "b.png")])
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(InputError, match=r"c\.png: is no picture"):
        ImageFile(tmp_path / "c.png").size()
