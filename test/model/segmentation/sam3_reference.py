# SPDX-License-Identifier: Apache-2.0
"""SAM 3's tracker by transformers' own `Sam3TrackerVideo` modules, in one pass with the rules of the official Sa2VA.

Nothing of ours computes here: official names are mapped to transformers' once more, and memories are kept in lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam3TrackerVideoConfig, Sam3TrackerVideoModel

from sa2va_model.config.segmenter import Sam3Config

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
_VISION = r"^backbone\.vision_backbone\."
_FILES = r"^maskmem_backbone\.mask_downsampler\.encoder\."


def _third(ending: str) -> Callable[[re.Match[str]], str]:
    return lambda m: f"memory_encoder.mask_downsampler.layers.{int(m[1]) // 3}.{ending}."


RULES: tuple[Rule, ...] = (
    (rf"{_VISION}trunk\.pos_embed$", "vision_encoder.backbone.embeddings.position_embeddings"),
    (
        rf"{_VISION}trunk\.patch_embed\.proj\.",
        "vision_encoder.backbone.embeddings.patch_embeddings.projection.",
    ),
    (rf"{_VISION}trunk\.ln_pre\.", "vision_encoder.backbone.layer_norm."),
    (rf"{_VISION}trunk\.blocks\.(\d+)\.norm", r"vision_encoder.backbone.layers.\1.layer_norm"),
    (rf"{_VISION}trunk\.blocks\.(\d+)\.mlp\.", r"vision_encoder.backbone.layers.\1.mlp."),
    (
        rf"{_VISION}trunk\.blocks\.(\d+)\.attn\.proj\.",
        r"vision_encoder.backbone.layers.\1.attention.o_proj.",
    ),
    (
        rf"{_VISION}sam2_convs\.(\d+)\.dconv_2x2_1\.",
        r"vision_encoder.neck.fpn_layers.\1.scale_layers.2.",
    ),
    (
        rf"{_VISION}sam2_convs\.(\d+)\.dconv_2x2(_0)?\.",
        r"vision_encoder.neck.fpn_layers.\1.scale_layers.0.",
    ),
    (rf"{_VISION}sam2_convs\.(\d+)\.conv_1x1\.", r"vision_encoder.neck.fpn_layers.\1.proj1."),
    (rf"{_VISION}sam2_convs\.(\d+)\.conv_3x3\.", r"vision_encoder.neck.fpn_layers.\1.proj2."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^obj_ptr_proj\.layers\.0\.", "object_pointer_proj.proj_in."),
    (r"^obj_ptr_proj\.layers\.1\.", "object_pointer_proj.layers.0."),
    (r"^obj_ptr_proj\.layers\.2\.", "object_pointer_proj.proj_out."),
    (r"^transformer\.encoder\.norm\.", "memory_attention.layer_norm."),
    (r"^transformer\.encoder\.layers\.(\d+)\.norm", r"memory_attention.layers.\1.layer_norm"),
    (r"^transformer\.encoder\.(.*)\.out_proj\.", r"memory_attention.\1.o_proj."),
    (r"^transformer\.encoder\.", "memory_attention."),
    (rf"{_FILES}12\.", "memory_encoder.mask_downsampler.final_conv."),
    (rf"{_FILES}(0|3|6|9)\.", _third("conv")),
    (rf"{_FILES}(1|4|7|10)\.", _third("layer_norm")),
    (r"^maskmem_backbone\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^maskmem_backbone\.out_proj\.", "memory_encoder.projection."),
    (r"^maskmem_backbone\.fuser\.(.*)\.g_weight$", r"memory_encoder.memory_fuser.\1.scale"),
    (
        r"^maskmem_backbone\.fuser\.(.*)\.dwconv\.",
        r"memory_encoder.memory_fuser.\1.depthwise_conv.",
    ),
    (r"^maskmem_backbone\.fuser\.(.*)\.norm\.", r"memory_encoder.memory_fuser.\1.layer_norm."),
    (
        r"^maskmem_backbone\.fuser\.(.*)\.pwconv(\d)\.",
        r"memory_encoder.memory_fuser.\1.pointwise_conv\2.",
    ),
    (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^sam_mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^sam_mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (
        r"^sam_mask_decoder\.(output_h.*|iou_p.*|pred_obj.*)\.layers\.0\.",
        r"mask_decoder.\1.proj_in.",
    ),
    (
        r"^sam_mask_decoder\.(output_h.*|iou_p.*|pred_obj.*)\.layers\.1\.",
        r"mask_decoder.\1.layers.0.",
    ),
    (
        r"^sam_mask_decoder\.(output_h.*|iou_p.*|pred_obj.*)\.layers\.2\.",
        r"mask_decoder.\1.proj_out.",
    ),
    (
        r"^sam_mask_decoder\.transformer\.norm_final_attn\.",
        "mask_decoder.transformer.layer_norm_final_attn.",
    ),
    (
        r"^sam_mask_decoder\.transformer\.layers\.(\d)\.norm",
        r"mask_decoder.transformer.layers.\1.layer_norm",
    ),
    (r"^sam_mask_decoder\.(.*)\.mlp\.lin1\.", r"mask_decoder.\1.mlp.proj_in."),
    (r"^sam_mask_decoder\.(.*)\.mlp\.lin2\.", r"mask_decoder.\1.mlp.proj_out."),
    (r"^sam_mask_decoder\.transformer\.(.*)\.out_proj\.", r"mask_decoder.transformer.\1.o_proj."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^mask_downsample\.", "mask_downsample."),
)


def renamed(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' state dict of the official tensors, names below `grounding_encoder.sam2_model.`."""
    out: dict[str, Tensor] = {}
    for name, tensor in official.items():
        qkv = re.match(rf"{_VISION}trunk\.blocks\.(\d+)\.attn\.qkv\.(.*)", name)
        point = re.match(r"^sam_prompt_encoder\.point_embeddings\.(\d)\.", name)
        if qkv:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                place = f"vision_encoder.backbone.layers.{qkv[1]}.attention.{letter}_proj.{qkv[2]}"
                out[place] = part
        elif name.endswith("positional_encoding_gaussian_matrix"):
            for module in ("shared_image_embedding", "prompt_encoder.shared_embedding"):
                out[f"{module}.positional_embedding"] = tensor
        elif point:
            table = out.setdefault(
                "prompt_encoder.point_embed.weight", tensor.new_zeros(4, tensor.shape[1])
            )
            table[int(point[1])] = tensor[0]
        else:
            tensor = tensor[:, 1:] if name.endswith("trunk.pos_embed") else tensor
            rule, into = next((r, into) for r, into in RULES if re.match(r, name))
            out[re.sub(rule, into, name)] = tensor
    return out


