# SPDX-License-Identifier: Apache-2.0
"""A few annotated frames of a clip become all frames: the tracker carries masks forwards and backwards between them.

What people drew (label images) is never touched; the result stands in the record, per object and frame. Between two
drawn frames a mask is kept where both directions agree; beyond the first and the last one until the object is lost.
Everything else stays without annotation: nothing is learned there, which is better than learning a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.types import Prompt
from sa2va_training.data.clip_masks import (
    Clip,
    agreed,
    carry,
    mask_of,
    read_records,
    write_records,
)
from sa2va_training.data.folder import ANNOTATIONS
from sa2va_training.data.masks import encode_mask, read_labels


@dataclass(frozen=True)
class BoxPrompt:
    """A box around an object on one frame, in pixels: a quick way to draw a label image."""

    label: int
    frame: int
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class Filled:
    """What became of one clip.

    Attributes:
        drawn: frames that people drew.
        propagated, open: masks of single objects that were filled in, or stayed without annotation.
        objects: what each label that was drawn is called; "" = it has no name.
    """

    clip: str
    drawn: int
    propagated: int
    open: int
    objects: Mapping[str, str]


def propagate_folder(
    model: Sa2VA,
    root: Path,
    *,
    clips: Sequence[str] = (),
    boxes: Sequence[BoxPrompt] = (),
    names: Mapping[int, str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[Filled]:
    """Fills in the clips of a simple folder and writes its annotations anew.

    Args:
        clips: only these (`images/run1`); () = all that have something drawn.
        boxes: become label images first, for the one clip that is meant.
        names: what objects are called, by label; becomes their expression where they have none.
        tick: called after each frame and direction.

    Raises:
        InputError: the folder, a clip or a label image cannot be read, or nothing is drawn.
    """
    records = read_records(root)
    chosen = [
        Clip(root, record, n)
        for n, record in enumerate(records)
        if "clip" in record and (not clips or record["clip"] in clips)
    ]
    missing = set(clips) - {clip.name for clip in chosen}
    if missing:
        raise InputError(f"{root}: has no clip {min(missing)!r}; see {root / ANNOTATIONS}")
    if boxes and len(chosen) != 1:
        raise InputError(f"{root}: boxes were given, but {len(chosen)} clips; expected --clip NAME")
    for box in boxes:
        _draw_box(model, chosen[0], box)
    drawn = [(clip, clip.drawn()) for clip in chosen]
    started = [(clip, labels) for clip, labels in drawn if labels]
    if not started:
        example = chosen[0].label_file(0) if chosen and chosen[0].files else "masks/run1/00000.png"
        raise InputError(
            f"{root}: no clip has an annotated frame; expected label images such as {example}"
        )
    _check_names(root, started, names or {})
    filled = []
    for clip, labels in started:
        found = _fill(model, clip, labels, tick)
        _describe(clip.record, names or {})
        called = {label: str(o.get("name", "")) for label, o in clip.record["objects"].items()}
        filled.append(replace(found, objects=called))
        write_records(root, records)
    return filled


def _labels(drawn: Mapping[int, np.ndarray]) -> list[int]:
    """The objects of some label images."""
    return sorted({int(v) for shown in drawn.values() for v in np.unique(shown[shown > 0])})


def _check_names(
    root: Path, started: Sequence[tuple[Clip, Mapping[int, np.ndarray]]], names: Mapping[int, str]
) -> None:
    """Refuses names that would be lost, or would rename what another clip calls something else."""
    labels = {clip.name: _labels(drawn) for clip, drawn in started}
    known = sorted({label for found in labels.values() for label in found})
    for label, name in names.items():
        if label not in known:
            black_and_white = (
                " (a black and white PNG has one object, 255)" if known == [255] else ""
            )
            raise InputError(
                f"{root}: --name {label}={name}: nobody drew an object {label}; the drawings have "
                f"{', '.join(map(str, known))}{black_and_white}"
            )
        for clip, _ in started if len(started) > 1 else []:
            old = clip.record.get("objects", {}).get(str(label), {}).get("name", name)
            if label in labels[clip.name] and old != name:
                raise InputError(
                    f"{clip.where}: object {label} of {clip.name} is called {old!r} already, and --name says {name!r} "
                    f"for {len(started)} clips; expected --clip to say which"
                )


@torch.inference_mode()
def _draw_box(model: Sa2VA, clip: Clip, box: BoxPrompt) -> None:
    """SAM-2's mask for a box, put into the label image of its frame as if it had been drawn."""
    if not 0 <= box.frame < len(clip.files):
        raise InputError(
            f"{clip.where}: box on frame {box.frame}; expected 0 to {len(clip.files) - 1}"
        )
    rgb = clip.read(box.frame)
    height, width = rgb.shape[:2]
    x0, y0, x1, y1 = box.corners
    if not (x0 >= 0 and x1 <= width and y0 >= 0 and y1 <= height):
        raise InputError(
            f"{clip.where}: box {box.corners} on frame {box.frame}; expected it inside {width}x{height}"
        )
    prompt = Prompt.box(x0 / width, y0 / height, x1 / width, y1 / height)
    features = model.encode_image(rgb)
    decoded = model.sam2.decode(features, model.sam2.without_memory(features), prompt)
    file = clip.label_file(box.frame)
    labels = read_labels(file).copy() if file.is_file() else np.zeros((height, width), np.int32)
    labels[mask_of(model, decoded.logits, (height, width))] = box.label
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), labels.astype(np.uint8 if labels.max() < 256 else np.uint16))


def _fill(
    model: Sa2VA, clip: Clip, drawn: Mapping[int, np.ndarray], tick: Callable[[], None]
) -> Filled:
    count = len(clip.files)
    labels = _labels(drawn)
    drafts = clip.drafted()
    forwards = carry(model, clip, drawn, range(count), tick)
    backwards = carry(model, clip, drawn, range(count - 1, -1, -1), tick)
    objects = clip.record.setdefault("objects", {})
    made = still_open = 0
    for label in labels:
        known = objects.get(str(label), {}).get("masks") or [None] * count
        masks: list[Any] = []
        for t in range(count):
            if t in drawn:
                mask: np.ndarray | None = drawn[t] == label
            else:
                mask = agreed(t, drawn, forwards[t].get(label), backwards[t].get(label))
                if mask is None and clip.files[t].stem in drafts.get(str(label), ()):
                    masks.append(known[t])  # a draft of `label`, which nobody has drawn over
                    continue
                made += mask is not None
                still_open += mask is None
            masks.append(None if mask is None else encode_mask(mask) if mask.any() else [])
        objects.setdefault(str(label), {})["masks"] = masks
    if drawn:
        clip.record["labels"] = clip.labels.relative_to(clip.root).as_posix()
    notes = clip.record.setdefault("notes", {})
    notes["drawn"] = [clip.files[t].stem for t in sorted(drawn)]
    return Filled(clip.name, len(drawn), made, still_open, {})


def _describe(record: dict[str, Any], names: Mapping[int, str]) -> None:
    """Objects get their names, and an expression where they have a name and none yet."""
    for label, entry in record["objects"].items():
        if label.isdigit() and int(label) in names:
            entry["name"] = names[int(label)]
    expressions = record.setdefault("expressions", [])
    meant = {name for e in expressions for name in e.get("objects", [])}
    for label, entry in record["objects"].items():
        if label not in meant and entry.get("name"):
            expressions.append({"text": str(entry["name"]), "objects": [label]})
