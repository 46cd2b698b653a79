# SPDX-License-Identifier: Apache-2.0
"""What is known of a question before it is asked, by which figures are broken down, and one score for each record.

How long the words are, how large the thing is, how fast it moves, when it is first to be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Json = dict[str, Any]
_BINS: dict[str, tuple[tuple[float, str], ...]] = {
    "words": ((4, "1 to 3 words"), (8, "4 to 7 words"), (np.inf, "8 words and more")),
    "area": ((0.01, "below 1 %"), (0.05, "1 to 5 %"), (0.2, "5 to 20 %"), (np.inf, "above 20 %")),
    "motion": ((0.005, "still"), (0.03, "slow"), (np.inf, "fast")),
    "first": ((1e-9, "from the first frame"), (np.inf, "later")),
}
TITLES = {
    "kind": "kind of expression",
    "words": "length of the text",
    "area": "share of the picture that the thing covers, on average where it is seen",
    "motion": "way of its centre per frame, as a share of the picture's diagonal: still below 0.5 %, fast from 3 %",
    "first": "first seen",
}


def facts_of(asked: str, truth: np.ndarray) -> Json:
    """Facts about an expression.

    Args:
        truth: bool [T, H, W], on the annotated frames; one frame for an image.

    Returns:
        `words`; and where the thing is seen `area` (share of the picture); on clips `motion` (share of the diagonal
        per annotated frame) and `first` (share of the clip before it is seen).
    """
    out: Json = {"words": len(asked.split())}
    seen: np.ndarray = np.asarray(truth.any((1, 2)))
    if not seen.any():
        return out
    out["area"] = round(float(truth[seen].mean()), 5)
    if len(truth) > 1:
        out["first"] = round(int(seen.argmax()) / len(truth), 4)
        out["motion"] = round(_motion(truth, seen), 5)
    return out


def _motion(truth: np.ndarray, seen: np.ndarray) -> float:
    height, width = truth.shape[1:]
    places = np.flatnonzero(seen)
    rows = truth.sum(2, dtype=np.int64) @ np.arange(height)
    columns = truth.sum(1, dtype=np.int64) @ np.arange(width)
    sizes = truth.sum((1, 2), dtype=np.int64)
    centres = np.stack([rows[places], columns[places]], 1) / sizes[places, None]
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)[np.diff(places) == 1]
    return float(steps.mean() / np.hypot(height, width)) if len(steps) else 0.0


def score_of(record: Json) -> float | None:
    """One number, 0 to 1: IoU (1 where nothing is meant and nothing marked), J&F, right or not; None for captions."""
    if record.get("secret"):
        return None
    if record["task"] == "refer":
        return record["intersection"] / record["union"] if record["union"] else 1.0
    if record["task"] == "track":
        return float(record["j"] + record["f"]) / 2
    return float(record["right"]) if record["task"] == "answer" else None


def breakdown(records: Sequence[Json]) -> dict[str, dict[str, Json]]:
    """Mean score by each fact that has more than one value: fact → group → `score` and `n`."""
    scored = [(record, score) for record in records if (score := score_of(record)) is not None]
    ways: dict[str, Callable[[Json], str | None]] = {"kind": lambda r: str(r["kind"]) or None}
    ways |= {fact: lambda r, fact=fact: _group(fact, r) for fact in _BINS}  # type: ignore[misc]
    out: dict[str, dict[str, Json]] = {}
    for fact, group in ways.items():
        found: dict[str, list[float]] = {}
        for record, score in scored:
            name = group(record)
            if name is not None:
                found.setdefault(name, []).append(score)
        if len(found) > 1:
            order = [name for _, name in _BINS[fact]] if fact in _BINS else sorted(found)
            out[fact] = {
                name: {"score": float(np.mean(found[name])), "n": len(found[name])}
                for name in order
                if name in found
            }
    return out


def _group(fact: str, record: Json) -> str | None:
    value = record.get("facts", {}).get(fact)
    if value is None:
        return None
    return next(name for limit, name in _BINS[fact] if value < limit)
