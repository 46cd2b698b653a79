# SPDX-License-Identifier: Apache-2.0
"""What happens while an object is followed: when it is first marked, lost, found again, and mistaken for another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sa2va_training.metrics.overlap import overlap

ON, OFF = 0.5, 0.1
"""IoU from which a mask is on the object, and below which it is not."""


def follow_events(
    guess: np.ndarray, truth: np.ndarray, stamps: Sequence[float]
) -> dict[str, float]:
    """Events of one object.

    Args:
        guess, truth: bool [T, H, W], on the annotated frames.
        stamps: seconds of these frames, in order.

    Returns:
        `wait`: seconds from when it is first seen to the first mask on it (left out where there is neither);
        `missed`: 1 where it is seen and never marked; `lost`: how often it went from marked to not marked while it
        was to be seen; `regained`: how often it was marked again afterwards; `switched`: how often a mask on it
        became a mask on something else; `wrong`: share of the frames on which something else is marked.
    """
    seen: np.ndarray = np.asarray(truth.any((1, 2)))
    marked: np.ndarray = np.asarray(guess.any((1, 2)))
    ious = np.array(
        [overlap(g, t).iou if s else 0.0 for g, t, s in zip(guess, truth, seen, strict=True)]
    )
    on, off = seen & (ious >= ON), ious < OFF
    out = {"wrong": float((marked & off).mean()), "missed": float(seen.any() and not on.any())}
    if seen.any() and on.any():
        out["wait"] = float(stamps[int(on.argmax())] - stamps[int(seen.argmax())])
    lost = regained = switched = 0
    state = "none"
    for t in range(len(seen)):
        if on[t]:
            regained += state == "lost"
            state = "on"
        elif state == "on" and off[t] and (seen[t] or marked[t]):
            switched += bool(marked[t])
            lost += bool(seen[t])
            state = "lost"
    return out | {"lost": float(lost), "regained": float(regained), "switched": float(switched)}
