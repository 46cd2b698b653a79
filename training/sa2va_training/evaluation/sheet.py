# SPDX-License-Identifier: Apache-2.0
"""`qualitative.png`: some questions with what is meant (green line) and what was marked (orange)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_training.data.masks import resize_mask
from sa2va_training.evaluation.scoring import Look

SIDE, LINE, MARGIN = 300, 17, 6
_COLUMNS = 4
_LETTERS = 42  # of a line
_TRUE, _MARKED = (70, 200, 70), (255, 140, 20)  # RGB


def draw_cell(look: Look) -> np.ndarray:
    """One question: uint8 [SIDE + text, SIDE, 3], RGB."""
    height, width = look.rgb.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.resize(look.rgb, (size[1], size[0]), interpolation=method).astype(np.float32)
    if look.guess is not None:
        inside = resize_mask(look.guess, *size)
        picture[inside] = 0.5 * picture[inside] + 0.5 * np.array(_MARKED, np.float32)
    shown = np.ascontiguousarray(picture.astype(np.uint8))
    if look.truth is not None:
        outline = resize_mask(look.truth, *size).astype(np.uint8)
        edges, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, edges, -1, _TRUE, 2)
    cell = np.full((SIDE + 5 * LINE + 2 * MARGIN, SIDE, 3), 255, np.uint8)
    top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    cell[top : top + size[0], left : left + size[1]] = shown
    lines = [(line, (0, 0, 0)) for line in _wrapped(look.asked, 2)]
    lines += [(line, (0, 80, 160)) for line in _wrapped(look.said, 5 - len(lines))]
    for i, (line, colour) in enumerate(lines):
        place = (MARGIN, SIDE + (i + 1) * LINE)
        cv2.putText(cell, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
    return cell


def _wrapped(text: str, limit: int) -> list[str]:
    """At most `limit` lines; OpenCV's font has ASCII only."""
    plain = text.encode("ascii", "replace").decode()
    lines = textwrap.wrap(plain, _LETTERS) or [""]
    if len(lines) > limit:
        lines = [*lines[: limit - 1], lines[limit - 1][: _LETTERS - 4] + " ..."]
    return lines


def write_sheet(cells: Sequence[np.ndarray], path: Path) -> None:
    """The cells as one PNG; nothing without cells.

    Raises:
        InputError: the file cannot be written.
    """
    if not cells:
        return
    columns = min(_COLUMNS, len(cells))
    blank = np.full_like(cells[0], 255)
    padded = [*cells, *[blank] * (-len(cells) % columns)]
    rows = [
        np.concatenate(_spaced(padded[i : i + columns]), axis=1)
        for i in range(0, len(padded), columns)
    ]
    ok, data = cv2.imencode(".png", np.concatenate(rows)[:, :, ::-1])
    if not ok:
        raise RuntimeError(f"{path}: OpenCV cannot encode the sheet")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}, expected a file that can be written"
        ) from error


def _spaced(cells: Sequence[np.ndarray]) -> list[np.ndarray]:
    gap = np.full((cells[0].shape[0], MARGIN, 3), 255, np.uint8)
    return [part for cell in cells for part in (cell, gap)]
