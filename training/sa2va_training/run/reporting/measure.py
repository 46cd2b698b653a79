# SPDX-License-Identifier: Apache-2.0
"""A quick look at a model, before and after training: the same question a user would ask, through `Sa2VA.segment`.

The published protocols are in `evaluate`; this is the small table at the end of a run and its picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sa2va_model.sa2va import Sa2VA
from sa2va_training.data.sample import Dataset, Referring, Sample
from sa2va_training.metrics.overlap import ciou, giou, overlap

_EXPRESSIONS = 6  # of each sample


@dataclass(frozen=True)
class Seen:
    """One expression on one picture.

    Attributes:
        truth, guess: bool [H, W].
    """

    text: str
    kind: str
    absent: bool
    found: bool
    iou: float
    rgb: np.ndarray
    truth: np.ndarray
    guess: np.ndarray


def look(
    model: Sa2VA,
    dataset: Dataset,
    count: int,
    *,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> list[Seen]:
    """Asks about `count` samples, the same ones for the same seed.

    Args:
        tick: called after each sample.
    """
    order = np.random.default_rng(seed).permutation(len(dataset))
    out: list[Seen] = []
    asked = 0
    for index in order.tolist():
        if asked == count:
            break
        seen = _ask(model, dataset[index], np.random.default_rng([seed, index]))
        if seen:
            asked += 1
            out += seen
            tick()
    return out


def _ask(model: Sa2VA, sample: Sample, rng: np.random.Generator) -> list[Seen]:
    """The answers to some expressions of a sample; none where nobody annotated what they mean."""
    if not sample.frames:
        return []
    frame = _best_frame(sample)
    usable = [
        r
        for r in sample.referrings
        if r.absent or (r.target is not None and r.target.masks[frame] is not None)
    ]
    if not usable:
        return []
    rgb = sample.frames[frame].read()
    chosen = [usable[int(i)] for i in rng.permutation(len(usable))[:_EXPRESSIONS]]
    return [_one(model, rgb, referring, frame) for referring in chosen]


def _best_frame(sample: Sample) -> int:
    """An annotated frame in the middle of a clip."""
    known = [
        t
        for t in range(len(sample.frames))
        if any(r.target is not None and r.target.masks[t] is not None for r in sample.referrings)
    ]
    return known[len(known) // 2] if known else 0


def _one(model: Sa2VA, rgb: np.ndarray, referring: Referring, frame: int) -> Seen:
    height, width = rgb.shape[:2]
    known = None if referring.target is None else referring.target.masks[frame]
    truth = np.zeros((height, width), bool) if known is None else known.read(height, width)
    answer = model.segment(rgb, referring.text)
    guess = np.zeros((height, width), bool)
    for mask in answer.masks:
        guess |= mask
    iou = overlap(guess, truth).iou
    absent = not truth.any()
    return Seen(referring.text, referring.kind, absent, bool(guess.any()), iou, rgb, truth, guess)


def figures(seen: Sequence[Seen]) -> dict[str, float]:
    """How well expressions were understood.

    Returns:
        `giou`, `ciou`: over what is there, something that is not found counts 0; `found`: how much of it got a mask;
        `refused`: how much of what is not there got none; `giou_all`: gIoU as published, over all expressions, where
        something absent counts 1 if it got no mask and else 0.
    """
    there = [s for s in seen if not s.absent]
    gone = [s for s in seen if s.absent]
    out: dict[str, float] = {"expressions": len(seen)}
    if there:
        overlaps = [overlap(s.guess, s.truth) for s in there]
        out["giou"] = round(giou(overlaps), 4)
        out["ciou"] = round(ciou(overlaps), 4)
        out["found"] = round(float(np.mean([s.found for s in there])), 4)
    if there and gone:
        out["giou_all"] = round(giou([overlap(s.guess, s.truth) for s in seen]), 4)
    if gone:
        out["refused"] = round(float(np.mean([not s.found for s in gone])), 4)
    return out


def draw_comparison(before: Sequence[Seen], after: Sequence[Seen], path: Path) -> None:
    """`qualitative.png`: rows of pictures: what is meant (green), before and after (orange), with IoU."""
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if not a.absent]
    if not pairs:
        return
    step = max(1, len(pairs) // 8)
    rows = []
    for old, new in pairs[::step][:8]:
        cells = [
            _cell(new.rgb, new.truth, f"{new.text}", (60, 180, 60)),
            _cell(old.rgb, old.guess, f"before {old.iou:.2f}", (20, 140, 255)),
            _cell(new.rgb, new.guess, f"after {new.iou:.2f}", (20, 140, 255)),
        ]
        rows.append(np.concatenate(cells, 1))
    half = (len(rows) + 1) // 2
    left, right = rows[:half], rows[half:]
    while len(right) < half:
        right.append(np.full_like(left[0], 255))
    gap = np.full((left[0].shape[0] * half, 16, 3), 255, np.uint8)
    sheet = np.concatenate([np.concatenate(left), gap, np.concatenate(right)], 1)
    cv2.imwrite(str(path), sheet)


def draw_seen(seen: Sequence[Seen]) -> np.ndarray | None:
    """What was answered: rows of what is meant (green) and what was marked (orange), uint8 [H, W, 3]; None if empty."""
    if not seen:
        return None
    rows = [
        np.concatenate(
            [
                _cell(one.rgb, one.truth, one.text, (60, 180, 60)),
                _cell(one.rgb, one.guess, f"IoU {one.iou:.2f}", (20, 140, 255)),
            ],
            1,
        )
        for one in seen
    ]
    half = (len(rows) + 1) // 2
    rows += [np.full_like(rows[0], 255)] * (2 * half - len(rows))
    sheet = np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], 1)
    return np.ascontiguousarray(sheet[:, :, ::-1])


def _cell(
    rgb: np.ndarray, mask: np.ndarray, text: str, colour: tuple[int, int, int], side: int = 240
) -> np.ndarray:
    """One picture with a mask and a line of text above it, BGR."""
    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    picture = cv2.resize(rgb[:, :, ::-1], size, interpolation=cv2.INTER_AREA)
    shape = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    tinted = picture.copy()
    tinted[shape > 0] = 0.55 * picture[shape > 0] + 0.45 * np.array(colour)
    edges = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(tinted, edges, -1, colour, 2)
    cell = np.full((side + 24, side, 3), 255, np.uint8)
    top, left = 24 + (side - size[1]) // 2, (side - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = tinted
    words = text if len(text) <= 34 else text[:32] + ".."
    cv2.putText(
        cell,
        words.encode("ascii", "replace").decode(),
        (4, 16),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.4,
        (0, 0, 0),
        1,
        cv2.LINE_AA,
    )
    return cell
