# SPDX-License-Identifier: Apache-2.0
"""Pictures of a batch as vision models take them: tiles of one size, or patches of pictures of any size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Patches:
    """Pictures of any sizes as the vision model of the Qwen-VL family takes them.

    Attributes:
        values: float32 [P, D], the patches of all pictures.
        grids: long [N, 3], (1, rows, columns) of each.
    """

    values: Tensor
    grids: Tensor

    def __len__(self) -> int:
        return len(self.grids)

    def __getitem__(self, part: slice) -> Patches:
        ends = [0, *self.grids.prod(1).cumsum(0).tolist()]
        first, last, _ = part.indices(len(self))
        return Patches(self.values[ends[first] : ends[max(first, last)]], self.grids[part])

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.values.device

    def to(self, device: torch.device) -> Patches:
        """The same on another device."""
        return Patches(self.values.to(device), self.grids.to(device))


Pictures = Tensor | Patches
"""Tiles float32 [N, 3, s, s], or patches."""
