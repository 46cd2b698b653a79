# SPDX-License-Identifier: Apache-2.0
"""Images and clips in the forms in which callers hold them, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sa2va_model.io.frames import open_source, read_image
from sa2va_model.io.preprocessing import check_rgb

ImageLike = np.ndarray | Image.Image | str | Path
"""uint8 RGB [H, W, 3], a picture of PIL, or the path of an image file."""
FramesLike = Sequence[ImageLike] | np.ndarray | str | Path
"""Images, oldest first, uint8 [T, H, W, 3], or the path of a video, an image folder or one image."""


def as_image(image: ImageLike, where: str = "image") -> np.ndarray:
    """Return uint8 RGB [H, W, 3]; an array is checked and not copied.

    Files and pictures of PIL are turned as their EXIF data asks.

    Raises:
        InputError: an unreadable file, or an array of another kind.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image) or image
        return np.asarray(upright.convert("RGB"))
    return check_rgb(image, where)


def as_frames(frames: FramesLike) -> list[np.ndarray]:
    """Return all frames as arrays. A file is read whole; a stream belongs to `LiveTracker`.

    Raises:
        InputError: as `as_image`.
    """
    if isinstance(frames, str | Path):
        return [frame.rgb for frame in open_source(frames)]
    return [as_image(frame, f"frame {n}") for n, frame in enumerate(frames)]
