# SPDX-License-Identifier: Apache-2.0
"""The InternVL family in training: tiles of one size, positions that are counted up, one projector `mlp1`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.families.internvl import InternVL, pixel_shuffle
from sa2va_training.batches.batch import Batch, attention
from sa2va_training.batches.features import Features
from sa2va_training.batches.patches import Pictures
from sa2va_training.families.base import (
    Family,
    Shown,
    States,
    VisualTokens,
    needing_gradient,
)


class InternVLFamily(Family):
    """InternViT, `mlp1` and a causal language model."""

    language = ("mllm.language_model.",)
    vision = ("mllm.vision_model.",)
    projector = ("mllm.mlp1.",)
    patches = ("mllm.vision_model.embeddings.patch_embeddings.",)

    def __init__(self, mllm: InternVL) -> None:
        super().__init__(mllm)
        self.internvl = mllm

    def shown(self, frame: np.ndarray, *, clip: bool) -> Shown:
        """See `Family`; a frame of a clip is one tile, a picture may be several."""
        tiles = self.internvl.tiles(frame, clip=clip)
        return Shown(tiles, len(tiles) * self.internvl.tokens_per_tile)

    def stacked(self, frames: Sequence[Shown]) -> Tensor:
        """See `Family`: float32 [N, 3, s, s]."""
        side = self.internvl.tile_size
        tiles = [frame.pictures for frame in frames if isinstance(frame.pictures, Tensor)]
        return torch.cat(tiles) if tiles else torch.zeros(0, 3, side, side)

    def block(self, counts: Sequence[int]) -> str:
        """See `Family`."""
        return "\n".join(prompts.image_block(count) for count in counts)

    def features(self, pictures: Pictures) -> Features:
        """See `Family`: tokens before the projector, [N, V, c]."""
        assert isinstance(pictures, Tensor)
        mllm = self.internvl
        out = mllm._layer(pictures.to(mllm.device, mllm.dtype))[:, 1:]  # without the class token
        side = int(out.shape[1] ** 0.5)
        grid = out.reshape(out.shape[0], side, side, -1)
        config = mllm.own
        grid = pixel_shuffle(grid, config.downsample_ratio, config.pixel_shuffle_version)
        return (grid.reshape(grid.shape[0], -1, grid.shape[-1]),)

    def project(self, features: Features, pictures: Pictures) -> VisualTokens:
        """See `Family`."""
        projector = self.internvl.mlp1
        tokens: Tensor = projector(features[0].to(next(projector.parameters()).dtype))
        return VisualTokens(tokens.flatten(0, 1))

    def states(self, batch: Batch, seen: VisualTokens | None) -> States:
        """See `Family`; words and masks are read off the same states."""
        mllm = self.mllm
        visual = None if seen is None else seen.tokens
        embeddings = needing_gradient(mllm.embed(batch.ids, visual))
        out = mllm.language_model.base_model(
            inputs_embeds=embeddings,
            attention_mask=attention(batch.owner, embeddings.dtype),
            position_ids=batch.positions[0],
            use_cache=False,
        )
        return States(out.last_hidden_state, out.last_hidden_state)

    def vision_bytes(self, width: int) -> int:
        """See `Family`."""
        vision = self.internvl.own.vision
        return (vision.image_size // vision.patch_size) ** 2 * vision.hidden_size * 12 * width
