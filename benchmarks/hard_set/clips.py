# SPDX-License-Identifier: Apache-2.0
"""The hard clips on disk: rendered once, read again as long as their script has not changed. And clips of ordinary
objects in their form."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sa2va_sim import hard_clips
from sa2va_sim.catalogue.room import SEEDS_PER_ROOM, things_clip
from sa2va_sim.hard_clips import HardClip, hard_clip
from sa2va_training.tiny.shipping.word_choice import names_of

DEFAULT_CACHE = Path("runs/hard_clips")
# Clips to calibrate on are not those that figures are told of.
CALIBRATION_OFFSET = 10_000
ORDINARY_FIRST = 740_000  # seeds that neither training nor another benchmark draws
ORDINARY_FRAMES = 40


def clips(numbers: Sequence[int], cache: Path = DEFAULT_CACHE) -> Iterator[HardClip]:
    """The clips of those numbers, one in memory at a time."""
    for number in numbers:
        yield _clip(number, cache)


def ordinary_clips(count: int) -> Iterator[HardClip]:
    """Clips of ordinary objects that training may see, each in a room of its own; needs them (`make realistic`).

    Things are carried about, hide each other, leave and come back; most cameras are held by hand. What is followed is
    named on the first picture; a clip without anything to name is left out.
    """
    for seed in range(ORDINARY_FIRST, ORDINARY_FIRST + count * SEEDS_PER_ROOM, SEEDS_PER_ROOM):
        pictures, rng = things_clip(seed, ORDINARY_FRAMES), np.random.default_rng([seed, 0xCA11])
        named = [(name, mask) for name, mask in names_of(pictures[0], rng) if mask is not None]
        if not named:
            continue
        name, mask = named[int(rng.integers(len(named)))]
        target = int(pictures[0].instances[mask][0])
        yield HardClip(
            name=f"ordinary {seed}",
            kind="ordinary",
            expression=f"the {name}",
            target=target,
            rgb=np.stack([picture.rgb for picture in pictures]),
            instances=np.stack([picture.instances for picture in pictures]),
            visible=np.array(
                [picture.facts[target - 1].visible for picture in pictures], np.float32
            ),
            moving=True,
        )


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
