# SPDX-License-Identifier: Apache-2.0
"""When a frame deserves a distractor-resolving memory, after DAM4SAM (arXiv 2411.17576, section 3.2).

A frame tells the object from something like it if the decoder had another mask that was rejected, while the chosen one
is sure and as large as it used to be. SAM-2 weights with several candidates bring their own alternatives; the mask of
the [SEG] embedding (or of memory, where that was not taken) is one more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sa2va_model.tracking.judgement.motion import box_overlaps, boxes

HISTORY = 10  # areas; the median of them is what the area is compared with
AREA_SHARE = 0.2
APART = 0.7  # IoU of the chosen box and the box of both masks, at most
REST = 5  # frames between two such memories


class DistractorRule:
    """The rule for a fixed number of objects.

    Args:
        rows: how many.
        sure: evidence from which on a mask is sure.
    """

    def __init__(self, rows: int, device: torch.device, sure: float) -> None:
        self._areas = torch.full((rows, HISTORY), torch.nan, device=device)
        self._written = torch.zeros(rows, dtype=torch.long, device=device)
        self._rested = torch.zeros(rows, dtype=torch.long, device=device)
        self._sure = sure

    def forget(self, row: int) -> None:
        """The row belongs to another object."""
        self._areas[row] = torch.nan
        self._written[row] = self._rested[row] = 0

    def __call__(
        self,
        rows: Tensor,
        logits: Tensor,
        alternatives: Tensor,
        evidence: Tensor,
        trusted: Tensor,
    ) -> Tensor:
        """Which frames resolve a distractor.

        Args:
            rows: int64 [N].
            logits: [N, 1, H, W], the masks that were taken.
            alternatives: [N, A, H, W], masks that were not, the taken ones among them do no harm.
            evidence: [N], that the taken masks are right.
            trusted: bool [N], their areas are remembered.

        Returns:
            bool [N].
        """
        size = (logits > 0).float().mean((1, 2, 3))
        usual = self._areas[rows].nanmedian(dim=1).values
        alike = (size - usual).abs() <= AREA_SHARE * usual  # false without a history
        own = boxes(logits)
        count = alternatives.shape[1]
        both = torch.maximum(alternatives, logits.expand(-1, count, -1, -1))
        joint = boxes(both.flatten(0, 1)[:, None]).reshape(-1, count, 4)
        apart = (box_overlaps(own[:, None], joint) <= APART).any(dim=1)
        rested = self._rested[rows] >= REST
        chosen = alike & apart & rested & trusted & (evidence >= self._sure)
        self._rested[rows] = torch.where(chosen, 0, self._rested[rows] + 1)
        slot = self._written[rows] % HISTORY
        self._areas[rows, slot] = torch.where(trusted, size, self._areas[rows, slot])
        self._written[rows] += trusted.long()
        return chosen
