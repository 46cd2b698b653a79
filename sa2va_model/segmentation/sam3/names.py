# SPDX-License-Identifier: Apache-2.0
"""Tensor names of SAM 3's tracker: its own, and ours: transformers' in the vision transformer, SAM-2's elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from sa2va_model.segmentation.kinds import CutTensor, SegmenterNames

_VISION = "backbone.vision_backbone."
_BLOCK, _OUR_BLOCK = f"{_VISION}trunk.blocks.#.", "image_encoder.trunk.layers.#."
_DECODER = "sam_mask_decoder.transformer.layers.#.mlp."
_NECK, _OUR_NECK = f"{_VISION}sam2_convs.", "image_encoder.neck.layers."


def _thirds(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.chunk(3)


def _stacked(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(parts)


def _without_class_token(table: Tensor) -> tuple[Tensor, ...]:
    return (table[:, 1:],)


def _with_class_token(parts: tuple[Tensor, ...]) -> Tensor:
    """The token's row is used for nothing; files have it."""
    table = parts[0]
    return torch.cat([table.new_zeros(1, 1, table.shape[2]), table], dim=1)


NAMES = SegmenterNames(
    pairs=(
        (
            f"{_VISION}trunk.patch_embed.proj.*",
            "image_encoder.trunk.embeddings.patch_embeddings.projection.*",
        ),
        (f"{_VISION}trunk.ln_pre.*", "image_encoder.trunk.layer_norm.*"),
        (f"{_BLOCK}norm1.*", f"{_OUR_BLOCK}layer_norm1.*"),
        (f"{_BLOCK}norm2.*", f"{_OUR_BLOCK}layer_norm2.*"),
        (f"{_BLOCK}attn.proj.*", f"{_OUR_BLOCK}attention.o_proj.*"),
        (f"{_BLOCK}mlp.*", f"{_OUR_BLOCK}mlp.*"),
        (f"{_NECK}0.dconv_2x2_0.*", f"{_OUR_NECK}0.scale_layers.0.*"),
        (f"{_NECK}0.dconv_2x2_1.*", f"{_OUR_NECK}0.scale_layers.2.*"),
        (f"{_NECK}1.dconv_2x2.*", f"{_OUR_NECK}1.scale_layers.0.*"),
        (f"{_NECK}#.conv_1x1.*", f"{_OUR_NECK}#.proj1.*"),
        (f"{_NECK}#.conv_3x3.*", f"{_OUR_NECK}#.proj2.*"),
        ("maskmem_backbone.fuser.layers.#.g_weight", "memory_encoder.fuser.layers.#.gamma"),
        ("maskmem_backbone.*", "memory_encoder.*"),
        ("transformer.encoder.*", "memory_attention.*"),
        (f"{_DECODER}lin1.*", f"{_DECODER}layers.0.*"),
        (f"{_DECODER}lin2.*", f"{_DECODER}layers.1.*"),
    ),
    cuts=(
        CutTensor(
            f"{_BLOCK}attn.qkv.*",
            tuple(f"{_OUR_BLOCK}attention.{letter}_proj.*" for letter in "qkv"),
            _thirds,
            _stacked,
        ),
        CutTensor(
            f"{_VISION}trunk.pos_embed",
            ("image_encoder.trunk.embeddings.position_embeddings",),
            _without_class_token,
            _with_class_token,
        ),
    ),
    # The neck of SAM 3's detector, and the level of the tracker's that is thrown away.
    unused=(f"{_VISION}convs.", f"{_NECK}3."),
)
