# SPDX-License-Identifier: Apache-2.0
"""SAM-2's memory as training needs it: with gradients, and all objects in one batch, which the run time's slots forbid.

The same tokens in the same order as `sa2va_model.segmentation.memory_bank.ObjectMemory`; a test holds the two together.

Letters: K objects, C hidden channels, P frames with pointers, L memory tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor

from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import Decoded, ImageFeatures


class ClipMemory:
    """Differentiable memory of K objects, all prompted on frame 0 and remembered on every frame since.

    Args:
        gated: an object whose score is negative is remembered as an empty mask, as at run time.
    """

    def __init__(self, segmenter: Sam2, *, gated: bool) -> None:
        self.sam2, self.gated = segmenter, gated
        self.spatial: list[Tensor] = []  # [K, cells, memory_dim] per frame
        self.pointers: list[Tensor] = []  # [K, C] per frame

    def write(self, features: ImageFeatures, decoded: Decoded, *, prompted: bool) -> None:
        """Remembers a frame as the run time does: hidden objects leave an empty mask where scores are trusted."""
        if self.gated:
            visible = decoded.object_scores[:, :, None, None] > 0
            decoded = replace(decoded, logits=torch.where(visible, decoded.logits, NO_OBJ_SCORE))
        self.spatial.append(self.sam2.encode_memory(features, decoded, prompted=prompted))
        self.pointers.append(decoded.pointers)

    def tokens(self) -> tuple[Tensor, Tensor, int]:
        """Values and positions [L, K, memory_dim] for the next frame, and how many of L are pointers."""
        config, sam = self.sam2.config, self.sam2.sam2_model
        now, recent = len(self.spatial), config.memory_frames - 1
        near = [(now - d, d - 1) for d in range(recent, 0, -1) if now - d >= 1]
        slots = [(0, recent), *near]
        cells = self.sam2.memory_position(self.spatial[0].device)
        temporal = sam.maskmem_tpos_enc[:, 0, 0]
        values = [self.spatial[t].transpose(0, 1) for t, _ in slots]
        positions = [(cells + temporal[code])[:, None] for _, code in slots]
        horizon = config.max_pointers - 1
        times = [0, *(now - d for d in range(1, horizon + 1) if now - d >= 1)]
        parts = config.hidden_dim // config.memory_dim
        pointers = torch.stack([self.pointers[t] for t in times])  # [P, K, C]
        pointers = pointers.unflatten(2, (parts, config.memory_dim)).permute(0, 2, 1, 3)
        pointers = pointers.flatten(0, 1)  # [P * parts, K, memory_dim]
        codes = torch.zeros(len(times), config.memory_dim, device=pointers.device)
        if config.pointer_positions:
            steps = torch.tensor([now - t for t in times], device=pointers.device) / horizon
            codes = sam.obj_ptr_tpos_proj(get_1d_sine_pe(steps, dim=config.hidden_dim))
        positions.append(codes.repeat_interleave(parts, dim=0)[:, None])
        count = values[0].shape[1]
        together = torch.cat([p.expand(-1, count, -1) for p in positions])
        return torch.cat([*values, pointers]), together, len(pointers)
