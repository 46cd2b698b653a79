# SPDX-License-Identifier: Apache-2.0
"""What the language model sees of some frames, whatever the family of its vision model.

Letters: F frames, K visual tokens of all frames, C hidden size of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    def parts(self) -> list[Visual]:
        """The same, frame by frame."""
        tokens = self.tokens.split(self.counts)
        deep = zip(*(level.split(self.counts) for level in self.deep), strict=True)
        levels = list(deep) or [()] * len(tokens)
        last = 0 if self.overview is None else len(self.overview)
        return [
            Visual(
                one,
                (count,),
                one[-last:] if last else None,
                self.grids[n : n + 1],
                tuple(levels[n]),
            )
            for n, (one, count) in enumerate(zip(tokens, self.counts, strict=True))
        ]

    @staticmethod
    def joined(parts: Sequence[Visual]) -> Visual:
        """Frames that were seen apart, together."""
        return Visual(
            torch.cat([part.tokens for part in parts]),
            tuple(count for part in parts for count in part.counts),
            parts[-1].overview,
            tuple(grid for part in parts for grid in part.grids),
            tuple(torch.cat(level) for level in zip(*(part.deep for part in parts), strict=True)),
        )

    def with_regions(self, regions: list[Tensor]) -> Visual:
        """The same with the tokens of regions, [k, C] each, behind all others."""
        return replace(self, tokens=torch.cat([self.tokens, *regions]))
