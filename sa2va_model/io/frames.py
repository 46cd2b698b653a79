# SPDX-License-Identifier: Apache-2.0
"""Where frames come from: a video file, a folder of images or one image.

Every source has the small shape of `FrameSource` and streams: one frame is in memory at a time, and iterating again
starts again. Bags (`sa2va_ros.bags.bag.BagImages`) and the simulator's camera have the same shape. A source that breaks
half-way first yields every frame it still has and raises `InputError` after them, so that nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import av
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.pictures import IMAGE_SUFFIXES, READABLE, UNREAD_SUFFIXES, decode_image
from sa2va_model.io.video import (
    VideoDecoder,
    frames_near,
    open_video,
    reason,
    upright,
    video_stream,
)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".gif")
BAG_SUFFIXES = (".db3", ".mcap")


@dataclass(frozen=True)
class Frame:
    """One picture of a stream.

    Attributes:
        rgb: uint8 [H, W, 3].
        stamp: seconds, in the source's own clock.
        index: position in the source, from 0.
        companion: what else belongs to this picture (a depth message, say); never looked into here, kept as long as
            the frame is kept, and handed back with its result.
    """

    rgb: np.ndarray
    stamp: float
    index: int
    companion: object = field(default=None, compare=False, repr=False, kw_only=True)


@runtime_checkable
class FrameSource(Protocol):
    """Anything that yields frames in order.

    Attributes:
        name: what to call it in messages (a path or a topic).
        fps: frames per second as the source declares it, None if it does not.
        frame_count: number of frames as the source declares it, None if unknown.
    """

    name: str
    fps: float | None
    frame_count: int | None

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames from the first one on."""
        ...


def check_size(name: str, shape: tuple[int, ...], expected: tuple[int, int] | None) -> None:
    """Refuse a frame whose size differs from the first one's.

    Args:
        name: the frame, in words for the message.
        shape: its (H, W, ...).
        expected: (H, W) of the first frame, None if this is the first.

    Raises:
        InputError: the sizes differ.
    """
    if expected is not None and tuple(shape[:2]) != expected:
        raise InputError(
            f"{name} is {shape[1]}x{shape[0]}, expected {expected[1]}x{expected[0]} like the first frame"
        )


