# SPDX-License-Identifier: Apache-2.0
"""How the tensors of a checkpoint and of our modules are called: tables that are read in both directions.

`#` stands for a layer number and `*` for the rest of a name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sa2va_model.cut_tensor import CutTensor

Pairs = tuple[tuple[str, str], ...]
"""Official name and ours; the first pair that fits counts."""


@dataclass(frozen=True)
class TensorMap:
    """The names of one half of a model."""

    pairs: Pairs
    cuts: tuple[CutTensor, ...] = ()


def stacked(official: str, ours: tuple[str, ...]) -> CutTensor:
    """Parts of one height, one below the other."""

    def cut(tensor: Tensor) -> tuple[Tensor, ...]:
        return tensor.chunk(len(ours))

    return CutTensor(official, ours, cut, torch.cat)
