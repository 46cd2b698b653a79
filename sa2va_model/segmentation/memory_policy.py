# SPDX-License-Identifier: Apache-2.0
"""The places where something other than SAM-2 itself may decide: which mask is taken, and what is remembered.

`OnlineTracker` calls its policy once a step for all tracked objects together. Every object has a row, 0 to
`max_objects` - 1, for as long as it lives, so that a policy keeps its state in tables of fixed size and indexes
them with `rows`. Calls get and give tensors on the model's device and must not read them back (`.item()`, `.tolist()`,
`bool()`): on a GPU that would stop the queue. What the host is to know of it is read back
with the tracker's own numbers (`measured`).

Order in a step: `choose`, `prefer`, `admit`, then memory is written. Prompted frames are told by `prompted`; they are
always remembered, as conditioning frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sa2va_model.segmentation.types import Decoded, ImageFeatures


@dataclass(frozen=True)
class Admission:
    """What is remembered of one frame.

    Attributes:
        recent: bool [N]; the frame enters the ring of recent memories and makes the others older.
        distractor: bool [N]; the frame also enters a distractor-resolving slot, read without age like a
            prompted frame (DAM4SAM, arXiv 2411.17576). Needs `TrackerConfig.distractor_slots`; None = none.
    """

    recent: Tensor
    distractor: Tensor | None = None


class MemoryPolicy(Protocol):
    """Chooses among the decoder's candidates and admits frames to memory."""

    def frame(self, features: ImageFeatures) -> None:
        """A step begins: the next calls are about this image."""

    def begin(self, row: int) -> None:
        """A new object has this row now; forget what was known of the row."""

    def prompted(self, row: int, decoded: Decoded) -> None:
        """The object of this row was prompted: `decoded` (N = 1) is its mask."""

    def choose(self, rows: Tensor, decoded: Decoded) -> Tensor | None:
        """Which candidate is taken.

        Args:
            rows: int64 [N].
            decoded: M candidates for each; `decoded.best` is SAM-2's choice.

        Returns:
            int64 [N], 0 to M - 1, or None for SAM-2's choice.
        """

    def prefer(self, rows: Tensor, memory: Decoded, spoken: Decoded) -> Tensor:
        """Where the [SEG] embedding's mask is taken in place of memory's.

        Args:
            rows: int64 [K], objects that have an embedding.
            memory, spoken: of those K objects.

        Returns:
            bool [K].
        """

    def admit(self, rows: Tensor, decoded: Decoded) -> Admission:
        """What is remembered; `decoded` holds the masks that were taken."""

    def measured(self, rows: Tensor) -> Tensor | None:
        """What was measured on the masks of these rows, float32 [N, K], for `Observation.measured`; None = nothing."""


class PlainPolicy:
    """SAM-2's own behaviour, or the simplest gate.

    Args:
        min_quality: remember a frame only where the object is seen, the mask is not empty and its predicted IoU is at
            least this; None = remember every frame.
        scored: the model's object scores are trained and count.
        margin, overlap: see `TrackerConfig.reuse_embedding`.
    """

    def __init__(
        self,
        min_quality: float | None = None,
        *,
        scored: bool = True,
        margin: float = 0.1,
        overlap: float = 0.1,
    ) -> None:
        self._min_quality, self._scored = min_quality, scored
        self._margin, self._overlap = margin, overlap

    def frame(self, features: ImageFeatures) -> None:
        """Nothing is kept."""

    def begin(self, row: int) -> None:
        """Nothing is kept."""

    def prompted(self, row: int, decoded: Decoded) -> None:
        """Nothing is kept."""

    def choose(self, rows: Tensor, decoded: Decoded) -> Tensor | None:
        """SAM-2's choice."""
        return None

    def prefer(self, rows: Tensor, memory: Decoded, spoken: Decoded) -> Tensor:
        """Where its predicted IoU is higher by the margin, and both overlap."""
        better = spoken.quality > memory.quality + self._margin
        return (
            better & (overlaps(memory, spoken) >= self._overlap) & (spoken.object_scores[:, 0] > 0)
        )

    def admit(self, rows: Tensor, decoded: Decoded) -> Admission:
        """Everything, or what passes the gate."""
        if self._min_quality is None:
            return Admission(torch.ones_like(rows, dtype=torch.bool))
        kept = (decoded.quality >= self._min_quality) & (decoded.logits > 0).flatten(1).any(1)
        if self._scored:
            kept &= decoded.object_scores[:, 0] > 0
        return Admission(kept)

    def measured(self, rows: Tensor) -> Tensor | None:
        """Nothing."""
        return None


def overlaps(one: Decoded, other: Decoded) -> Tensor:
    """IoU of N pairs of masks, float [N]; 0 where both are empty."""
    first, second = (one.logits > 0).flatten(1), (other.logits > 0).flatten(1)
    return (first & second).sum(1) / (first | second).sum(1).clamp(min=1)
