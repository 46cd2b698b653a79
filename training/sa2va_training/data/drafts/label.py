# SPDX-License-Identifier: Apache-2.0
"""Words become masks on all frames of a folder: drafts, kept where words, memory and a second look agree.

Every n-th frame is looked at twice (`looks.py`). Memory carries what was found from one such frame to the others: where
most of those that it reaches find it in the same place, they are kept, and so is a frame on which all three say that
it is not there.
Between kept frames masks are filled in as `propagate` does. The rest stays open and is listed for a person, whose
drawings (label images) count as kept the next time.

FOLDER/label/open.jsonl      one line for each frame that was looked at and left open: words, reason, picture
FOLDER/label/index.html      the same to look at: words green, memory blue
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.frames import read_image
from sa2va_model.sa2va import Sa2VA
from sa2va_training.data.clip_masks import Clip, agreed, carry, read_records, write_records
from sa2va_training.data.drafts.looks import DoubleLook, look_twice, same
from sa2va_training.data.masks import encode_mask
from sa2va_training.metrics.overlap import overlap

EVERY = 10
_GREEN, _BLUE = (60, 180, 60), (40, 110, 240)


@dataclass(frozen=True)
class OpenFrame:
    """A frame that a person has to look at.

    Attributes:
        iou: of what disagrees; 0 = one of them saw nothing.
        words, memory: bool [H, W], None = there is none.
    """

    file: Path
    expression: str
    reason: str
    iou: float
    words: np.ndarray | None = field(default=None, repr=False)
    memory: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Drafted:
    """What became of one expression in one clip or picture.

    Attributes:
        looked, kept: frames that were looked at, and those of them that were kept.
        filled: masks between them.
        number: of the object, for whoever draws it; "" = it was never found.
    """

    place: str
    expression: str
    looked: int
    kept: int
    filled: int
    open: tuple[OpenFrame, ...]
    number: str = ""


def label_folder(
    model: Sa2VA,
    root: Path,
    expressions: Sequence[str],
    *,
    clips: Sequence[str] = (),
    every: int = EVERY,
    tick: Callable[[], None] = lambda: None,
) -> list[Drafted]:
    """Drafts masks for what expressions mean in the clips and pictures of a simple folder.

    Masks that come from elsewhere are never replaced: an object of that name that nobody drafted is left as it is.

    Args:
        clips: only these (`images/run1`); () = all clips and pictures.
        every: frames from one look to the next.
        tick: called for each frame that was looked at or tracked.

    Raises:
        InputError: no expression, the folder cannot be read, or a clip is not in it.
    """
    expressions = list(dict.fromkeys(words.strip() for words in expressions))
    if not expressions or not all(expressions):
        raise InputError("expected an expression such as -e 'the blue mug'")
    records = read_records(root)
    chosen = [r for r in records if not clips or str(r.get("clip")) in clips]
    if missing := set(clips) - {str(r.get("clip")) for r in chosen}:
        raise InputError(f"{root}: has no clip {min(missing)!r}")
    done: list[Drafted] = []
    for number, record in enumerate(records):
        if record not in chosen:
            continue
        wanted = [words for words in expressions if not _foreign(record, words)]
        if wanted and "clip" in record:
            done += _Labelling(model, Clip(root, record, number), every, tick).label(wanted)
        elif wanted and "image" in record:
            done += _label_picture(model, root, record, wanted)
            tick()
        write_records(root, records)
    _write_open(root, [one for clip in done for one in clip.open])
    return done


def _foreign(record: Mapping[str, Any], words: str) -> bool:
    """Whether masks of that name came from elsewhere."""
    drafts = (record.get("notes") or {}).get("drafts", {})
    return any(
        entry.get("name") == words and "masks" in entry and number not in drafts
        for number, entry in (record.get("objects") or {}).items()
    )


def _number(record: Mapping[str, Any], words: str, taken: Sequence[int] = ()) -> str:
    """The number of the object that is called so, or the next free one."""
    objects: Mapping[str, Any] = record.get("objects") or {}
    for number, entry in objects.items():
        if entry.get("name") == words:
            return number
    used = {int(number) for number in objects if number.isdigit()} | set(taken)
    return str(max(used, default=0) + 1)


class _Labelling:
    """One clip."""

    def __init__(self, model: Sa2VA, clip: Clip, every: int, tick: Callable[[], None]) -> None:
        self.model, self.clip, self.tick = model, clip, tick
        self.drawn = clip.drawn()
        self.count = len(clip.files)
        self.places = range(0, self.count, every)

    def label(self, expressions: Sequence[str]) -> list[Drafted]:
        looks: dict[int, list[DoubleLook]] = {}
        for t in self.places:
            looks[t] = look_twice(self.model, self.clip.read(t), expressions)
            self.tick()
        return [
            self._expression(words, {t: looks[t][n] for t in self.places})
            for n, words in enumerate(expressions)
        ]

    def _expression(self, words: str, looks: Mapping[int, DoubleLook]) -> Drafted:
        labels = sorted({int(v) for shown in self.drawn.values() for v in np.unique(shown) if v})
        number = _number(self.clip.record, words, labels)
        truth = {
            t: shown == int(number) for t, shown in self.drawn.items() if int(number) in labels
        }
        kept, memory = self._groups(looks, truth)
        gone = {
            t: np.zeros_like(look.first)
            for t, look in looks.items()
            if kept and t not in truth and not look.found and look.sure and memory.get(t) is None
        }
        anchors = {**kept, **gone, **truth}
        left = tuple(
            self._open(t, words, look, memory.get(t))
            for t, look in looks.items()
            if t not in anchors
        )
        if not kept and not any(look.found for look in looks.values()):
            nothing = np.zeros_like(looks[0].first)
            left = (
                OpenFrame(self.clip.files[0], words, "not found in the whole clip", 0.0, nothing),
            )
            return Drafted(self.clip.name, words, len(looks), 0, 0, left)
        filled = self._write(words, number, anchors if kept else {}, truth)
        counted = len([t for t in looks if t in anchors])
        return Drafted(self.clip.name, words, len(looks), counted, filled, left, number)

    def _groups(
        self, looks: Mapping[int, DoubleLook], truth: Mapping[int, np.ndarray]
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray | None]]:
        """Frames on which memory and words see the same thing, and what memory sees on all frames.

        What was drawn is believed. Then each look in turn, the surest first, is carried through the clip; it is kept
        where others confirm it, most of those that memory reaches, and no mask that is kept already is elsewhere.
        """
        kept: dict[int, np.ndarray] = {t: mask for t, mask in truth.items() if mask.any()}
        memory: dict[int, np.ndarray | None] = {}
        if truth:
            memory = self._carried(truth)
            kept |= self._confirmed(looks, memory)
        seeds = sorted(
            (t for t, look in looks.items() if look.found and look.sure),
            key=lambda t: -looks[t].iou,
        )
        for seed in seeds:
            if seed in kept or memory.get(seed) is not None:
                continue  # confirmed, or memory of what is kept is somewhere else
            seen = self._carried({seed: looks[seed].first})
            found = self._confirmed(looks, seen)
            clash = any(
                (other := memory.get(t)) is not None and other.any() and not same(other, mask)
                for t, mask in found.items()
            )
            reached = sum(seen.get(t) is not None for t in looks)
            if found and 2 * (len(found) + 1) > reached + 1 and not clash:
                kept |= found | {seed: looks[seed].first}
                memory |= {t: m for t, m in seen.items() if memory.get(t) is None}
                memory[seed] = looks[seed].first
        return kept, memory

    def _confirmed(
        self, looks: Mapping[int, DoubleLook], memory: Mapping[int, np.ndarray | None]
    ) -> dict[int, np.ndarray]:
        """Looks that found, twice, what memory sees there."""
        found = {}
        for t, look in looks.items():
            seen = memory.get(t)
            if seen is not None and look.found and look.sure and same(look.first, seen):
                found[t] = look.first
        return found

    def _carried(self, anchors: Mapping[int, np.ndarray]) -> dict[int, np.ndarray | None]:
        """What memory of some frames sees on all the others; None = lost."""
        forwards, backwards = self._both(anchors)
        return {
            t: agreed(t, anchors, forwards[t].get(1), backwards[t].get(1))
            for t in range(self.count)
            if t not in anchors
        }

    def _both(self, anchors: Mapping[int, np.ndarray]) -> tuple[Any, Any]:
        drawn = {t: mask.astype(np.int32) for t, mask in anchors.items()}
        orders = range(self.count), range(self.count - 1, -1, -1)
        forwards, backwards = (
            carry(self.model, self.clip, drawn, order, self.tick) for order in orders
        )
        return forwards, backwards

    def _open(self, t: int, words: str, look: DoubleLook, seen: np.ndarray | None) -> OpenFrame:
        reason, iou = _reason(look, seen)
        return OpenFrame(self.clip.files[t], words, reason, iou, look.first, seen)

    def _write(
        self,
        words: str,
        number: str,
        anchors: Mapping[int, np.ndarray],
        truth: Mapping[int, np.ndarray],
    ) -> int:
        """Put the masks into the record; how many were filled in. Without anchors the object has its number alone."""
        carried = self._carried(anchors) if anchors else dict.fromkeys(range(self.count))
        masks = [anchors[t] if t in anchors else carried[t] for t in range(self.count)]
        coded = [None if m is None else encode_mask(m) if m.any() else [] for m in masks]
        record = self.clip.record
        record.setdefault("objects", {})[number] = {"name": words, "masks": coded}
        if anchors:
            _say(record, words, number)
        notes = record.setdefault("notes", {})
        notes["drawn"] = [self.clip.files[t].stem for t in sorted(self.drawn)]
        stems = [self.clip.files[t].stem for t in sorted(anchors) if t not in truth]
        notes.setdefault("drafts", {})[number] = stems
        return sum(m is not None for t, m in enumerate(masks) if t not in anchors)


def _reason(look: DoubleLook, memory: np.ndarray | None) -> tuple[str, float]:
    """Why a look was not kept, and the IoU of what disagrees."""
    if not look.sure:
        return "a second look says something else", look.iou
    if not look.found:
        return "words deny it, memory sees it" if memory is not None else "never confirmed", 0.0
    if memory is None:
        return "only words see it, memory of no other frame leads there", 0.0
    return "memory is elsewhere", overlap(look.first, memory).iou


def _label_picture(
    model: Sa2VA, root: Path, record: dict[str, Any], expressions: Sequence[str]
) -> list[Drafted]:
    """A single picture has no memory: two looks have to do."""
    file = root / str(record["image"])
    found = []
    for words, look in zip(
        expressions, look_twice(model, read_image(file), expressions), strict=True
    ):
        if look.found and look.sure:
            number = _number(record, words)
            record.setdefault("objects", {})[number] = {
                "name": words,
                "masks": encode_mask(look.first),
            }
            _say(record, words, number)
            record.setdefault("notes", {}).setdefault("drafts", {})[number] = [file.stem]
            found.append(Drafted(str(record["image"]), words, 1, 1, 0, (), number))
            continue
        reason = "not found" if look.sure else "a second look says something else"
        left = OpenFrame(file, words, reason, look.iou if look.found else 0.0, look.first)
        found.append(Drafted(str(record["image"]), words, 1, 0, 0, (left,)))
    return found


def _say(record: dict[str, Any], words: str, number: str) -> None:
    """The expression of an object, once."""
    said = record.setdefault("expressions", [])
    if not any(e.get("text") == words and e.get("objects") == [number] for e in said):
        said.append({"text": words, "objects": [number]})


def _write_open(root: Path, frames: Sequence[OpenFrame]) -> None:
    """The list for a person, worst first, with pictures."""
    folder = root / "label"
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for old in (folder / "pictures").glob("*.jpg"):
        old.unlink()
    lines, rows = [], []
    for number, one in enumerate(sorted(frames, key=lambda f: f.iou)):
        file = one.file.relative_to(root).as_posix()
        picture = f"pictures/{number:04d}.jpg"
        cv2.imwrite(str(folder / picture), _draw(one)[:, :, ::-1])
        line = {
            "file": file,
            "expression": one.expression,
            "reason": one.reason,
            "iou": round(one.iou, 3),
        }
        lines.append(json.dumps(line | {"picture": picture}, ensure_ascii=False) + "\n")
        text = html.escape(f"{file}: {one.expression} – {one.reason} (IoU {one.iou:.2f})")
        rows.append(f'<p>{text}<br><img src="{picture}" height="240">')
    (folder / "open.jsonl").write_text("".join(lines), encoding="utf-8")
    head = "<!doctype html><meta charset=utf-8><title>left open</title><p>words green, memory blue"
    (folder / "index.html").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


def _draw(one: OpenFrame) -> np.ndarray:
    """A frame with what words (green) and memory (blue) see on it: uint8 [H, W, 3]."""
    rgb = np.ascontiguousarray(read_image(one.file))
    for mask, colour in ((one.words, _GREEN), (one.memory, _BLUE)):
        if mask is None or not mask.any():
            continue
        rgb[mask] = 0.6 * rgb[mask] + 0.4 * np.array(colour)
        edges = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(rgb, edges, -1, colour, 2)
    return rgb
