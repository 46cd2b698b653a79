# SPDX-License-Identifier: Apache-2.0
"""A few annotated frames of a clip become all frames: the tracker carries masks forwards and backwards between them.

What people drew is never touched. A frame between two drawn ones is kept where both directions agree; beyond the
first and the last one until an object is lost. Every other frame stays without annotation: nothing is learned there,
which is better than learning a mistake.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from sa2va_model import images
from sa2va_model.errors import InputError
from sa2va_model.grounding import Prompt
from sa2va_model.sa2va import Sa2VA
from sa2va_model.sources import IMAGE_SUFFIXES, natural_key, read_image
from sa2va_model.tracker import OnlineTracker
from sa2va_training.folder import ANNOTATIONS
from sa2va_training.masks import read_labels

AGREEMENT = 0.8


@dataclass(frozen=True)
class Box:
    """A box around an object on one frame, in pixels: a quick way to annotate."""

    label: int
    frame: int
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class Filled:
    """What became of one clip: frames that people drew, that were filled in, that stayed open."""

    clip: str
    manual: int
    propagated: int
    open: int


class Clip:
    """One clip of a simple folder: its frames, its label images and where they come from."""

    def __init__(self, root: Path, record: dict[str, Any], number: int) -> None:
        self.root, self.record = root, record
        self.name = str(record["clip"])
        self.where = f"{root / ANNOTATIONS}: record {number}"
        folder = root / self.name
        if not folder.is_dir():
            raise InputError(f"{self.where}: clip {self.name!r} is no folder")
        files = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES]
        self.files = sorted(files, key=lambda f: natural_key(f.name))
        self.labels = root / str(
            record.get("labels") or Path("masks") / Path(self.name).relative_to("images")
        )
        notes = record.get("notes") or {}
        made = set(notes.get("propagated", [])) if isinstance(notes, dict) else set()
        self.manual = {
            t: self.labels / f"{f.stem}.png"
            for t, f in enumerate(self.files)
            if f.stem not in made and (self.labels / f"{f.stem}.png").is_file()
        }

    def read(self, t: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return read_image(self.files[t])

    def drawn(self) -> dict[int, np.ndarray]:
        """Label images that people drew, by frame: int32 [H, W]."""
        return {t: read_labels(path) for t, path in self.manual.items()}


def propagate_folder(
    model: Sa2VA,
    root: Path,
    *,
    clips: Sequence[str] = (),
    boxes: Sequence[Box] = (),
    names: Mapping[int, str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[Filled]:
    """Fills in the clips of a simple folder and writes its annotations anew.

    Args:
        clips: only these (`images/run1`); () = all that have something drawn.
        boxes: annotations beside the label images, for the one clip that is meant.
        names: what objects are called, by label; becomes their expression where they have none.
        tick: called after each frame and direction.

    Raises:
        InputError: the folder, a clip or a label image cannot be read, or nothing is drawn.
    """
    records = _records(root)
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
    started = [clip for clip in chosen if clip.manual or boxes]
    if not started:
        raise InputError(
            f"{root}: no clip has an annotated frame; expected label images such as "
            f"{chosen[0].labels / (chosen[0].files[0].stem + '.png') if chosen else 'masks/run1/00000.png'}"
        )
    filled = []
    for clip in started:
        filled.append(_fill(model, clip, boxes, tick))
        _describe(clip.record, names or {}, clip)
        _write_records(root, records)
    return filled


def _records(root: Path) -> list[dict[str, Any]]:
    file = root / ANNOTATIONS
    if not file.is_file():
        raise InputError(
            f"{root}: has no {ANNOTATIONS}; expected a folder made by `sa2va data from-bag`"
        )
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid JSON lines ({error})") from error


def _write_records(root: Path, records: Iterable[dict[str, Any]]) -> None:
    fresh = root / f"{ANNOTATIONS}.new"
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(root / ANNOTATIONS)


def _fill(model: Sa2VA, clip: Clip, boxes: Sequence[Box], tick: Callable[[], None]) -> Filled:
    drawn: dict[int, np.ndarray] = clip.drawn()
    for box in boxes:
        if not 0 <= box.frame < len(clip.files):
            raise InputError(
                f"{clip.where}: box on frame {box.frame}; expected 0 to {len(clip.files) - 1}"
            )
        _draw_box(model, clip, box, drawn)
    forwards = _carry(model, clip, drawn, range(len(clip.files)), tick)
    backwards = _carry(model, clip, drawn, range(len(clip.files) - 1, -1, -1), tick)
    clip.labels.mkdir(parents=True, exist_ok=True)
    made, still_open = [], 0
    for t, file in enumerate(clip.files):
        path = clip.labels / f"{file.stem}.png"
        if t in clip.manual:
            continue
        labels = drawn[t] if t in drawn else _agreed(t, drawn, forwards.get(t), backwards.get(t))
        if labels is None:
            path.unlink(missing_ok=True)
            still_open += 1
            continue
        cv2.imwrite(str(path), labels.astype(np.uint8 if labels.max() < 256 else np.uint16))
        made.append(file.stem)
    notes = clip.record.setdefault("notes", {})
    notes["propagated"] = made
    clip.record["labels"] = clip.labels.relative_to(clip.root).as_posix()
    return Filled(clip.name, len(clip.manual), len(made), still_open)


@torch.inference_mode()
def _draw_box(model: Sa2VA, clip: Clip, box: Box, drawn: dict[int, np.ndarray]) -> None:
    """SAM-2's mask for a box, as one more label of that frame."""
    rgb = clip.read(box.frame)
    height, width = rgb.shape[:2]
    x0, y0, x1, y1 = box.corners
    prompt = Prompt.box(x0 / width, y0 / height, x1 / width, y1 / height)
    features = model.encode_image(rgb)
    decoded = model.grounder.decode(features, model.grounder.without_memory(features), prompt)
    mask = _masks(model, decoded.logits, height, width)[0]
    labels = drawn.get(box.frame, np.zeros((height, width), np.int32)).copy()
    labels[mask] = box.label
    drawn[box.frame] = labels