def read_image(path: Path | str) -> np.ndarray:
    """Read one image file: rgb uint8 [H, W, 3]; InputError naming the file if it is unreadable."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}, expected an image file") from error
    return decode_image(data, str(path))


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts frame_2 before frame_10."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)


class ImageFolder:
    """The pictures of one folder in natural order, `fps` of them in a second.

    A path to one image file is a stream of one frame.
    """

    def __init__(self, path: Path | str, fps: float = 30.0) -> None:
        """List the files; InputError if there are none."""
        folder = Path(path)
        if not fps > 0:
            raise InputError(f"{folder}: fps is {fps}, expected a number above 0")
        self.name = str(folder)
        self.fps: float | None = fps
        self._step = 1.0 / fps
        self._files = [folder] if folder.is_file() else _image_files(folder)
        self.frame_count: int | None = len(self._files)

    def __iter__(self) -> Iterator[Frame]:
        """Read the files one by one.

        Raises:
            InputError: a file is unreadable or differs in size from the first; it is named.
        """
        expected: tuple[int, int] | None = None
        for index, path in enumerate(self._files):
            rgb = read_image(path)
            check_size(str(path), rgb.shape, expected)
            expected = (rgb.shape[0], rgb.shape[1])
            yield Frame(rgb, index * self._step, index)


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one with pictures")
    entries = sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
    shown = [path for path in entries if not path.name.startswith(".")]
    unread = [path.name for path in shown if path.suffix.lower() in UNREAD_SUFFIXES]
    if unread:  # passing them over would drop frames
        raise InputError(
            f"{folder}: holds {unread[0]} ({len(unread)} of {len(shown)} files are of such kinds), expected {READABLE}"
        )
    files = [path for path in shown if path.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise InputError(f"{folder}: {_contents(entries)}, expected pictures ({READABLE})")
    return files


def _contents(entries: list[Path]) -> str:
    """What a folder holds instead, in a few words."""
    if not entries:
        return "the folder is empty"
    names = ", ".join(path.name for path in entries[:4])
    return f"holds {names}{', ...' if len(entries) > 4 else ''}"


class VideoFile:
    """A video file through PyAV; stamps are the presentation times in the file."""

    def __init__(self, path: Path | str) -> None:
        """Read the file's head; InputError if it is no video."""
        self.name = str(path)
        if not Path(path).exists():
            raise InputError(f"{path}: no such file, expected a video")
        with open_video(self.name) as container:
            stream = video_stream(container, self.name)
            rate = stream.average_rate or stream.guessed_rate
            self.fps: float | None = float(rate) if rate else None
            self.frame_count: int | None = stream.frames or None

    def __iter__(self) -> Iterator[Frame]:
        """Decode from the start.

        Raises:
            InputError: the file is empty, damaged or cut short; every readable frame was yielded before.
        """
        index, expected, fault = 0, None, ""
        with open_video(self.name) as container:
            stream = video_stream(container, self.name)
            stream.codec_context.thread_type = "AUTO"
            frames = VideoDecoder(container, stream)
            for decoded in frames:
                rgb = upright(decoded)
                check_size(f"{self.name}: frame {index}", rgb.shape, expected)
                expected = (rgb.shape[0], rgb.shape[1])
                yield Frame(rgb, self._stamp(decoded, index), index)
                index += 1
            fault = frames.fault or frames.shortfall()
        if index == 0:
            raise InputError(
                f"{self.name}: no frame can be decoded{f' ({fault})' if fault else ''}, "
                "expected a video with frames"
            )
        if fault:
            raise InputError(
                f"{self.name}: {fault}; {index} frames were read, expected a whole video file"
            )

    def pick(self, indices: Iterable[int]) -> dict[int, np.ndarray]:
        """Some frames by their number; what lies between is jumped over, not decoded.

        Returns:
            uint8 [H, W, 3] for each number.

        Raises:
            InputError: the file is damaged or has no such frame.
        """
        wanted = sorted(set(indices))
        found: dict[int, np.ndarray] = {}
        if wanted:
            with open_video(self.name) as container:
                stream = video_stream(container, self.name)
                try:
                    for index, decoded in frames_near(container, stream, wanted):
                        found[index] = upright(decoded)
                except (av.FFmpegError, OSError) as error:
                    raise InputError(
                        f"{self.name}: the video is damaged ({reason(error)}), "
                        "expected a whole video file"
                    ) from error
        missing = {index for index in wanted if index not in found}
        if missing:  # their times were not what the packets said: count
            for frame in self:
                if frame.index in missing:
                    found[frame.index] = frame.rgb
                    missing.discard(frame.index)
                if not missing:
                    break
        if missing:
            raise InputError(
                f"{self.name}: has no frame {min(missing)}, expected as many as the annotations name"
            )
        return found

    def _stamp(self, decoded: av.VideoFrame, index: int) -> float:
        if decoded.pts is not None and decoded.time_base is not None:
            return float(decoded.pts * decoded.time_base)
        return index / (self.fps or 30.0)


def open_source(path: Path | str, fps: float = 30.0) -> FrameSource:
    """Open whatever the path is: a video file, a folder of images or one image.

    Args:
        path: what the user gave.
        fps: rate of an image folder, which has none of its own.

    Raises:
        InputError: nothing there, or something else; says what was expected.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(
            f"{place}: no such file or folder, expected a video file, an image folder or a rosbag2"
        )
    suffix = place.suffix.lower()
    if looks_like_bag(place):
        raise InputError(f"{place}: is a rosbag2, expected a video file or an image folder here")
    if place.is_dir() or suffix in IMAGE_SUFFIXES:
        return ImageFolder(place, fps)
    if suffix in UNREAD_SUFFIXES:
        raise InputError(f"{place}: {suffix} is not read, expected {READABLE}")
    if place.name.lower().endswith(tuple(f"{bag}.zstd" for bag in BAG_SUFFIXES)):
        raise InputError(
            f"{place}: is a compressed part of a rosbag2, expected the bag's folder with its metadata.yaml "
            f"(or unpack it: zstd -d {place.name})"
        )
    if suffix == ".bag":
        raise InputError(
            f"{place}: is a ROS 1 bag, expected a rosbag2 "
            f"(rosbags-convert --src {place} --dst {place.stem} makes one)"
        )
    return VideoFile(place)


def looks_like_bag(path: Path | str) -> bool:
    """Whether the path is a rosbag2: a storage file, or a folder with metadata.yaml or storage files."""
    place = Path(path)
    if not place.is_dir():
        return place.suffix.lower() in BAG_SUFFIXES and place.exists()
    return (place / "metadata.yaml").exists() or any(
        entry.suffix.lower() in BAG_SUFFIXES for entry in place.iterdir()
    )