def transformers_config(config: Sam3Config) -> Sam3TrackerVideoConfig:
    """The same sizes in transformers' words."""
    d, cells, side = config.hidden_dim, config.feature_size, config.image_size
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "image_size": side,
        "patch_size": 14,
        "window_size": config.window,
        "global_attn_indexes": list(config.global_blocks),
        "pretrain_image_size": 14 * config.position_side,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
    }
    vision = {
        "model_type": "sam3_vision_model",
        "fpn_hidden_size": d,
        "backbone_feature_sizes": [[4 * cells] * 2, [2 * cells] * 2, [cells] * 2],
        "scale_factors": [4.0, 2.0, 1.0, 0.5],
        "backbone_config": backbone,
    }
    return Sam3TrackerVideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": d, "image_size": side},
        mask_decoder_config={"hidden_size": d, "mlp_dim": config.decoder_mlp_dim},
        memory_attention_hidden_size=d,
        memory_attention_num_layers=config.memory_layers,
        memory_attention_feed_forward_hidden_size=config.memory_mlp_dim,
        memory_attention_rope_feat_sizes=[cells, cells],
        memory_encoder_hidden_size=d,
        memory_encoder_output_channels=config.memory_dim,
        mask_downsampler_embed_dim=d,
        memory_fuser_embed_dim=d,
        memory_fuser_intermediate_dim=4 * d,
        image_size=side,
    )


