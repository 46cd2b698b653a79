# SPDX-License-Identifier: Apache-2.0
"""A segmenter of any kind and size from the `sam2` package's modules, without its configuration files.

Module names stay those of the package, so that stock and official weights load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import (
    PositionEmbeddingRandom,
    PositionEmbeddingSine,
    compute_axial_cis,
)
from sam2.modeling.sam.transformer import Attention, RoPEAttention, TwoWayTransformer
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from sa2va_model.config.segmenter import Sam2Config, SegmenterConfig
from sa2va_model.conv_stem import ResidualStem
from sa2va_model.segmentation.rotary_codes import square_codes


@dataclass(frozen=True)
class MemoryParts:
    """What a kind of segmenter has in place of SAM-2's own memory.

    Attributes:
        attention: makes one layer's cross-attention to memory.
        perceiver: makes few vectors of a memory and its position codes, of which memory then consists.
    """

    attention: Callable[[], nn.Module]
    perceiver: nn.Module


class Sam2Modules(SAM2Base):  # type: ignore[misc]
    """SAM-2 of the `sam2` package, built from a configuration; only sizes that it hard-codes are overridden.

    SAM 3's tracker is the same behind another image encoder, and so is EdgeTAM with another memory.
    """

    def __init__(
        self, config: SegmenterConfig, encoder: nn.Module, memory: MemoryParts | None = None
    ) -> None:
        self._config = config
        super().__init__(
            image_encoder=encoder,
            memory_attention=_memory_attention(config, memory),
            memory_encoder=_memory_encoder(config),
            num_maskmem=config.memory_frames,
            image_size=config.image_size,
            backbone_stride=config.STRIDE,
            sigmoid_scale_for_mem_enc=20.0,
            sigmoid_bias_for_mem_enc=-10.0,
            binarize_mask_from_pts_for_mem_enc=config.binarize_prompted,
            use_mask_input_as_output_without_sam=True,
            directly_add_no_mem_embed=True,
            use_high_res_features_in_sam=True,
            multimask_output_in_sam=config.multimask,
            multimask_min_pt_num=0,
            multimask_max_pt_num=1,
            multimask_output_for_tracking=config.multimask,
            use_multimask_token_for_obj_ptr=True,
            iou_prediction_use_sigmoid=True,
            use_obj_ptrs_in_encoder=True,
            max_obj_ptrs_in_encoder=config.max_pointers,
            add_tpos_enc_to_obj_ptrs=config.pointer_positions,
            proj_tpos_enc_in_obj_ptrs=config.pointer_positions,
            use_signed_tpos_enc_to_obj_ptrs=config.pointer_positions,
            only_obj_ptrs_in_the_past_for_eval=True,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
            fixed_no_obj_ptr=True,
            use_mlp_for_obj_ptr_proj=True,
            no_obj_embed_spatial=config.pointer_positions,
            sam_mask_decoder_extra_args={
                "dynamic_multimask_via_stability": config.stability_fallback,
                "dynamic_multimask_stability_delta": 0.05,
                "dynamic_multimask_stability_thresh": 0.98,
            },
        )
        self.spatial_perceiver = memory.perceiver if memory else None

    def _build_sam_heads(self) -> None:
        super()._build_sam_heads()
        self.sam_prompt_encoder.pe_layer = _PointCode(self.hidden_dim // 2)
        if self._config.decoder_mlp_dim != 2048:
            self.sam_mask_decoder.transformer = TwoWayTransformer(
                depth=2,
                embedding_dim=self.hidden_dim,
                mlp_dim=self._config.decoder_mlp_dim,
                num_heads=8,
            )


class _PointCode(PositionEmbeddingRandom):  # type: ignore[misc]
    """The package multiplies float32 places with its matrix, which fails where that is bfloat16; the result is cast."""

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        matrix: Tensor = self.positional_encoding_gaussian_matrix
        turns = 2 * math.pi * ((2 * coords.float() - 1) @ matrix.float())
        return torch.cat([turns.sin(), turns.cos()], dim=-1).to(matrix.dtype)


class _Rope(RoPEAttention):  # type: ignore[misc]
    """The package puts its codes on the first GPU wherever one is seen; here they follow the weights."""

    def __init__(
        self,
        *args: Any,
        rope_theta: float = 10000.0,
        rope_k_repeat: bool = False,
        feat_sizes: tuple[int, int] = (64, 64),
        **kwargs: Any,
    ) -> None:
        Attention.__init__(self, *args, **kwargs)
        width = self.internal_dim // self.num_heads
        self.compute_cis = partial(compute_axial_cis, dim=width, theta=rope_theta)
        self.freqs_cis = self.compute_cis(end_x=feat_sizes[0], end_y=feat_sizes[1])
        self.rope_k_repeat = rope_k_repeat

    def codes(self, side: int) -> tuple[Tensor, Tensor]:
        """Of queries [side * side, C / 2], and of one frame's keys: complex."""
        square = square_codes(self.internal_dim // self.num_heads, side)
        return square, square


class _Neck(FpnNeck):  # type: ignore[misc]
    """The package adds levels in float32 and leaves it to autocast to go on from there; here they keep their type."""

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Levels of the trunk to [B, C, h, w] each, and their position codes."""
        out, positions = super().forward(levels)
        kind = levels[0].dtype
        return [level.to(kind) for level in out], [code.to(kind) for code in positions]


def _sine(channels: int) -> PositionEmbeddingSine:
    return PositionEmbeddingSine(
        num_pos_feats=channels,
        normalize=True,
        scale=None,
        temperature=10000,
        warmup_cache=False,  # which would be on the first GPU
    )


def image_encoder(config: Sam2Config) -> ImageEncoder:
    """SAM-2's image encoder: Hiera and its feature pyramid."""
    trunk = Hiera(
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        stages=config.stages,
        global_att_blocks=config.global_blocks,
        window_pos_embed_bkg_spatial_size=config.background_size,
        window_spec=config.window_spec,
    )
    if config.stem_blocks:
        width = config.embed_dim
        trunk.patch_embed.proj = ResidualStem((width, width), (0, config.stem_blocks), width)
    neck = pyramid(config.hidden_dim, trunk.channel_list, config.top_down_levels)
    return ImageEncoder(trunk=trunk, neck=neck, scalp=1)


def pyramid(width: int, channels: Sequence[int], top_down: Sequence[int]) -> FpnNeck:
    """SAM-2's feature pyramid over a trunk with these channels, coarsest level first."""
    return _Neck(
        position_encoding=_sine(width),
        d_model=width,
        backbone_channel_list=list(channels),
        fpn_top_down_levels=list(top_down),
        fpn_interp_model="nearest",
    )


def _memory_attention(config: SegmenterConfig, memory: MemoryParts | None) -> MemoryAttention:
    side = config.feature_size
    shared: dict[str, Any] = {
        "rope_theta": 10000.0,
        "feat_sizes": [side, side],
        "embedding_dim": config.hidden_dim,
        "num_heads": 1,
        "downsample_rate": 1,
        "dropout": 0.1,
    }
    own = partial(_Rope, rope_k_repeat=True, kv_in_dim=config.memory_dim, **shared)
    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=config.memory_mlp_dim,
        dropout=0.1,
        pos_enc_at_attn=False,
        self_attention=_Rope(**shared),
        d_model=config.hidden_dim,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=memory.attention() if memory else own(),
    )
    return MemoryAttention(
        d_model=config.hidden_dim,
        pos_enc_at_input=True,
        layer=layer,
        num_layers=config.memory_layers,
    )


def _memory_encoder(config: SegmenterConfig) -> MemoryEncoder:
    block = CXBlock(
        dim=config.hidden_dim,
        kernel_size=7,
        padding=3,
        layer_scale_init_value=1e-6,
        use_dwconv=True,
    )
    return MemoryEncoder(
        out_dim=config.memory_dim,
        in_dim=config.hidden_dim,
        position_encoding=_sine(config.memory_dim),
        mask_downsampler=MaskDownSampler(
            embed_dim=config.hidden_dim, kernel_size=3, stride=2, padding=1
        ),
        fuser=Fuser(layer=block, num_layers=2),
    )
