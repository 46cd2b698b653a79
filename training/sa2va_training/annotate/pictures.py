# SPDX-License-Identifier: Apache-2.0
"""What a captioner is shown of an object: a crop, the picture without the others, and frames with a yellow border."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

YELLOW = (255, 220, 0)
_MARGIN = 0.3


def largest(masks: np.ndarray) -> int:
    """The frame of bool [T, H, W] that shows most."""
    return int(masks.sum((1, 2)).argmax())


def crop(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The surroundings of an object, nothing hidden."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    dy, dx = round((y1 - y0) * _MARGIN) + 4, round((x1 - x0) * _MARGIN) + 4
    return np.ascontiguousarray(rgb[max(y0 - dy, 0) : y1 + dy, max(x0 - dx, 0) : x1 + dx])


def alone(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with everything but the object in white."""
    out = np.full_like(rgb, 255)
    out[mask] = rgb[mask]
    return out


def bordered(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with a yellow line around the object."""
    shown = np.ascontiguousarray(rgb.copy())
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, edges, -1, YELLOW, max(2, min(rgb.shape[:2]) // 160))
    return shown


def spread(frames: Sequence[np.ndarray], masks: np.ndarray, count: int = 8) -> list[np.ndarray]:
    """So many frames from the whole clip, first and last included, with the object's border where it is seen."""
    chosen = sorted({round(i) for i in np.linspace(0, len(frames) - 1, count)})
    return [bordered(frames[t], masks[t]) for t in chosen]