def _masks(model: Sa2VA, logits: torch.Tensor, height: int, width: int) -> np.ndarray:
    size = model.config.sam2.image_size
    found: np.ndarray = (images.masks_to_image(logits, size, height, width) > 0).cpu().numpy()
    return found


def _carry(
    model: Sa2VA,
    clip: Clip,
    drawn: Mapping[int, np.ndarray],
    order: Iterable[int],
    tick: Callable[[], None],
) -> dict[int, np.ndarray | None]:
    """Labels of every frame after the first drawn one in this order; None where an object is lost."""
    tracker = OnlineTracker(model.grounder)
    found: dict[int, np.ndarray | None] = {}
    known: set[str] = set()
    for t in order:
        tick()
        if t not in drawn and not known:
            continue
        rgb = clip.read(t)
        if t in drawn:
            labels = drawn[t]
            if labels.shape != rgb.shape[:2]:
                raise InputError(
                    f"{clip.labels / clip.files[t].stem}.png: is {labels.shape[1]}x{labels.shape[0]}; "
                    f"expected {rgb.shape[1]}x{rgb.shape[0]} like its picture"
                )
            for label in np.unique(labels[labels > 0]).tolist():
                mask = torch.from_numpy(labels == label)
                tracker.add(str(label), Prompt(mask=mask))
                known.add(str(label))
        seen = tracker.step(model.encode_image(rgb))
        found[t] = None if t in drawn else _labels(model, seen, rgb.shape[:2])
    return found


def _labels(model: Sa2VA, seen: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray | None:
    """One label image of all objects, the surer one where they overlap; None if one is lost."""
    if any(one.object_score <= 0 for one in seen.values()):
        return None
    height, width = int(size[0]), int(size[1])
    names = list(seen)
    logits = torch.cat([seen[name].logits for name in names])
    side = model.config.sam2.image_size
    maps = images.masks_to_image(logits, side, height, width).cpu()
    best, owner = maps.max(dim=0)
    table = torch.tensor([int(name) for name in names], dtype=torch.int32)
    labels: np.ndarray = torch.where(best > 0, table[owner], 0).numpy()
    return labels


def _agreed(
    t: int,
    drawn: Mapping[int, np.ndarray],
    forwards: np.ndarray | None,
    backwards: np.ndarray | None,
) -> np.ndarray | None:
    """The labels of a frame that nobody drew, if they can be trusted."""
    before = [d for d in drawn if d < t]
    after = [d for d in drawn if d > t]
    if before and after:
        if forwards is None or backwards is None or not _alike(forwards, backwards):
            return None
        return forwards if t - max(before) <= min(after) - t else backwards
    return forwards if before else backwards


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether every object's masks overlap by `AGREEMENT` at least."""
    for label in np.unique(np.concatenate([one[one > 0], other[other > 0]])):
        a, b = one == label, other == label
        if (a & b).sum() < AGREEMENT * (a | b).sum():
            return False
    return True


def _describe(record: dict[str, Any], names: Mapping[int, str], clip: Clip) -> None:
    """Objects that were drawn get an entry, and an expression where they have a name and none yet."""
    objects = record.setdefault("objects", {})
    labels: set[int] = set()
    for path in clip.labels.glob("*.png"):
        shown = read_labels(path)
        labels |= set(np.unique(shown[shown > 0]).tolist())
    for label in sorted(labels):
        entry = objects.setdefault(str(label), {})
        if label in names:
            entry["name"] = names[label]
    expressions = record.setdefault("expressions", [])
    meant = {name for e in expressions for name in e.get("objects", [])}
    for label, entry in objects.items():
        if label not in meant and entry.get("name"):
            expressions.append({"text": str(entry["name"]), "objects": [label]})
