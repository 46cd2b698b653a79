# SPDX-License-Identifier: Apache-2.0
"""Tensor names of the published EdgeTAM, and ours: transformers' in the perceiver, equal elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from sa2va_model.segmentation.kinds import CutTensor, SegmenterNames

_PERCEIVER = "spatial_perceiver."
_LAYER = f"{_PERCEIVER}layers.#."
_CROSS, _SELF = f"{_LAYER}cross_attention.", f"{_LAYER}self_attention."


def _halves(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.chunk(2)


def _stacked(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(parts)


def _mlp(official: str, ours: str) -> tuple[tuple[str, str], ...]:
    parts = (("0", "layer_norm"), ("1", "up_proj"), ("3", "down_proj"))
    return tuple((f"{_LAYER}{official}.{a}.*", f"{_LAYER}{ours}.{b}.*") for a, b in parts)


def _key_value(official: str, ours: str) -> CutTensor:
    names = (f"{ours}k_proj.*", f"{ours}v_proj.*")
    return CutTensor(f"{_LAYER}{official}.to_kv.*", names, _halves, _stacked)


NAMES = SegmenterNames(
    pairs=(
        (f"{_PERCEIVER}latents", f"{_PERCEIVER}latents_1d"),
        (f"{_PERCEIVER}norm.*", f"{_PERCEIVER}layer_norm.*"),
        (f"{_LAYER}attn.norm_x.*", f"{_LAYER}layer_norm_input.*"),
        (f"{_LAYER}attn.norm_latents.*", f"{_LAYER}layer_norm_latents.*"),
        (f"{_LAYER}attn.to_q.*", f"{_CROSS}q_proj.*"),
        (f"{_LAYER}attn.to_out.*", f"{_CROSS}o_proj.*"),
        (f"{_LAYER}self_attn.norm.*", f"{_LAYER}layer_norm_self.*"),
        (f"{_LAYER}self_attn.to_q.*", f"{_SELF}q_proj.*"),
        (f"{_LAYER}self_attn.to_out.*", f"{_SELF}o_proj.*"),
        *_mlp("ff", "mlp"),
        *_mlp("self_ff", "self_mlp"),
    ),
    cuts=(_key_value("attn", _CROSS), _key_value("self_attn", _SELF)),
)
