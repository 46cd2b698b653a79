# SPDX-License-Identifier: Apache-2.0
"""What the language model sees of some frames, whatever the family of its vision model.

Letters: F frames, K visual tokens of all frames, C hidden size of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Visual:
    """Visual tokens in the order in which they stand in the prompt.

    Attributes:
        tokens: [K, C].
        counts: tokens of each frame; their sum is K, less what regions add.
        overview: [r * r, C], the tokens of the last tile, which regions are cut from; None where the family has no
            region prompts.
        grids: (1, rows, columns) in patches of each frame, for M-RoPE; empty where positions are counted up.
        deep: [K, C] for each of the first layers (DeepStack of Qwen3-VL); empty elsewhere.
    """

    tokens: Tensor
    counts: tuple[int, ...]
    overview: Tensor | None = None
    grids: tuple[tuple[int, int, int], ...] = ()
    deep: tuple[Tensor, ...] = ()

    def with_regions(self, regions: list[Tensor]) -> Visual:
        """The same with the tokens of regions, [k, C] each, behind all others."""
        return replace(self, tokens=torch.cat([self.tokens, *regions]))
