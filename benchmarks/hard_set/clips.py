# SPDX-License-Identifier: Apache-2.0
"""The hard clips on disk: rendered once, read again as long as their script has not changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sa2va_sim import hard_clips
from sa2va_sim.hard_clips import HardClip, hard_clip

DEFAULT_CACHE = Path("runs/hard_clips")
# Clips to calibrate on are not those that figures are told of.
CALIBRATION_OFFSET = 10_000


def clips(numbers: Sequence[int], cache: Path = DEFAULT_CACHE) -> Iterator[HardClip]:
    """The clips of those numbers, one in memory at a time."""
    for number in numbers:
        yield _clip(number, cache)


def _clip(number: int, cache: Path) -> HardClip:
    file = cache / f"{_script_hash()}-{number:05d}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        clip = hard_clip(number)
        # A name of its own until it is whole: several runs may render at once.
        part = file.with_suffix(f".{os.getpid()}.part.npz")
        np.savez_compressed(part, **vars(clip))
        part.replace(file)
        return clip
    with np.load(file) as data:
        return HardClip(
            name=str(data["name"]),
            kind=str(data["kind"]),
            expression=str(data["expression"]),
            target=int(data["target"]),
            rgb=data["rgb"],
            instances=data["instances"],
            visible=data["visible"],
            moving=bool(data["moving"]),
        )


def _script_hash() -> str:
    """Changes with the script of the clips (not with the objects' shapes: delete the folder after such a change)."""
    return hashlib.sha256(Path(hard_clips.__file__).read_bytes()).hexdigest()[:8]
