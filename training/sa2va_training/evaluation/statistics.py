# SPDX-License-Identifier: Apache-2.0
"""How much a dataset holds and how hard it is, in the terms of the paper's Tables 3 and 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np

from sa2va_training.data.sample import Dataset, Sample
from sa2va_training.evaluation.facts import facts_of

_SIDE = 96  # pixels; camera motion is measured on small pictures


@dataclass
class DatasetStatistics:
    """Counts, and a list of one number each for means.

    Attributes:
        objects: different things that expressions mean; masks: of them, where they are seen.
        object_motion: way of an object's centre per frame; camera_motion: of the whole picture, both as shares of the
            diagonal.
        hidden: share of the annotated frames between an object's first and last on which it is not seen.
        late: share of the clip before it is first seen.
    """

    clips: int = 0
    pictures: int = 0
    objects: int = 0
    masks: int = 0
    words: list[float] = field(default_factory=list)
    object_motion: list[float] = field(default_factory=list)
    camera_motion: list[float] = field(default_factory=list)
    hidden: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    def rows(self) -> dict[str, float]:
        """By name: counts, and means where there is something to average."""
        out: dict[str, float] = {
            "clips": self.clips,
            "pictures": self.pictures,
            "objects": self.objects,
            "masks": self.masks,
            "expressions": len(self.words),
        }
        for name in ("words", "object_motion", "camera_motion", "hidden", "late"):
            values = getattr(self, name)
            if values:
                out[f"mean {name.replace('_', ' ')}"] = round(float(np.mean(values)), 4)
        return out


def statistics(dataset: Dataset, tick: Callable[[], None] = lambda: None) -> DatasetStatistics:
    """Reads every picture and every mask.

    Args:
        tick: called after each sample.
    """
    found = DatasetStatistics()
    for index in range(len(dataset)):
        _add(found, dataset[index])
        tick()
    return found


def _add(found: DatasetStatistics, sample: Sample) -> None:
    found.clips += sample.clip
    found.pictures += len(sample.frames)
    if sample.clip and len(sample.frames) > 1:
        found.camera_motion.append(camera_motion(sample.read_frames()))
    seen: list[bytes] = []
    for referring in sample.referrings:
        found.words.append(len(referring.text.split()))
        if referring.target is None or not referring.target.annotated:
            continue
        truth = referring.target.read(*sample.size())[list(referring.target.annotated)]
        key = np.packbits(truth).tobytes()
        shown: np.ndarray = np.asarray(truth.any((1, 2)))
        if key in seen or not shown.any():
            continue  # another expression for the same thing
        seen.append(key)
        found.objects += 1
        found.masks += int(shown.sum())
        if sample.clip and len(truth) > 1:
            facts = facts_of(referring.text, truth)
            found.object_motion.append(facts["motion"])
            found.late.append(facts["first"])
            first, last = np.flatnonzero(shown)[[0, -1]]
            found.hidden.append(float(1 - shown[first : last + 1].mean()))


def camera_motion(frames: Sequence[np.ndarray]) -> float:
    """Mean shift of the whole picture from one frame uint8 [H, W, 3] to the next, as a share of its diagonal."""
    small = [
        cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE)).astype(np.float32)
        for rgb in frames
    ]
    window = cv2.createHanningWindow((_SIDE, _SIDE), cv2.CV_32F)
    shifts = [
        np.hypot(*cv2.phaseCorrelate(one, other, window)[0]) for one, other in pairwise(small)
    ]
    return float(np.mean(shifts) / (_SIDE * np.sqrt(2)))
