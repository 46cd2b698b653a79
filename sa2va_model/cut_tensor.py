# SPDX-License-Identifier: Apache-2.0
"""A tensor of a checkpoint that has another layout than ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CutTensor:
    """One official tensor that is another one, or several, among ours.

    Attributes:
        official: its name; `#` stands for a layer number and `*` for the rest of a name.
        ours: those of its parts, in order.
        cut: takes it apart; `join`: the inverse.
    """

    official: str
    ours: tuple[str, ...]
    cut: Callable[[Tensor], tuple[Tensor, ...]]
    join: Callable[[tuple[Tensor, ...]], Tensor]
