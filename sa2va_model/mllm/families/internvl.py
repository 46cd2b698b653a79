# SPDX-License-Identifier: Apache-2.0
"""The InternVL family: InternViT, projector and a causal language model, all from transformers' classes.

Letters: T tiles, C hidden size of the language model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sa2va_model.config.fields import renamed_fields, typed_fields
from sa2va_model.config.model import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.family import BaseMllm, MllmFamily
from sa2va_model.mllm.json_fields import json_object
from sa2va_model.mllm.llm import language_model, nano_text
from sa2va_model.mllm.models import internvit
from sa2va_model.mllm.models.internlm2 import INTERNLM2, internlm2_tensors
from sa2va_model.mllm.models.internvit import VisionConfig, pixel_shuffle, vision_model
from sa2va_model.mllm.tensor_map import TensorMap
from sa2va_model.mllm.tiled import TiledMllm
from sa2va_model.mllm.vision import Visual


@dataclass(frozen=True)
class InternVLConfig:
    """What this family has of its own in `config.json`.

    Attributes:
        vision: InternViT.
        llm: `llm_config`, passed on to transformers.
        template: chat template name; see `chat.TEMPLATES`.
        ten_clips: SaSaSa2VA, which answers about a clip in ten parts (see `sa2va_model.ten_clips`).
    """

    vision: VisionConfig
    llm: Mapping[str, Any]
    template: str = "qwen_chat"
    downsample_ratio: float = 0.5
    pixel_shuffle_version: str = "v2"
    select_layer: int = -1
    dynamic_image_size: bool = True
    use_thumbnail: bool = True
    min_tiles: int = 1
    max_tiles: int = 12
    ten_clips: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.downsample_ratio <= 1:
            raise InputError(
                f"downsample_ratio is {self.downsample_ratio}; expected 0 < ratio <= 1"
            )

    @property
    def family(self) -> str:
        """In the registry."""
        return "internvl"

    @property
    def tied(self) -> bool:
        """Whether the language model's head is its embedding."""
        return bool(self.llm.get("tie_word_embeddings", False))

    def untied(self) -> InternVLConfig:
        """The same with a head of its own."""
        return replace(self, llm={**self.llm, "tie_word_embeddings": False})

    @property
    def tokens_per_tile(self) -> int:
        """Visual tokens of one tile after pixel shuffle."""
        side = self.vision.image_size // self.vision.patch_size
        return int(side * self.downsample_ratio) ** 2

    @property
    def region_size(self) -> int:
        """Side of the token grid onto which a region prompt is rasterised."""
        return int(self.tokens_per_tile**0.5)

    @property
    def tiling(self) -> images.TileCut:
        """How an image is cut."""
        return images.TileCut(
            side=self.vision.image_size,
            least=self.min_tiles,
            most=self.max_tiles,
            dynamic=self.dynamic_image_size,
            thumbnail=self.use_thumbnail,
        )


TEN_CLIPS = "SaSaSa2VAChatModel"
"""SaSaSa2VA's class in `config.json`; tensors, template and images are Sa2VA's."""
# The official code ignores `max_dynamic_patch` and always uses 12 tiles.
_IN_FILES = {"ps_version": "pixel_shuffle_version", "min_dynamic_patch": "min_tiles"} | {
    name: name
    for name in (
        "downsample_ratio",
        "select_layer",
        "dynamic_image_size",
        "use_thumbnail",
        "max_tiles",
    )
}


def read(values: Mapping[str, Any], where: str, _: Mapping[str, Any]) -> InternVLConfig:
    """What `config.json` says."""
    llm, vision = (json_object(values, name, where) for name in ("llm_config", "vision_config"))
    return InternVLConfig(
        vision=VisionConfig(**typed_fields(VisionConfig, vision, "vision_config.")),
        llm=dict(llm),
        template=str(values.get("template") or "qwen_chat").replace("-", "_"),
        ten_clips=values.get("architectures") == [TEN_CLIPS],
        **renamed_fields(InternVLConfig, values, _IN_FILES),
    )


def write(config: InternVLConfig) -> dict[str, Any]:
    """What `read` reads."""
    named = {"architectures": [TEN_CLIPS], "model_type": "sasasa2va_chat"}
    return {
        **(named if config.ten_clips else {}),
        "template": config.template,
        "force_image_size": config.vision.image_size,
        "downsample_ratio": config.downsample_ratio,
        "ps_version": config.pixel_shuffle_version,
        "select_layer": config.select_layer,
        "dynamic_image_size": config.dynamic_image_size,
        "use_thumbnail": config.use_thumbnail,
        "min_dynamic_patch": config.min_tiles,
        "max_dynamic_patch": config.max_tiles,
        "max_tiles": config.max_tiles,
        "vision_config": {"architectures": ["InternVisionModel"], **asdict(config.vision)},
        "llm_config": dict(config.llm),
    }


