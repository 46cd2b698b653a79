# SPDX-License-Identifier: Apache-2.0
"""Masks as annotation files hold them, decoded when asked for.

One function, `decode_mask`, understands every form that the datasets use; the classes around it say where the
annotation lies. Where parts overlap they are joined by OR (adding them, as some published readers do, gives 2 and 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from pycocotools import mask as coco

from sa2va_model.errors import InputError

FARTHEST = 1e6  # pixels from the corner; polygons are walked along their edges


class Mask(Protocol):
    """A mask that can be read."""

    def read(self, height: int, width: int) -> np.ndarray:
        """bool [height, width]; InputError if the annotation is for another size."""
        ...


def decode_mask(segmentation: Any, height: int, width: int, where: str = "mask") -> np.ndarray:
    """Any of the published forms as a bool [height, width] array.

    Args:
        segmentation: None (empty), compressed RLE `{"size": [H, W], "counts": str | bytes}`, uncompressed RLE (counts a
            list of int), polygons `[[x1, y1, x2, y2, …], …]`, one flat polygon, or a list that mixes RLEs and polygons.
        where: file and record, for the message.

    Raises:
        InputError: another form, or another size.
    """
    if segmentation is None:
        return np.zeros((height, width), bool)
    if isinstance(segmentation, Mapping):
        return _decode_rle(segmentation, height, width, where)
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, (str, bytes)):
        parts = list(segmentation)
        if parts and all(isinstance(value, (int, float)) for value in parts):
            parts = [parts]
        out = np.zeros((height, width), bool)
        for part in parts:
            out |= (
                _decode_polygon(part, height, width, where)
                if isinstance(part, Sequence) and not isinstance(part, (str, bytes))
                else decode_mask(part, height, width, where)
            )
        return out
    raise InputError(
        f"{where}: segmentation is a {type(segmentation).__name__}, "
        "expected an RLE, polygons or a list of them"
    )


def _decode_rle(rle: Mapping[str, Any], height: int, width: int, where: str) -> np.ndarray:
    for key in ("size", "counts"):
        if key not in rle:
            raise InputError(
                f"{where}: RLE has no field '{key}', expected {{'size': [H, W], 'counts': …}}"
            )
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, Sequence) or [height, width] != [*size]:
        raise InputError(
            f"{where}: RLE size is {size!r:.40} ([H, W]), expected [{height}, {width}] like the picture"
        )
    if isinstance(counts, (str, bytes)):
        raw = counts.encode() if isinstance(counts, str) else counts
        coded: Any = {"size": [height, width], "counts": raw}
    elif isinstance(counts, Sequence):
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise InputError(f"{where}: RLE counts hold something else than numbers of pixels")
        if sum(counts) != height * width:
            raise InputError(
                f"{where}: RLE counts add up to {sum(counts)} pixels, expected {height * width}"
            )
        coded = coco.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)
    else:
        raise InputError(
            f"{where}: RLE counts are a {type(counts).__name__}, expected a string or a list"
        )
    try:
        return coco.decode(coded).astype(bool)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: RLE cannot be decoded ({error})") from error


def _decode_polygon(points: Sequence[Any], height: int, width: int, where: str) -> np.ndarray:
    if len(points) < 6 or len(points) % 2:
        raise InputError(
            f"{where}: polygon has {len(points)} numbers, expected x1, y1, x2, y2, … of 3 points or more"
        )
    if not all(isinstance(value, (int, float)) and abs(value) <= FARTHEST for value in points):
        raise InputError(f"{where}: polygon holds something that is no number of pixels")
    coded = coco.frPyObjects([[float(value) for value in points]], height, width)
    decoded: np.ndarray = coco.decode(coded)[:, :, 0].astype(bool)
    return decoded


def mask_area(segmentation: Any, height: int, width: int, where: str = "mask") -> int:
    """Pixels of a mask; of a single RLE without decoding it. Arguments as `decode_mask`."""
    if isinstance(segmentation, Mapping) and isinstance(segmentation.get("counts"), (str, bytes)):
        counts = segmentation["counts"]
        raw = counts.encode() if isinstance(counts, str) else counts
        return int(coco.area({"size": [height, width], "counts": raw}))
    return int(decode_mask(segmentation, height, width, where).sum())


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed COCO RLE of a bool [H, W] mask, as JSON has it (`counts` is a str)."""
    coded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in mask.shape], "counts": coded["counts"].decode("ascii")}


