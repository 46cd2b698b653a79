# SPDX-License-Identifier: Apache-2.0
"""Pictures of a sample: references to image files and to frames of video files, read when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.frames import VideoFile, check_size, read_image
from sa2va_model.io.pictures import check_pixels

_ORIENTATION = 0x0112  # EXIF tag


class Picture(Protocol):
    """One picture.

    Attributes:
        name: where it comes from; the same name is the same pixels (caches use it), "" = unknown.
    """

    @property
    def name(self) -> str:
        """Where it comes from."""
        ...

    def size(self) -> tuple[int, int]:
        """(H, W), without decoding the pixels where that can be avoided."""
        ...

    def read(self) -> np.ndarray:
        """uint8 [H, W, 3], RGB."""
        ...


@dataclass(frozen=True)
class ImageFile:
    """A PNG or JPEG file.

    Attributes:
        known_size: (H, W) if the annotations say it; the file's own size is checked against it.
    """

    path: Path
    known_size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def size(self) -> tuple[int, int]:
        """(H, W) from the annotations or from the file's head."""
        return self.known_size or _head_size(self.path)

    def read(self) -> np.ndarray:
        """Decode; InputError if missing, damaged or of another size than the annotations say."""
        rgb = read_image(self.path)
        if self.known_size is not None and rgb.shape[:2] != self.known_size:
            height, width = self.known_size
            raise InputError(
                f"{self.path}: is {rgb.shape[1]}x{rgb.shape[0]}, "
                f"expected {width}x{height} as the annotations say"
            )
        return rgb


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video file; several of one file are decoded together by `read_pictures`."""

    path: Path
    index: int
    known_size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Path and frame number."""
        return f"{self.path}#{self.index}"

    def size(self) -> tuple[int, int]:
        """(H, W) from the annotations or of the file's first frame."""
        return self.known_size or _video_size(self.path)

    def read(self) -> np.ndarray:
        """Decode this frame."""
        return VideoFile(self.path).pick([self.index])[self.index]


@dataclass(frozen=True, eq=False)
class ArrayPicture:
    """A picture in memory: uint8 [H, W, 3]."""

    array: np.ndarray
    name: str = ""

    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.array.shape[0]), int(self.array.shape[1])

    def read(self) -> np.ndarray:
        """The array itself."""
        return self.array


def read_pictures(pictures: Sequence[Picture]) -> list[np.ndarray]:
    """Decode pictures of one clip: arrays uint8 [H, W, 3]; each video file is opened once.

    Raises:
        InputError: one is missing, damaged or of another size than the first.
    """
    wanted: dict[Path, list[int]] = {}
    for picture in pictures:
        if isinstance(picture, VideoFrame):
            wanted.setdefault(picture.path, []).append(picture.index)
    decoded = {path: VideoFile(path).pick(indices) for path, indices in wanted.items()}
    out: list[np.ndarray] = []
    for picture in pictures:
        rgb = (
            decoded[picture.path][picture.index]
            if isinstance(picture, VideoFrame)
            else picture.read()
        )
        expected = (out[0].shape[0], out[0].shape[1]) if out else None
        check_size(picture.name, rgb.shape, expected)
        out.append(rgb)
    return out


@lru_cache(maxsize=4096)
def _head_size(path: Path) -> tuple[int, int]:
    """(H, W) from an image file's head."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            check_pixels(str(path), *image.size)
            lying = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)  # as decoding turns it
            return (image.width, image.height) if lying else (image.height, image.width)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: is no picture that can be read, expected a PNG or JPEG image"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}, expected an image file") from error


@lru_cache(maxsize=4096)
def _video_size(path: Path) -> tuple[int, int]:
    for frame in VideoFile(path):
        return frame.rgb.shape[0], frame.rgb.shape[1]
    raise InputError(f"{path}: holds no frame, expected a video")