class Reference:
    """One object at a time, all memories kept.

    Args:
        official: tensors below `grounding_encoder.sam2_model.`, of float32.
    """

    def __init__(self, config: Sam3Config, official: Mapping[str, Tensor]) -> None:
        self.config, self.cells = config, config.feature_size
        self.model: Any = Sam3TrackerVideoModel(transformers_config(config)).eval()
        for (
            layer
        ) in self.model.memory_attention.layers:  # transformers has 64, which is right as published
            cross = layer.cross_attn_image
            cross.kv_in_dim = config.memory_dim
            cross.k_proj, cross.v_proj = (
                nn.Linear(config.memory_dim, config.hidden_dim) for _ in range(2)
            )
        missing, unknown = self.model.load_state_dict(renamed(official), strict=False)
        # Thrown away by both: the neck's fourth level; and a mask prompt's own pointer.
        assert not unknown, unknown
        rest = [n for n in missing if "fpn_layers.3." not in n]
        assert not rest, rest

    @torch.no_grad()
    def see(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """[1, 3, S, S] to maps [hw, 1, c] of three levels, and the code of the coarsest."""
        out = self.model.get_image_features(pixels, return_dict=True)
        return (*out.fpn_hidden_states[:3], out.fpn_position_encoding[2])

    def _map(self, tokens: Tensor, level: int = 2) -> Tensor:
        side = 4 * self.cells // 2**level
        return tokens.permute(1, 2, 0).view(1, -1, side, side)

    @torch.no_grad()
    def follow(
        self, seen: list[tuple[Tensor, ...]], embedding: Tensor, total: int
    ) -> Iterator[dict[str, Tensor]]:
        """What is recorded of each frame; the first five are prompted.

        Args:
            total: frames of the clip, as the official code is told.
        """
        prompted: dict[int, tuple[Tensor, ...]] = {}
        tracked: dict[int, tuple[Tensor, ...]] = {}
        limit = min(total, 16)
        for t, frame in enumerate(seen):
            first = t < min(5, total)
            top = (
                self._map(frame[2] + self.model.no_memory_embedding)
                if first
                else self._attend(frame, t, limit, prompted, tracked)
            )
            answer = self._decode(frame, top, embedding if first else None)
            memory, place = self._remember(frame, answer, prompted=first)
            (prompted if first else tracked)[t] = (memory, place, answer["obj_ptr"])
            yield answer | {"maskmem_features_bf16": memory}

    def _decode(
        self, frame: tuple[Tensor, ...], top: Tensor, embedding: Tensor | None
    ) -> dict[str, Tensor]:
        model, cells = self.model, self.cells
        nothing = model.prompt_encoder.not_a_point_embed.weight
        words = [nothing, nothing] + ([] if embedding is None else [embedding[None]])
        dense = model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        masks, ious, tokens, score = model.mask_decoder(
            image_embeddings=top,
            image_positional_embeddings=model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=torch.cat(words)[None, None],
            dense_prompt_embeddings=dense.expand(1, -1, cells, cells),
            multimask_output=True,
            high_resolution_features=[self._map(frame[i], i) for i in range(2)],
        )
        shown = score[0] > 0
        masks = torch.where(shown[:, :, None, None], masks[0], torch.tensor(-1024.0))
        best = int(ious[0, 0].argmax())
        pointer = model.object_pointer_proj(tokens[0, :, best])
        return {
            "multimasks": masks[0],
            "ious": ious[0, 0],
            "object_score": score[0, 0],
            "low_res_mask": masks[0, best : best + 1],
            "obj_ptr": torch.where(shown, pointer, model.no_object_pointer)[0],
        }

    def _remember(
        self, frame: tuple[Tensor, ...], answer: dict[str, Tensor], *, prompted: bool
    ) -> tuple[Tensor, Tensor]:
        side = (self.config.image_size,) * 2
        high = F.interpolate(
            answer["low_res_mask"][None], side, mode="bilinear", align_corners=False
        )
        mask = ((high > 0).float() if prompted else high.sigmoid()) * 20 - 10
        mask = F.interpolate(
            mask, (16 * self.cells,) * 2, mode="bilinear", align_corners=False, antialias=True
        )
        memory, place = self.model.memory_encoder(self._map(frame[2]), mask)
        hidden = (answer["object_score"] <= 0).float()
        memory = memory + hidden * self.model.occlusion_spatial_embedding_parameter[..., None, None]
        return memory.bfloat16()[0], place

    def _attend(
        self,
        frame: tuple[Tensor, ...],
        t: int,
        limit: int,
        prompted: dict[int, tuple[Tensor, ...]],
        tracked: dict[int, tuple[Tensor, ...]],
    ) -> Tensor:
        model = self.model
        near = sorted(prompted, key=lambda i: t - i)[:4]
        passing = {i: kept for i, kept in prompted.items() if i not in near} | tracked
        codes = model.memory_temporal_positional_encoding
        read = [(prompted[i], codes[6]) for i in near]
        read += [(passing[t - d], codes[d - 1]) for d in range(6, 0, -1) if t - d in passing]
        told = [(prompted[i][2], t - i) for i in near]
        told += [(passing[t - d][2], d) for d in range(1, limit) if t - d in passing]
        parts = self.config.hidden_dim // self.config.memory_dim
        when = torch.tensor([d for _, d in told], dtype=torch.float32) / (limit - 1)
        code = model.temporal_positional_encoding_projection_layer(
            _sine(when, self.config.hidden_dim)
        )
        pointers = torch.cat([p.view(parts, 1, -1) for p, _ in told])
        values = [kept[0].float().flatten(1).T[:, None] for kept, _ in read]
        places = [(kept[1] + c.view(1, -1, 1, 1)).flatten(2).permute(2, 0, 1) for kept, c in read]
        attended = model.memory_attention(
            current_vision_features=frame[2],
            current_vision_position_embeddings=frame[3],
            memory=torch.cat([*values, pointers]),
            memory_posision_embeddings=torch.cat(
                [*places, code.repeat_interleave(parts, 0)[:, None]]
            ),
            num_object_pointer_tokens=len(pointers),
        )
        return attended.squeeze(1).transpose(1, 2).reshape(1, -1, self.cells, self.cells)


def _sine(when: Tensor, width: int) -> Tensor:
    half = width // 2
    scale = 10000 ** (2 * (torch.arange(half, dtype=torch.float32) // 2) / half)
    angles = when[:, None] / scale
    return torch.cat([angles.sin(), angles.cos()], -1)
