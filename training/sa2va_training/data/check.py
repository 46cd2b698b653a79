# SPDX-License-Identifier: Apache-2.0
"""Goes through a whole dataset once and says what is in it and what is wrong, before a training run finds out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sa2va_model.errors import InputError
from sa2va_training.data.sample import Dataset, Sample

_FEW_PIXELS = 20


@dataclass
class Findings:
    """What a dataset holds.

    Attributes:
        problems: what training would refuse, file and record named.
        remarks: what is allowed and probably not meant.
    """

    samples: int = 0
    pictures: int = 0
    expressions: int = 0
    absent: int = 0
    conversations: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def check(dataset: Dataset, tick: Callable[[], None] = lambda: None) -> Findings:
    """Reads every picture and every mask.

    Args:
        tick: called after each sample.
    """
    found = Findings()
    for index in range(len(dataset)):
        found.samples += 1
        try:
            _look(dataset[index], found)
        except InputError as error:
            found.problems.append(str(error))
        tick()
    return found


def _look(sample: Sample, found: Findings) -> None:
    frames = sample.read_frames()
    found.pictures += len(frames)
    if frames:
        found.sizes[f"{frames[0].shape[1]}x{frames[0].shape[0]}"] += len(frames)
    found.conversations += bool(sample.turns)
    for number, referring in enumerate(sample.referrings):
        found.expressions += 1
        found.absent += referring.absent
        found.kinds[referring.kind or "-"] += 1
        where = f"{sample.record}: expression {referring.text!r}"
        if not referring.text.strip():
            found.problems.append(f"{sample.record}: expression {number} is empty; expected words")
        if referring.target is None or referring.absent:
            continue
        found.names[referring.target.name or referring.text] += 1
        shown = referring.target.read(*sample.size())
        _judge(where, shown, referring.target.annotated, found)
    masks = sample.read_masks()
    for target, shown in zip(sample.targets, masks, strict=True):
        _judge(f"{sample.record}: object {target.name!r}", shown, target.annotated, found)
    for number, region in enumerate(sample.read_regions()):
        if not region.any():
            found.problems.append(
                f"{sample.record}: region{number + 1} is empty; expected a region with pixels"
            )


def _judge(where: str, shown: np.ndarray, annotated: tuple[int, ...], found: Findings) -> None:
    """What is odd about the masks bool [T, H, W] of one target."""
    if not annotated:
        found.remarks.append(f"{where}: on no frame is it annotated, nothing is learned from it")
    elif not shown.any():
        found.remarks.append(
            f"{where}: its mask is empty; an expression without a referent has no objects and kind none"
        )
    elif (pixels := int(shown.any(0).sum())) < _FEW_PIXELS:
        found.remarks.append(f"{where}: its mask has {pixels} pixels")
