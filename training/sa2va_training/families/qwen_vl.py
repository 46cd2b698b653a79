# SPDX-License-Identifier: Apache-2.0
"""The Qwen2.5-VL and Qwen3-VL families in training.

Frames have any size; visual tokens have rows and columns as positions; the projector is the vision model's merger, in
Qwen3-VL one more for each of the first layers of the language model. What the mergers are given is kept, so that they
can be trained behind a frozen vision model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import get_vision_window_index

from sa2va_model.mllm.families.qwen_vl import IMAGE_PAD, QWEN2_5, VISION_END, VISION_START, QwenVL
from sa2va_training.batches.batch import Batch, attention
from sa2va_training.batches.features import Features
from sa2va_training.batches.patches import Patches, Pictures
from sa2va_training.families.base import (
    Family,
    Shown,
    States,
    VisualTokens,
    needing_gradient,
)

_MODEL = "mllm.language_model.model."


class QwenVLFamily(Family):
    """transformers' vision-language model, whose language model is a part of it."""

    language = (f"{_MODEL}language_model.", "mllm.language_model.lm_head.")
    vision = (f"{_MODEL}visual.",)
    projector = (f"{_MODEL}visual.merger.", f"{_MODEL}visual.deepstack_merger_list.")
    patches = (f"{_MODEL}visual.patch_embed.",)
    regions = False
    without_lora = r"(.*\.)?visual\..*"

    def __init__(self, mllm: QwenVL) -> None:
        super().__init__(mllm)
        self.qwen = mllm
        self.windows = mllm.own.member == QWEN2_5
        self.before_norm = not self.windows

    @property
    def _visual(self) -> Any:
        return self.qwen._model.visual

    @property
    def _mergers(self) -> list[nn.Module]:
        return [self._visual.merger, *getattr(self._visual, "deepstack_merger_list", ())]

    def shown(self, frame: np.ndarray, *, clip: bool) -> Shown:
        """See `Family`; frames of a clip are pictures like any other."""
        values, grids = self.qwen.pixels([frame])
        return Shown(Patches(values, grids), int(grids.prod()) // self.qwen.merge**2)

    def stacked(self, frames: Sequence[Shown]) -> Patches:
        """See `Family`."""
        parts = [frame.pictures for frame in frames if isinstance(frame.pictures, Patches)]
        if not parts:
            return Patches(torch.zeros(0, 0), torch.zeros(0, 3, dtype=torch.long))
        return Patches(
            torch.cat([part.values for part in parts]), torch.cat([part.grids for part in parts])
        )

    def block(self, counts: Sequence[int]) -> str:
        """See `Family`."""
        return "".join(VISION_START + IMAGE_PAD * count + VISION_END for count in counts)

    def positions(self, ids: Sequence[int], frames: Sequence[Shown]) -> Tensor:
        """See `Family`: long [3, L], time, row and column."""
        if not frames:
            return super().positions(ids, frames).expand(3, -1)
        tokens = torch.tensor([list(ids)])
        found, _ = self.qwen._model.get_rope_index(
            tokens,
            mm_token_type_ids=(tokens == self.mllm.image_id).int(),
            image_grid_thw=self.stacked(frames).grids,
        )
        positions: Tensor = found[:, 0]
        return positions

    def features(self, pictures: Pictures) -> Features:
        """See `Family`: what each merger is given, [patches, c] each."""
        assert isinstance(pictures, Patches)
        given: list[Tensor] = []
        mergers = self._mergers
        hooks = [m.register_forward_pre_hook(lambda _, a: given.append(a[0])) for m in mergers]
        try:
            self._visual(
                pictures.values.to(self.mllm.device, self.mllm.dtype), grid_thw=pictures.grids
            )
        finally:
            for hook in hooks:
                hook.remove()
        return (given[-1], *given[:-1])  # the last layer's merger runs last

    def project(self, features: Features, pictures: Pictures) -> VisualTokens:
        """See `Family`."""
        assert isinstance(pictures, Patches)
        made = []
        for merger, given in zip(self._mergers, features, strict=True):
            made.append(merger(given.to(next(merger.parameters()).dtype)))
        return VisualTokens(made[0][self._order(pictures)], tuple(made[1:]))

    def _order(self, pictures: Patches) -> Any:
        """Where each token is among those of a vision model that works in windows."""
        if not self.windows:
            return slice(None)
        visual = self._visual
        found = []
        first = 0
        for n in range(len(pictures)):
            index, _ = get_vision_window_index(
                pictures[n : n + 1].grids,
                spatial_merge_size=visual.spatial_merge_size,
                window_size=visual.window_size,
                patch_size=visual.patch_size,
            )
            found.append(torch.argsort(index) + first)
            first += len(index)
        return torch.cat(found)

    def states(self, batch: Batch, seen: VisualTokens | None) -> States:
        """See `Family`; in Qwen3-VL masks are read off what the final norm is given."""
        model = self.qwen._model.language_model
        embeddings = self.mllm.embed(batch.ids, None if seen is None else seen.tokens)
        deep: dict[str, Any] = {}
        if seen is not None and seen.deep:
            deep = {
                "visual_pos_masks": batch.ids == self.mllm.image_id,
                "deepstack_visual_embeds": list(seen.deep),
            }
        given: list[Tensor] = []
        hook = model.norm.register_forward_pre_hook(lambda _, a: given.append(a[0]))
        try:
            out = model(
                inputs_embeds=needing_gradient(embeddings),
                attention_mask=attention(batch.owner, embeddings.dtype),
                position_ids=batch.positions,
                use_cache=False,
                **deep,
            )
        finally:
            hook.remove()
        words = out.last_hidden_state
        return States(words, given[0] if self.before_norm else words)

    def vision_bytes(self, width: int) -> int:
        """See `Family`; of the largest frame."""
        config = self._visual.config
        patches = self.qwen.own.max_pixels // int(config.patch_size) ** 2
        return patches * int(config.hidden_size) * 12 * width
