# SPDX-License-Identifier: Apache-2.0
"""RVL (Wilson, "Fast lossless depth image compression", ISS 2017), as compressed_depth_image_transport writes it.

Numbers are cut into three bits a nibble, the fourth says whether more follow. They are in turn: how many pixels are
zero, how many follow that are not, and for each of these its difference to the one before, in zigzag.
"""

from __future__ import annotations

import struct

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.pictures import check_pixels

_SIZE = struct.Struct("<II")  # columns, rows
_LONGEST = 11  # nibbles of a number of 32 bits


def decode_rvl(data: bytes, named: str) -> np.ndarray:
    """Decode uint16 [H, W]; 0 = nothing was measured.

    Args:
        data: columns, rows, then the packed numbers.
        named: what to call it in messages.

    Raises:
        InputError: no size, a size that would take all memory, or numbers that do not add up to it.
    """
    if len(data) <= _SIZE.size:
        raise InputError(f"{named}: is cut short; expected a size and RVL data")
    width, height = _SIZE.unpack_from(data)
    check_pixels(named, width, height)
    numbers = _numbers(data[_SIZE.size :], named)
    where, differences = _runs(numbers, width * height, named)
    signed = (differences >> 1) ^ -(differences & 1)
    pixels = np.zeros(width * height, np.uint16)
    pixels[where] = np.cumsum(signed).astype(np.uint16)
    return pixels.reshape(height, width)


def _numbers(packed: bytes, named: str) -> np.ndarray:
    """All numbers of the packed words: int64 [N]; zeros may follow, from the last word."""
    words = np.frombuffer(packed[: len(packed) // 4 * 4], "<u4").astype(">u4")
    octets = words.view(np.uint8)
    nibbles = np.column_stack([octets >> 4, octets & 15]).ravel()
    ends = np.flatnonzero(nibbles < 8)
    if not len(ends):
        raise InputError(f"{named}: is cut short; expected RVL data")
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise InputError(f"{named}: holds a number of {lengths.max()} nibbles; expected RVL data")
    nibbles = nibbles[: ends[-1] + 1].astype(np.int64)
    places = np.arange(len(nibbles)) - np.repeat(starts, lengths)
    return np.add.reduceat((nibbles & 7) << (3 * places), starts)


def _runs(numbers: np.ndarray, pixels: int, named: str) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels are not zero, and the differences of these: bool [pixels], int64 [count]."""
    where, parts = np.zeros(pixels, bool), []
    place, at = 0, 0
    while place < pixels:
        if at + 2 > len(numbers):
            raise InputError(f"{named}: ends after {place} of {pixels} pixels")
        zeros, count = int(numbers[at]), int(numbers[at + 1])
        place, at = place + zeros + count, at + 2 + count
        if place > pixels or at > len(numbers):
            raise InputError(f"{named}: has a run beyond its {pixels} pixels or its data")
        where[place - count : place] = True
        parts.append(numbers[at - count : at])
    return where, np.concatenate(parts) if parts else np.zeros(0, np.int64)
