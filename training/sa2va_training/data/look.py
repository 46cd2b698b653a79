# SPDX-License-Identifier: Apache-2.0
"""A dataset to look at: what is marked on each picture, where the marks come from, and what will be asked about it.

LOOK/index.html     one row for each sample, in a browser
LOOK/sheet.png      the same as one picture
LOOK/pictures/      the frames
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_training.data.held_out import annotated
from sa2va_training.data.readers.simple import SimpleFolder
from sa2va_training.data.sample import Dataset, ObjectMasks, Referring, Sample

FRAMES, SIDE, BAR = 4, 280, 20
_COLOURS = (
    (230, 80, 60), (60, 140, 230), (70, 180, 80), (230, 170, 40), (160, 90, 210), (40, 190, 190), (240, 120, 180),
)  # fmt: skip
_STYLE = (
    "body{font:15px sans-serif;margin:2em;max-width:1300px}img{margin:2px}h2{font-size:1em;margin-bottom:.3em}"
    "li{list-style:none}.box{display:inline-block;width:.8em;height:.8em;margin-right:.5em}"
)


@dataclass(frozen=True)
class Entry:
    """What is asked with one expression.

    Attributes:
        states: for each shown frame "drawn", "filled in", "hidden" (known not to be there) or "open" (nobody knows).
    """

    text: str
    colour: tuple[int, int, int]
    states: tuple[str, ...]

    @property
    def asked(self) -> str:
        """In words."""
        kinds = {"hidden": "denied", "open": "not asked"}
        return ", ".join(kinds.get(state, f"asked ({state})") for state in self.states)


def look(dataset: Dataset, folder: Path, *, count: int = 40) -> int:
    """Draw some samples of a dataset.

    Args:
        folder: what is written to; files of an earlier look are replaced.
        count: samples with something marked, spread over the dataset.

    Returns:
        how many samples were drawn.

    Raises:
        InputError: a picture or mask cannot be read, or nothing is marked.
    """
    usable = [i for i in range(len(dataset)) if _marked(dataset[i])]
    if not usable:
        raise InputError(f"{dataset.name}: nothing is marked in it; expected masks or expressions")
    spread = sorted({int(i) for i in np.linspace(0, len(usable) - 1, min(count, len(usable)))})
    drawn = _drawn_frames(dataset)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows, parts = [], []
    for number, place in enumerate(spread):
        sample = dataset[usable[place]]
        chosen = _frames(sample)
        entries = list(_entries(sample, chosen, drawn))
        pictures = [_picture(sample, t, n, entries) for n, t in enumerate(chosen)]
        names = [f"pictures/{number:03d}_{n}.jpg" for n in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            cv2.imwrite(str(folder / name), picture[:, :, ::-1])
        rows.append(_strip(pictures))
        parts.append(_html(sample, names, entries))
    cv2.imwrite(str(folder / "sheet.png"), np.concatenate(rows[:20])[:, :, ::-1])
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(dataset.name)}</title><style>{_STYLE}</style>"
    (folder / "index.html").write_text(page + "\n".join(parts) + "\n", encoding="utf-8")
    return len(spread)


def _marked(sample: Sample) -> bool:
    return bool(sample.frames and (sample.referrings or sample.targets))


def _drawn_frames(dataset: Dataset) -> Mapping[str, frozenset[str]]:
    """Frames of each recording that people drew, where a simple folder notes it."""
    found = {}
    for record in dataset.records if isinstance(dataset, SimpleFolder) else ():
        notes = record.data.get("notes")
        if isinstance(notes, Mapping) and "drawn" in notes and "clip" in record:
            found[Path(record.text("clip")).name] = frozenset(map(str, notes["drawn"]))
    return found


def _frames(sample: Sample) -> list[int]:
    """Some annotated frames, and one that is open if there is one."""
    known = [t for t in range(len(sample.frames)) if annotated(sample, t)]
    rest = [t for t in range(len(sample.frames)) if t not in known]
    wanted = FRAMES - bool(rest)
    some = {known[int(i)] for i in np.linspace(0, len(known) - 1, wanted)} if known else set()
    return sorted(some | set(rest[len(rest) // 2 : len(rest) // 2 + 1]))


def _entries(
    sample: Sample, chosen: list[int], drawn: Mapping[str, frozenset[str]]
) -> Iterator[Entry]:
    asked = sample.referrings or tuple(Referring(t.name, t) for t in sample.targets)
    for number, referring in enumerate(asked):
        states = tuple(_state(sample, referring.target, t, drawn) for t in chosen)
        if referring.absent:
            states = ("hidden",) * len(chosen)
        yield Entry(referring.text, _COLOURS[number % len(_COLOURS)], states)


def _state(
    sample: Sample, target: ObjectMasks | None, t: int, drawn: Mapping[str, frozenset[str]]
) -> str:
    mask = None if target is None else target.masks[t]
    if mask is None:
        return "open"
    if not mask.read(*sample.size()).any():
        return "hidden"
    path = Path(sample.frames[t].name)
    by_hand = drawn.get(path.parent.name)
    return "drawn" if by_hand is None or path.stem in by_hand else "filled in"


def _picture(sample: Sample, t: int, place: int, entries: list[Entry]) -> np.ndarray:
    """One frame with its masks: uint8 [SIDE + BAR, w, 3]."""
    rgb = sample.frames[t].read().astype(np.float32)
    targets = [r.target for r in sample.referrings] or list(sample.targets)
    for entry, target in zip(entries, targets, strict=True):
        mask = None if target is None else target.masks[t]
        if mask is None or entry.states[place] in ("hidden", "open"):
            continue
        inside = mask.read(*sample.size())
        rgb[inside] = 0.5 * rgb[inside] + 0.5 * np.array(entry.colour, np.float32)
    height, width = rgb.shape[:2]
    size = (max(round(width * SIDE / height), 1), SIDE)
    shown = np.full((SIDE + BAR, size[0], 3), 255, np.uint8)
    shown[BAR:] = cv2.resize(rgb.astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    words = Path(sample.frames[t].name).stem.encode("ascii", "replace").decode()
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(shown, words, (4, 14), font, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    x = 4 + 9 * len(words)
    for entry in entries:
        if entry.states[place] not in ("hidden", "open"):
            text = f"{entry.text} ({entry.states[place]})".encode("ascii", "replace").decode()
            cv2.putText(shown, text, (x, 14), font, 0.4, entry.colour, 1, cv2.LINE_AA)
            x += 8 * len(text)
    return shown


def _strip(pictures: list[np.ndarray]) -> np.ndarray:
    """A row of the sheet, always as wide."""
    row = np.full((SIDE + BAR, FRAMES * (SIDE + 100), 3), 255, np.uint8)
    joined = np.concatenate(pictures, 1)[:, : row.shape[1]]
    row[:, : joined.shape[1]] = joined
    return row


def _html(sample: Sample, names: list[str], entries: list[Entry]) -> str:
    shown = "".join(f'<img src="{name}" height="{SIDE // 2 + BAR}">' for name in names)
    lines = "".join(
        f'<li><span class=box style="background:rgb{entry.colour}"></span>{html.escape(entry.text)}'
        f" – {entry.asked}</li>"
        for entry in entries
    )
    return f"<h2>{html.escape(sample.id)}</h2>{shown}<ul>{lines}</ul>"
