# SPDX-License-Identifier: Apache-2.0
"""Rotary position codes of a square of cells, as SAM-2 has them (arXiv 2104.09864, for two axes)."""

from __future__ import annotations

import torch
from sam2.modeling.position_encoding import compute_axial_cis
from torch import Tensor


def square_codes(width: int, side: int, step: float = 1.0) -> Tensor:
    """complex64 [side * side, width / 2].

    Args:
        width: of the vectors that are turned.
        step: from one cell to the next; 1 = the `sam2` package's codes to the last bit.
    """
    if step == 1.0:
        codes: Tensor = compute_axial_cis(width, side, side)
        return codes
    speeds = 10000.0 ** -(torch.arange(0, width, 4)[: width // 4].float() / width)
    turns = torch.outer(torch.arange(side, dtype=torch.float32) * step, speeds)
    columns, rows = turns.repeat(side, 1), turns.repeat_interleave(side, 0)
    return torch.polar(torch.ones(()), torch.cat([columns, rows], dim=-1))


def turned(x: Tensor, codes: Tensor) -> Tensor:
    """Vectors [..., L, width], neighbouring channels a pair, turned by codes [cells, width / 2] that repeat."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    cells = pairs.unflatten(-2, (-1, len(codes))) * codes.to(x.device)
    return torch.view_as_real(cells.flatten(-3, -2)).flatten(-2).to(x.dtype)
