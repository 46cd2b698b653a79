# SPDX-License-Identifier: Apache-2.0
"""Bars and histograms of an evaluation as one picture, for the report and for whoever has no browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, ROW, LEFT, GAP = 900, 24, 250, 34
_BLUE, _GREY, _RED = (180, 110, 40), (225, 225, 225), (70, 70, 200)  # BGR
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_plots(
    scores: Sequence[float],
    parts: Mapping[str, Mapping[str, Any]],
    titles: Mapping[str, str],
    path: Path,
) -> None:
    """`plots.png`: how scores are spread, and their mean in each group of each fact.

    Args:
        parts: of `facts.breakdown`.
        titles: of the facts.
    """
    counts, _ = np.histogram(scores, bins=10, range=(0, 1))
    spread = {f"{n / 10:.1f} to {(n + 1) / 10:.1f}": int(count) for n, count in enumerate(counts)}
    highest = max(spread.values(), default=1) or 1
    rows = [
        (
            f"questions by score ({len(scores)})",
            [(k, v / highest, str(v)) for k, v in spread.items()],
        )
    ]
    for fact, groups in parts.items():
        bars = [(name, g["score"], f"{g['score']:.3f}  (n {g['n']})") for name, g in groups.items()]
        rows.append((f"mean score by {titles.get(fact, fact)}", bars[:20]))
    _write(rows, path)


def draw_gains(gains: Sequence[float], path: Path) -> None:
    """How much one model wins and loses against another, -1 to 1."""
    counts, edges = np.histogram(gains, bins=20, range=(-1, 1))
    highest = max(int(counts.max()), 1)
    bars = [
        (f"{low:+.1f} to {high:+.1f}", count / highest, str(int(count)))
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    _write([(f"questions by gain of B over A ({len(gains)})", bars)], path, half=10)


def _write(
    rows: Sequence[tuple[str, Sequence[tuple[str, float, str]]]], path: Path, half: int = 0
) -> None:
    height = sum(GAP + ROW * len(bars) for _, bars in rows) + GAP // 2
    canvas = np.full((height, WIDTH, 3), 255, np.uint8)
    y = 0
    for title, bars in rows:
        _text(canvas, title, 8, y + 22, 0.5)
        y += GAP
        for n, (name, share, words) in enumerate(bars):
            end = LEFT + round(min(max(share, 0.0), 1.0) * (WIDTH - LEFT - 130))
            cv2.rectangle(canvas, (LEFT, y + 4), (WIDTH - 130, y + ROW - 4), _GREY, -1)
            cv2.rectangle(
                canvas, (LEFT, y + 4), (end, y + ROW - 4), _RED if n < half else _BLUE, -1
            )
            _text(canvas, name[:30], 20, y + 17, 0.42)
            _text(canvas, words, WIDTH - 122, y + 17, 0.42)
            y += ROW
    cv2.imwrite(str(path), canvas)


def _text(canvas: np.ndarray, words: str, x: int, y: int, size: float) -> None:
    plain = words.encode("ascii", "replace").decode()
    cv2.putText(canvas, plain, (x, y), _FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
