# SPDX-License-Identifier: Apache-2.0
"""The LLaVA family in training: a CLIP that sees each frame as one square, a projector, Llama."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sa2va_model.mllm.families.llava import IMAGE, Llava
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

_MODEL = "mllm.language_model.model."


class LlavaFamily(Family):
    """transformers' vision-language model, whose language model is a part of it."""

    language = (f"{_MODEL}language_model.", "mllm.language_model.lm_head.")
    vision = (f"{_MODEL}vision_tower.",)
    projector = (f"{_MODEL}multi_modal_projector.",)
    patches = (f"{_MODEL}vision_tower.embeddings.patch_embedding.",)
    regions = False
    without_lora = r"(.*\.)?(vision_tower|multi_modal_projector)\..*"

    def __init__(self, mllm: Llava) -> None:
        super().__init__(mllm)
        self.llava = mllm
        layers = int(self._tower.config.num_hidden_layers)
        # States are taken in front of the last layers, which the files have all the same.
        last = mllm.own.layer % (layers + 1)
        unread = [f"{self.vision[0]}encoder.layers.{n}." for n in range(last, layers)]
        self.idle = (f"{self.vision[0]}post_layernorm.", *unread)

    @property
    def _model(self) -> Any:
        return self.llava.language_model.model

    @property
    def _tower(self) -> Any:
        return self._model.vision_tower

    def shown(self, frame: np.ndarray, *, clip: bool) -> Shown:
        """See `Family`; frames of a clip are pictures like any other."""
        return Shown(self.llava.tiles(frame, clip=clip), self.llava.tokens_per_tile)

    def stacked(self, frames: Sequence[Shown]) -> Tensor:
        """See `Family`: float32 [N, 3, s, s]."""
        side = self.llava.tile_size
        tiles = [frame.pictures for frame in frames if isinstance(frame.pictures, Tensor)]
        return torch.cat(tiles) if tiles else torch.zeros(0, 3, side, side)

    def block(self, counts: Sequence[int]) -> str:
        """See `Family`: a line for each frame."""
        return "\n".join(IMAGE * count for count in counts)

    def features(self, pictures: Pictures) -> Features:
        """See `Family`: what the projector is given, [N, V, c]."""
        assert isinstance(pictures, Tensor)
        return (self.llava.vision_states(pictures),)

    def project(self, features: Features, pictures: Pictures) -> VisualTokens:
        """See `Family`."""
        projector = self._model.multi_modal_projector
        tokens: Tensor = projector(features[0].to(next(projector.parameters()).dtype))
        return VisualTokens(tokens.flatten(0, 1))

    def states(self, batch: Batch, seen: VisualTokens | None) -> States:
        """See `Family`; words and masks are read off the same states."""
        embeddings = self.mllm.embed(batch.ids, None if seen is None else seen.tokens)
        embeddings = needing_gradient(embeddings)
        out = self._model.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention(batch.owner, embeddings.dtype),
            position_ids=batch.positions[0],
            use_cache=False,
        )
        return States(out.last_hidden_state, out.last_hidden_state)

    def vision_bytes(self, width: int) -> int:
        """See `Family`."""
        hidden = int(self._tower.config.hidden_size)
        return self.llava.tokens_per_tile * hidden * 12 * width
