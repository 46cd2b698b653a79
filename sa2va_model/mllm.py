# SPDX-License-Identifier: Apache-2.0
"""The language half of Sa2VA: InternViT, projector and a causal language model, all from transformers' classes.

`Mllm.look` sees frames, `Mllm.inputs` puts what it saw into a prompt, `Mllm.decoder` answers it and keeps the
final-norm state of every token; those at `[SEG]` become prompts for SAM-2 (arXiv 2501.04001, section 3.2).

Letters: T tiles, L tokens, C hidden size of the language model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.internvl import InternVLVisionConfig, InternVLVisionModel

from sa2va_model import images, prompts
from sa2va_model.config import ModelConfig, VisionConfig
from sa2va_model.decoding import Decoder, Generated, Inputs
from sa2va_model.errors import InputError
from sa2va_model.visual import Visual

LANGUAGE_MODELS = {"Qwen2ForCausalLM": "qwen2"}


class ConvolutionalStem(nn.Sequential):
    """Stride-2 convolutions in place of the single patch convolution; for small models trained from scratch."""

    def __init__(self, channels: tuple[int, ...], hidden: int) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in (*channels, hidden):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(1, outputs), nn.GELU()]
            inputs = outputs
        super().__init__(*layers, nn.Conv2d(hidden, hidden, 1))

    @property
    def weight(self) -> Tensor:
        """The patch embedding asks its convolution for its dtype."""
        weight = self[0].weight
        assert isinstance(weight, Tensor)
        return weight


def vision_model(config: VisionConfig) -> InternVLVisionModel:
    """InternViT with random weights."""
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
    if config.stem:
        model.embeddings.patch_embeddings.projection = ConvolutionalStem(
            config.stem, config.hidden_size
        )
    return model


def language_model(values: Mapping[str, Any]) -> PreTrainedModel:
    """The causal language model that `llm_config` describes, with random weights."""
    names = values.get("architectures") or ["Qwen2ForCausalLM"]
    if names[0] not in LANGUAGE_MODELS:
        raise InputError(
            f"llm_config.architectures is {names}; expected one of {', '.join(LANGUAGE_MODELS)}"
        )
    skipped = (
        "architectures",
        "model_type",
        "torch_dtype",
        "dtype",
        "auto_map",
        "attn_implementation",
    )
    known = {k: v for k, v in values.items() if k not in skipped and not k.startswith("_")}
    config = AutoConfig.for_model(LANGUAGE_MODELS[names[0]], **known)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    assert isinstance(model, PreTrainedModel)
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


class Mllm(nn.Module):
    """InternVL family: vision model, projector, language model and its tokenizer."""

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.vision_model = vision_model(config.vision)
        self.language_model = language_model(config.llm)
        hidden = self.hidden_size = int(config.llm["hidden_size"])
        visual = int(config.vision.hidden_size / config.downsample_ratio**2)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(visual), nn.Linear(visual, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.template = prompts.template(config.template)
        self.seg_id = self._token_id(prompts.SEG)
        self.image_id = self._token_id(prompts.IMAGE_TOKEN)
        self.image_end_id = self._token_id(prompts.IMAGE_END)
        stops = [self._token_id(word) for word in self.template.stop_words]
        if tokenizer.eos_token_id is not None:
            stops.append(int(tokenizer.eos_token_id))
        self.stop_ids = frozenset(stops)
        self.decoder = Decoder(self.language_model, self.stop_ids)
        end = self.template.stop_words[0]
        sentences = (*prompts.ANSWERS, *config.extra_answers)
        self.answers = tuple(
            tuple(tokenizer.encode(text + end, add_special_tokens=False)) for text in sentences
        )

    def _token_id(self, token: str) -> int:
        ids = self.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise InputError(
                f"tokenizer: {token!r} is {len(ids)} tokens; expected one special token"
            )
        return int(ids[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.language_model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.language_model.dtype

    def visual_tokens(self, tiles: Tensor) -> Tensor:
        """Projected visual tokens: [T, 3, s, s] to [T, tokens_per_tile, C]."""
        out = self.vision_model(tiles.to(self.device, self.dtype)).last_hidden_state[:, 1:]
        side = int(out.shape[1] ** 0.5)
        grid = out.reshape(out.shape[0], side, side, -1)
        grid = pixel_shuffle(grid, self.config.downsample_ratio, self.config.pixel_shuffle_version)
        projected: Tensor = self.mlp1(grid.reshape(grid.shape[0], -1, grid.shape[-1]))
        return projected

    def look(self, frames: Sequence[np.ndarray], *, clip: bool) -> Visual:
        """What the vision model sees of uint8 [H, W, 3] frames; each of a clip is one tile."""
        tiles = [images.tiles(frame, self.config, single=clip) for frame in frames]
        visual = self.visual_tokens(torch.cat(tiles))
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

    def prompt_ids(self, user_text: str, history: str = "") -> list[int]:
        """Token ids of one user turn in the checkpoint's chat template."""
        ids: list[int] = self.tokenizer.encode(
            history + self.template.instruction.format(input=user_text)
        )
        return ids

    def embed(self, ids: Tensor, visual: Tensor | None) -> Tensor:
        """Embeddings [B, L, C] of token ids [B, L], with `visual` [K, C] at the K image tokens, in order."""
        embeddings: Tensor = self.language_model.get_input_embeddings()(ids)
        places = ids == self.image_id
        given = 0 if visual is None else len(visual)
        if int(places.sum()) != given:
            raise InputError(
                f"prompt: {int(places.sum())} image tokens for {given} visual tokens; expected as many"
            )
        if visual is None:
            return embeddings
        embeddings = embeddings.clone()
        embeddings[places] = visual.to(embeddings.dtype)
        return embeddings

    def inputs(self, ids: Sequence[int], visual: Visual | None) -> Inputs:
        """What the decoder reads for token ids, with `visual` in the places of its tokens."""
        tokens = torch.tensor([list(ids)], device=self.device)
        return Inputs(self.embed(tokens, None if visual is None else visual.tokens))

    def seg_states(self, prompt: Sequence[int], generated: Generated) -> Tensor:
        """The states at every `[SEG]` that counts, [K, C]; here those of the answer."""
        return generated.states_at(self.seg_id)
