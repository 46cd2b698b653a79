# SPDX-License-Identifier: Apache-2.0
"""A clip of a simple folder, and masks that the tracker carries from some of its frames to the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.io.frames import natural_key, read_image
from sa2va_model.io.pictures import IMAGE_SUFFIXES
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import Prompt
from sa2va_training.data.folder import ANNOTATIONS
from sa2va_training.data.masks import read_labels
from sa2va_training.data.readers.records import Record, read_json_lines

AGREEMENT = 0.8
"""IoU of what both directions say, from which on it is believed."""

Masks = dict[int, np.ndarray | None]
"""By label, on one frame: bool [H, W], empty = it is not there; None = lost, nobody knows."""


class Clip:
    """One clip of a simple folder: its frames and its label images."""

    def __init__(self, root: Path, record: dict[str, Any], number: int) -> None:
        self.root, self.record = root, record
        self.name = str(record["clip"])
        self.where = f"{root / ANNOTATIONS}: record {number}"
        folder = root / self.name
        if not folder.is_dir():
            raise InputError(f"{self.where}: clip {self.name!r} is no folder")
        files = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES]
        self.files = sorted(files, key=lambda f: natural_key(f.name))
        place = Path("masks") / Path(self.name).relative_to("images")
        self.labels = root / str(record.get("labels") or place)

    def label_file(self, t: int) -> Path:
        """Where the label image of a frame lies, or would lie."""
        return self.labels / f"{self.files[t].stem}.png"

    def drafted(self) -> Mapping[str, frozenset[str]]:
        """By object, the names of the frames on which a model's draft of it was kept."""
        notes = self.record.get("notes")
        drafts = notes.get("drafts", {}) if isinstance(notes, Mapping) else {}
        return {str(number): frozenset(map(str, stems)) for number, stems in drafts.items()}

    def read(self, t: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return read_image(self.files[t])

    def drawn(self) -> dict[int, np.ndarray]:
        """Label images that people drew, by frame: int32 [H, W]."""
        read_labels.cache_clear()
        found = {}
        for t in range(len(self.files)):
            if self.label_file(t).is_file():
                found[t] = read_labels(self.label_file(t))
        return found


def read_records(root: Path) -> list[dict[str, Any]]:
    """The records of a folder, as JSON has them.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    file = root / ANNOTATIONS
    if not file.is_file():
        raise InputError(
            f"{root}: has no {ANNOTATIONS}; expected a folder made by `sa2va data from-bag`"
        )
    return [dict(Record(value, where).data) for where, value in read_json_lines(file)]


def write_records(root: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write all records of a folder anew, in one piece."""
    fresh = root / f"{ANNOTATIONS}.new"
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(root / ANNOTATIONS)


def mask_of(model: Sa2VA, logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W] of logits [1, 1, 4h, 4w]."""
    large = images.masks_to_image(logits, model.config.sam2.image_size, *size)
    found: np.ndarray = (large[0] > 0).cpu().numpy()
    return found


def carry(
    model: Sa2VA,
    clip: Clip,
    drawn: Mapping[int, np.ndarray],
    order: Iterable[int],
    tick: Callable[[], None],
) -> dict[int, Masks]:
    """What the tracker sees on every frame when it goes through them in this order."""
    tracker = OnlineTracker(model.sam2)
    found: dict[int, Masks] = {}
    lost: set[str] = set()
    for t in order:
        tick()
        found[t] = {}
        if t not in drawn and not tracker.ids:
            continue
        rgb = clip.read(t)
        if t in drawn:
            _correct(tracker, clip, t, drawn[t], rgb.shape)
            lost.clear()
        seen = tracker.step(model.encode_image(rgb))
        if t in drawn:
            continue
        for name, one in seen.items():
            if one.object_score <= 0:
                lost.add(name)
            mask = None if name in lost else mask_of(model, one.logits, rgb.shape[:2])
            found[t][int(name)] = mask
    return found


def _correct(
    tracker: OnlineTracker, clip: Clip, t: int, labels: np.ndarray, shape: tuple[int, ...]
) -> None:
    """Tells the tracker what was drawn; what the drawing does not show is not there."""
    if labels.shape != shape[:2]:
        raise InputError(
            f"{clip.label_file(t)}: is {labels.shape[1]}x{labels.shape[0]}; "
            f"expected {shape[1]}x{shape[0]} like its picture"
        )
    present = {str(v) for v in np.unique(labels[labels > 0]).tolist()}
    for name in tracker.ids:
        if name not in present:
            tracker.remove(name)
    for name in sorted(present, key=int):
        tracker.add(name, Prompt(mask=torch.from_numpy(labels == int(name))))


def agreed(
    t: int,
    drawn: Mapping[int, np.ndarray],
    forwards: np.ndarray | None,
    backwards: np.ndarray | None,
) -> np.ndarray | None:
    """One object's mask on a frame that nobody drew, if it can be trusted."""
    before = [d for d in drawn if d < t]
    after = [d for d in drawn if d > t]
    if not before or not after:
        return forwards if before else backwards
    if forwards is None or backwards is None:
        return None
    common, either = (forwards & backwards).sum(), (forwards | backwards).sum()
    if common < AGREEMENT * either:
        return None
    return forwards if t - max(before) <= min(after) - t else backwards
