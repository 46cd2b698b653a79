# SPDX-License-Identifier: Apache-2.0
"""Which pieces of a mask are the object: a mask may take in a part of what stands beside it. NumPy and OpenCV only."""

from __future__ import annotations

import cv2
import numpy as np

LOOKED_AT = 12  # largest pieces; the others are crumbs
TOUCH = 0.03  # metres between two surfaces at one metre that still belong to one thing
BEFORE = 0.03  # metres by which what stands before both pieces is nearer than they are
SAMPLES = 200  # pixels of a piece that are compared


def main_pieces(inside: np.ndarray, z: np.ndarray, focal: float) -> np.ndarray:
    """The largest piece, and those that belong to the same thing.

    Pieces are parted by steps in depth, or by what is not in the mask. One belongs to the largest if it comes near it
    in space (the inside of a bowl and its rim), or if something stands before both where they are parted.

    Args:
        inside: bool [H, W], pixels of the mask that lie on no step in depth, those without a measurement among them.
        z: float32 [H, W], metres, NaN = not measured; also outside the mask.
        focal: pixels.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8))
    if count <= 2:
        return inside
    largest, *others = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:LOOKED_AT]
    measured = (labels > 0) & np.isfinite(z) & (z > 0)
    first = _sample(labels, largest, stats, measured)
    same = [n for n in others if _belongs(first, _sample(labels, n, stats, measured), z, focal)]
    pieces: np.ndarray = np.isin(labels, [largest, *same])
    return pieces


def _sample(labels: np.ndarray, label: int, stats: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Rows and columns of a piece's outline where it is measured, int [N, 2]; maybe none."""
    x, y, width, height = stats[label, :4]
    window = (slice(y, y + height), slice(x, x + width))
    piece = np.pad(labels[window] == label, 1).view(np.uint8)
    inner = cv2.erode(piece, np.ones((3, 3), np.uint8))
    outline = (piece > inner)[1:-1, 1:-1] & measured[window]
    places = np.argwhere(outline)
    chosen = np.linspace(0, len(places) - 1, min(len(places), SAMPLES)).astype(int)
    return places[chosen] + (y, x)


def _belongs(one: np.ndarray, two: np.ndarray, z: np.ndarray, focal: float) -> bool:
    """Whether two pieces, of which outlines [N, 2] and [M, 2] are given, are of one thing."""
    if not len(one) or not len(two):
        return False
    here, there = z[one[:, 0], one[:, 1]], z[two[:, 0], two[:, 1]]
    middle = float(np.median(here))
    flat = np.linalg.norm(one[:, None] - two[None], axis=2) * middle / focal
    gaps = np.hypot(flat, here[:, None] - there[None])
    if gaps.min() < TOUCH * max(1.0, middle):
        return True
    a, b = np.unravel_index(int(flat.argmin()), flat.shape)
    way = np.linspace(one[a], two[b], 32).round().astype(int)
    between = z[way[:, 0], way[:, 1]]
    between = between[between > 0]  # both ends are measured
    nearest = min(float(here[a]), float(there[b])) - BEFORE
    return bool(between.min() < nearest)