def tensors(config: InternVLConfig) -> TensorMap:
    """Names in the files; those of InternLM2 are its own."""
    internlm2 = INTERNLM2 in (config.llm.get("architectures") or ())
    llm = internlm2_tensors(config.llm) if internlm2 else TensorMap(())
    return TensorMap((*internvit.TENSORS.pairs, *llm.pairs), (*internvit.TENSORS.cuts, *llm.cuts))


class InternVL(TiledMllm):
    """InternViT sees tiles, a projector turns them into tokens of the language model."""

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        assert isinstance(config.mllm, InternVLConfig)
        own = self.own = config.mllm
        super().__init__(
            config,
            tokenizer,
            language_model(own.llm),
            template=prompts.template(own.template),
            image_tokens=(prompts.IMAGE_TOKEN, prompts.IMAGE_END),
            tile_size=own.vision.image_size,
            tokens_per_tile=own.tokens_per_tile,
        )
        self.vision_model = vision_model(own.vision)
        visual = int(own.vision.hidden_size / own.downsample_ratio**2)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(visual),
            nn.Linear(visual, self.hidden_size),
            nn.GELU(),
            nn.Linear(self.hidden_size, self.hidden_size),
        )

    def visual_tokens(self, tiles: Tensor) -> Tensor:
        """Projected visual tokens: [T, 3, s, s] to [T, tokens_per_tile, C]."""
        seen: Any = self.vision_model
        out = self._layer(tiles.to(seen.device, seen.dtype))[:, 1:]  # without the class token
        side = int(out.shape[1] ** 0.5)
        grid = out.reshape(out.shape[0], side, side, -1)
        grid = pixel_shuffle(grid, self.own.downsample_ratio, self.own.pixel_shuffle_version)
        projected: Tensor = self.mlp1(grid.reshape(grid.shape[0], -1, grid.shape[-1]))
        return projected

    def vision_parts(self) -> tuple[nn.Module, ...]:
        """InternViT and the projector."""
        return self.vision_model, self.mlp1

    def _layer(self, tiles: Tensor) -> Tensor:
        """The layer of InternViT that `select_layer` names, counted as in a list that begins with the embeddings."""
        chosen = self.own.select_layer
        if chosen == -1:
            last: Tensor = self.vision_model(tiles).last_hidden_state
            return last
        layers = self.vision_model(tiles, output_hidden_states=True).hidden_states
        if not -len(layers) <= chosen < len(layers):
            raise InputError(f"select_layer is {chosen}; the vision model has {len(layers) - 1}")
        found: Tensor = layers[chosen]
        return found

    def tiles(self, frame: np.ndarray, *, clip: bool) -> Tensor:
        """One frame as the vision model gets it, [T, 3, s, s]: frames of a clip are one tile each."""
        return images.tiles(frame, self.own.tiling, single=clip, device=self.device)

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


_NANO_LLM: dict[str, dict[str, Any]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
    "internlm2": {
        "architectures": [INTERNLM2],
        "bias": False,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    },
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "phi3": {"architectures": ["Phi3ForCausalLM"]},
    "internvit_6b": {"architectures": [INTERNLM2], "bias": False},
}


def _nano(name: str, vocabulary: int) -> dict[str, Any]:
    """Fields of a `config.json` with every part as small as it can be."""
    vision: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    if name == "internvit_6b":
        vision |= {"norm_type": "rms_norm", "qkv_bias": False, "qk_normalization": True}
    llm = nano_text(vocabulary) | _NANO_LLM[name]
    template = "internlm2_chat" if llm["architectures"] == [INTERNLM2] else "qwen_chat"
    return {"vision_config": vision, "llm_config": llm, "template": template, "max_tiles": 1}


_BASE_TEMPLATES = {INTERNLM2: "internlm2_chat", "Phi3ForCausalLM": "phi3_chat"}
"""What Sa2VA calls a turn of a language model; ChatML for all others, whatever the base calls it."""


def _base_fields(values: dict[str, Any]) -> dict[str, Any]:
    kind = ((values.get("llm_config") or {}).get("architectures") or [""])[0]
    return {**values, "template": _BASE_TEMPLATES.get(kind, "qwen_chat")}


FAMILY = MllmFamily(
    name="internvl",
    title="InternVL",
    architectures=("Sa2VAChatModel", TEN_CLIPS),
    recognise=lambda values: "llm_config" in values,
    read=read,
    write=write,
    tensors=tensors,
    build=InternVL,
    base=BaseMllm(
        ("InternVLChatModel",),
        "llm_config",
        _base_fields,
        layout="InternVL 2, 2.5, 3 in their own layout, not '-hf'",
    ),
    nano={name: partial(_nano, name) for name in _NANO_LLM},
)
