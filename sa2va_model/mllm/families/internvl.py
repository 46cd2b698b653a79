# SPDX-License-Identifier: Apache-2.0
"""The InternVL family: InternViT, projector and a causal language model, all from transformers' classes.

Letters: T tiles, C hidden size of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.models.internvl import InternVLVisionConfig, InternVLVisionModel

from sa2va_model.config import ModelConfig, VisionConfig
from sa2va_model.conv_stem import ResidualStem
from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.base import Mllm
from sa2va_model.mllm.llm import CONFIG_ERRORS, language_model, one_line
from sa2va_model.mllm.vision import Visual


def vision_model(config: VisionConfig) -> InternVLVisionModel:
    """InternViT with random weights: 300M and, with RMS norms and normalised queries and keys, 6B.

    Raises:
        InputError: sizes that do not fit each other.
    """
    try:
        model = InternVLVisionModel(
            InternVLVisionConfig(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size,
                attention_bias=config.qkv_bias,
                use_qk_norm=config.qk_normalization,
                norm_type=config.norm_type,
                layer_norm_eps=config.layer_norm_eps,
                hidden_act=config.hidden_act,
                image_size=config.image_size,
                patch_size=config.patch_size,
                layer_scale_init_value=config.initializer_factor,
                use_mean_pooling=True,
                attn_implementation="sdpa",
            )
        )
    except CONFIG_ERRORS as error:
        raise InputError(f"vision_config: {one_line(error)}") from error
    if config.qk_normalization:
        # The published code gives them the configured epsilon, transformers' class a fixed one.
        for layer in model.encoder.layer:
            for norm in (layer.attention.q_norm, layer.attention.k_norm):
                norm.variance_epsilon = config.layer_norm_eps
    if config.stem:
        model.embeddings.patch_embeddings.projection = ResidualStem(
            (*config.stem, config.hidden_size), config.stem_blocks, config.hidden_size
        )
    return model


def pixel_shuffle(tokens: Tensor, ratio: float, version: str) -> Tensor:
    """Trades resolution for channels: [T, h, w, c] to [T, h·ratio, w·ratio, c/ratio²] (InternVL)."""
    count, height, width, channels = tokens.shape
    tokens = tokens.reshape(count, height, int(width * ratio), int(channels / ratio))
    tokens = tokens.permute(0, 2, 1, 3).contiguous()
    tokens = tokens.reshape(
        count, int(width * ratio), int(height * ratio), int(channels / ratio**2)
    )
    # Version 1 of the published code leaves rows and columns exchanged.
    return tokens if version == "v1" else tokens.permute(0, 2, 1, 3).contiguous()


class InternVL(Mllm):
    """InternViT sees tiles, a projector turns them into tokens of the language model."""

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(
            config,
            tokenizer,
            language_model(config.llm),
            template=prompts.template(config.template),
            image_tokens=(prompts.IMAGE_TOKEN, prompts.IMAGE_END),
        )
        self.vision_model = vision_model(config.vision)
        visual = int(config.vision.hidden_size / config.downsample_ratio**2)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(visual),
            nn.Linear(visual, self.hidden_size),
            nn.GELU(),
            nn.Linear(self.hidden_size, self.hidden_size),
        )

    def visual_tokens(self, tiles: Tensor) -> Tensor:
        """Projected visual tokens: [T, 3, s, s] to [T, tokens_per_tile, C]."""
        out = self._layer(tiles.to(self.device, self.dtype))[:, 1:]  # without the class token
        side = int(out.shape[1] ** 0.5)
        grid = out.reshape(out.shape[0], side, side, -1)
        grid = pixel_shuffle(grid, self.config.downsample_ratio, self.config.pixel_shuffle_version)
        projected: Tensor = self.mlp1(grid.reshape(grid.shape[0], -1, grid.shape[-1]))
        return projected

    def _layer(self, tiles: Tensor) -> Tensor:
        """The layer of InternViT that `select_layer` names, counted as in a list that begins with the embeddings."""
        chosen = self.config.select_layer
        if chosen == -1:
            last: Tensor = self.vision_model(tiles).last_hidden_state
            return last
        layers = self.vision_model(tiles, output_hidden_states=True).hidden_states
        if not -len(layers) <= chosen < len(layers):
            raise InputError(f"select_layer is {chosen}; the vision model has {len(layers) - 1}")
        found: Tensor = layers[chosen]
        return found

    def look(self, frames: Sequence[np.ndarray], *, clip: bool) -> Visual:
        """What the vision model sees of uint8 [H, W, 3] frames; each of a clip is one tile."""
        tiles = [
            images.tiles(frame, self.config, single=clip, device=self.device) for frame in frames
        ]
        pixels = torch.cat(tiles).to(self.device, self.dtype)
        (visual,) = self.replayed("look", lambda x: (self.visual_tokens(x),), pixels)
        counts = tuple(len(t) * visual.shape[1] for t in tiles)
        return Visual(visual.flatten(0, 1), counts, overview=visual[-1])

    def user_turn(
        self, text: str, visual: Visual | None, regions: Sequence[np.ndarray] = ()
    ) -> tuple[str, Visual | None]:
        """The user's words with image blocks in place of `<image>`, and the visual tokens that stand in them.

        Args:
            regions: bool [H, W] masks on the one image; named region1, region2 … behind it.
        """
        if visual is None:
            return text.replace(prompts.IMAGE_PLACEHOLDER, ""), None
        block = "\n".join(prompts.image_block(count) for count in visual.counts)
        if regions:
            assert visual.overview is not None
            cells = [images.region_cells(region, self.config).flatten() for region in regions]
            block += prompts.region_text([int(c.sum()) for c in cells])
            parts = [visual.overview[c.to(visual.overview.device)] for c in cells]
            visual = visual.with_regions(parts)
        return text.replace(prompts.IMAGE_PLACEHOLDER, block, 1), visual
