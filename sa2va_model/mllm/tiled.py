# SPDX-License-Identifier: Apache-2.0
"""Families whose vision model sees squares of one size, each of which becomes the same number of tokens.

Letters: T tiles, s their side, V tokens of a tile, C hidden size of the language model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sa2va_model.mllm.base import Mllm
from sa2va_model.mllm.vision import Visual


class TiledMllm(Mllm):
    """A language half that sees tiles.

    Args:
        tile_size: s, pixels.
        tokens_per_tile: V.
    """

    vision_model: Any  # a model of transformers

    def __init__(self, *args: Any, tile_size: int, tokens_per_tile: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tile_size, self.tokens_per_tile = tile_size, tokens_per_tile
        self._compute: Callable[[Tensor], Tensor] | None = None

    @abstractmethod
    def tiles(self, frame: np.ndarray, *, clip: bool) -> Tensor:
        """One frame as the vision model gets it: uint8 [H, W, 3] to float32 [T, 3, s, s]."""

    @abstractmethod
    def visual_tokens(self, tiles: Tensor) -> Tensor:
        """Tokens of the language model: [T, 3, s, s] to [T, V, C]."""

    @abstractmethod
    def vision_parts(self) -> tuple[nn.Module, ...]:
        """The modules that `visual_tokens` uses, and no others: vision tower and projector."""

    def use_vision(self, compute: Callable[[Tensor], Tensor] | None) -> None:
        """Has `look` call something else in place of `visual_tokens`, such as an exported graph; None = no longer."""
        self._compute = compute

    def seen_pixels(self, frames: Sequence[np.ndarray], *, clip: bool) -> Tensor:
        """All tiles of all frames."""
        return torch.cat([self.tiles(frame, clip=clip) for frame in frames])

    def look(self, frames: Sequence[np.ndarray], *, clip: bool) -> Visual:
        """What the vision model sees of uint8 [H, W, 3] frames."""
        tiles = [self.tiles(frame, clip=clip) for frame in frames]
        pixels = torch.cat(tiles).to(self.device, self.dtype)
        if self._compute is None:
            (visual,) = self.replayed("look", lambda x: (self.visual_tokens(x),), pixels)
        else:
            visual = self._compute(pixels)
        counts = tuple(len(t) * visual.shape[1] for t in tiles)
        return Visual(visual.flatten(0, 1), counts, overview=visual[-1])
