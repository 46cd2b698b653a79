# SPDX-License-Identifier: Apache-2.0
"""EdgeTAM's memory (arXiv 2501.07256): a perceiver makes few vectors of a frame's memory, and attention reads them.

Of the vectors of a frame some stand for the whole image and have no place; the others each have a window of it.
"""

from __future__ import annotations

import torch
from sam2.modeling.sam.transformer import Attention, RoPEAttention
from torch import Tensor
from torch.nn import functional as F
from transformers.models.edgetam_video.configuration_edgetam_video import EdgeTamVideoConfig
from transformers.models.edgetam_video.modeling_edgetam_video import EdgeTamVideoPerceiverResampler

from sa2va_model.config.segmenter import EdgeTamConfig
from sa2va_model.segmentation.rotary_codes import square_codes, turned


def perceiver(config: EdgeTamConfig) -> EdgeTamVideoPerceiverResampler:
    """transformers' resampler: memory [N, memory_dim, h, w] and its codes to vectors [N, memory_cells, memory_dim]."""
    return EdgeTamVideoPerceiverResampler(
        EdgeTamVideoConfig(
            perceiver_resampler_num_latents=config.global_latents,
            perceiver_resampler_num_latents_2d=config.window_latents,
            perceiver_resampler_hidden_size=config.memory_dim,
            perceiver_resampler_attention_head_dim=config.memory_dim,
            perceiver_resampler_mlp_intermediate_size=4 * config.memory_dim,
            perceiver_resampler_num_layers=config.perceiver_layers,
            attn_implementation="sdpa",
        )
    )


class LatentAttention(RoPEAttention):  # type: ignore[misc]
    """Cross-attention of an image's cells to the vectors of some frames, and to pointers behind them."""

    def __init__(self, config: EdgeTamConfig) -> None:
        width = config.hidden_dim
        Attention.__init__(self, width, 1, dropout=0.1, kv_in_dim=config.memory_dim)
        self._latents, self._windows = config.global_latents, config.window_side
        self._learnt = config.trained_size // config.STRIDE

    def codes(self, side: int) -> tuple[Tensor, Tensor]:
        """Of queries [side * side, C / 2], and of one frame's keys: complex.

        Images of another size are stretched over the places that were learnt: a key's window is a share of the image.
        """
        width = self.internal_dim
        keys = square_codes(width, self._windows)
        nowhere = torch.ones(self._latents, keys.shape[1], dtype=keys.dtype)
        return square_codes(width, side, self._learnt / side), torch.cat([nowhere, keys])

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """[N, cells, C] and [N, L, memory_dim] to [N, cells, C]; the last keys have no place at all."""
        query, key, value = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        cells, frames = self.codes(round(q.shape[1] ** 0.5))
        placed, rest = key.tensor_split([key.shape[1] - num_k_exclude_rope], dim=1)
        key = torch.cat([turned(placed, frames), rest], dim=1)
        query = turned(query, cells)
        dropout = self.dropout_p if self.training else 0.0
        query, key, value = query[:, None], key[:, None], value[:, None]
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        out: Tensor = self.out_proj(seen[:, 0])
        return out