@dataclass(frozen=True)
class EmptyMask:
    """The object is known not to be seen."""

    def read(self, height: int, width: int) -> np.ndarray:
        """All False."""
        return np.zeros((height, width), bool)


@dataclass(frozen=True)
class CodedMask:
    """RLE or polygons, see `decode_mask`.

    Attributes:
        where: file and record, for messages.
    """

    segmentation: Any
    where: str

    def read(self, height: int, width: int) -> np.ndarray:
        """Decode."""
        return decode_mask(self.segmentation, height, width, self.where)


@dataclass(frozen=True)
class LabelMask:
    """Some values of a label image: a PNG whose pixel value (palette index or grey) says which object it is.

    Attributes:
        values: pixel values that belong to the object; () = every value but 0.
    """

    path: Path
    values: tuple[int, ...] = ()

    def read(self, height: int, width: int) -> np.ndarray:
        """Decode; InputError if the file is missing, damaged or of another size."""
        labels = read_labels(self.path)
        if labels.shape != (height, width):
            raise InputError(
                f"{self.path}: is {labels.shape[1]}x{labels.shape[0]}, "
                f"expected {width}x{height} like the picture"
            )
        return np.isin(labels, self.values) if self.values else labels != 0


@dataclass(frozen=True)
class UnionMask:
    """Several masks together."""

    parts: tuple[Mask, ...]

    def read(self, height: int, width: int) -> np.ndarray:
        """OR of the parts."""
        out = np.zeros((height, width), bool)
        for part in self.parts:
            out |= part.read(height, width)
        return out


@dataclass(frozen=True, eq=False)
class ArrayMask:
    """A mask in memory: bool [H, W]."""

    array: np.ndarray

    def read(self, height: int, width: int) -> np.ndarray:
        """The array itself."""
        if self.array.shape != (height, width):
            raise InputError(f"mask is {self.array.shape}, expected ({height}, {width})")
        return self.array


def union(parts: Sequence[Mask | None]) -> Mask | None:
    """Several objects as one target: OR of the known masks; None if none is known."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return known[0] if len(known) == 1 else UnionMask(tuple(known))


def all_of(parts: Sequence[Mask | None]) -> Mask | None:
    """Several objects as one target: OR of the masks; None if one of them is not known, for the rest is not all."""
    return None if None in parts else union(parts)


@lru_cache(maxsize=32)
def read_labels(path: Path) -> np.ndarray:
    """A label image as int32 [H, W] (do not write into it: the last few are kept).

    Palette files give the palette's index. A colour file counts as grey where its channels are one.

    Raises:
        InputError: the file is missing, damaged or in colours, which say no numbers.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L", "I", "I;16", "1"):
                return np.asarray(image).astype(np.int32)
            pixels = np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: is no picture, expected a PNG of labels") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: {reason}, expected a PNG of labels") from error
    if (pixels == pixels[..., :1]).all():
        return pixels[..., 0].astype(np.int32)
    colours = len(np.unique(pixels.reshape(-1, 3), axis=0))
    raise InputError(
        f"{path}: is a colour picture ({colours} colours), expected a grey or palette PNG whose pixel values are "
        "the numbers of the objects, 0 = nothing"
    )


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A bool mask at another size, nearest neighbour."""
    if mask.shape == (height, width):
        return mask
    scaled = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return scaled.astype(bool)
