# SPDX-License-Identifier: Apache-2.0
"""SAM 3's image encoder: transformers' plain vision transformer, and the tracker's neck of three levels.

It answers as the `sam2` package's image encoders do, so that all that stands behind it is the same.
"""

from __future__ import annotations

import torch
from sam2.modeling.position_encoding import PositionEmbeddingSine
from torch import Tensor, nn
from transformers.models.sam3.configuration_sam3 import Sam3ViTConfig
from transformers.models.sam3.modeling_sam3 import Sam3FPNLayer, Sam3ViTModel

from sa2va_model.config.segmenter import Sam3Config

SCALES = (4.0, 2.0, 1.0)
"""Of the neck's levels. The published one has a fourth, 0.5, whose result is thrown away."""


def vit_config(config: Sam3Config) -> Sam3ViTConfig:
    """The vision transformer as transformers describes it."""
    return Sam3ViTConfig(
        hidden_size=config.embed_dim,
        intermediate_size=config.mlp_dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        image_size=config.image_size,
        patch_size=config.STRIDE,
        window_size=config.window,
        global_attn_indexes=list(config.global_blocks),
        pretrain_image_size=config.position_side * config.STRIDE,
        layer_norm_eps=1e-5,
        hidden_act="gelu",
        attn_implementation="sdpa",
    )


class PlainNeck(nn.Module):
    """One map of features to three, of a quarter, half and the whole of its stride."""

    def __init__(self, config: Sam3Config) -> None:
        super().__init__()
        self.d_model = config.hidden_dim
        self.position_encoding = PositionEmbeddingSine(
            config.hidden_dim, normalize=True, scale=None, temperature=10000, warmup_cache=False
        )
        self.layers = nn.ModuleList(
            [Sam3FPNLayer(config.embed_dim, config.hidden_dim, scale) for scale in SCALES]
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """[B, embed_dim, h, w] to [B, C, 4h, 4w], [B, C, 2h, 2w] and [B, C, h, w]."""
        return [layer(features) for layer in self.layers]


class PlainEncoder(nn.Module):
    """Pixels to three levels of features and their position codes."""

    def __init__(self, config: Sam3Config) -> None:
        super().__init__()
        self.trunk = Sam3ViTModel(vit_config(config))
        self.neck = PlainNeck(config)

    def forward(self, pixels: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """[B, 3, S, S] to what `sam2.modeling.backbones.image_encoder.ImageEncoder` gives."""
        tokens = self.trunk(pixels).last_hidden_state  # [B, cells, embed_dim]
        side = pixels.shape[-1] // self.trunk.config.patch_size
        levels = self.neck(tokens.unflatten(1, (side, side)).permute(0, 3, 1, 2))
        with torch.no_grad():
            codes = [self.neck.position_encoding(level).to(level.dtype) for level in levels]
        return {"vision_features": levels[-1], "vision_pos_enc": codes, "backbone_fpn": levels}
