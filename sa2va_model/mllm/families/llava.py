# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5: a CLIP that sees each frame as one square, a projector and Llama; transformers' own class.

The image token is written out as often as an image has tokens, one line for each frame, before the user's words
whatever their place in them. Turns are those of Vicuna, without a system prompt.

Letters: T frames, C hidden size of the language model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaConfig as PublishedLlavaConfig
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from sa2va_model.config.model import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.io.preprocessing import CLIP_MEAN, CLIP_STD
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.family import BaseMllm, MllmFamily
from sa2va_model.mllm.json_fields import json_object
from sa2va_model.mllm.llm import nano_text, vision_language_model
from sa2va_model.mllm.tensor_map import TensorMap
from sa2va_model.mllm.tiled import TiledMllm
from sa2va_model.mllm.vision import Visual

IMAGE, MARK = "<image>", "\u2581"
VICUNA = prompts.Template("USER: {input} ASSISTANT:", ("</s>",))
_OWN_FIELDS = (
    "text_config",
    "vision_config",
    "image_token_index",
    "projector_hidden_act",
    "multimodal_projector_bias",
    "vision_feature_layer",
    "tie_word_embeddings",
)
_KINDS = {"text_config": "llama", "vision_config": "clip_vision_model"}


@dataclass(frozen=True)
class LlavaSizes:
    """The vision-language model: `values` are the fields that transformers' configuration class gets."""

    values: Mapping[str, Any]

    @property
    def family(self) -> str:
        """In the registry."""
        return "llava"

    @property
    def region_size(self) -> int:
        """There are no region prompts."""
        return 0

    @property
    def llm(self) -> Mapping[str, Any]:
        """The language model's own configuration."""
        found: Mapping[str, Any] = self.values["text_config"]
        return found

    @property
    def tied(self) -> bool:
        """Whether the language model's head is its embedding."""
        return any(part.get("tie_word_embeddings", False) for part in (self.values, self.llm))

    def untied(self) -> LlavaSizes:
        """The same with a head of its own."""
        text = {**self.llm, "tie_word_embeddings": False}
        return replace(
            self, values={**self.values, "text_config": text, "tie_word_embeddings": False}
        )

    @property
    def image_size(self) -> int:
        """Side of what CLIP sees, pixels."""
        return int(self.values["vision_config"].get("image_size", 336))

    @property
    def tokens_per_tile(self) -> int:
        """Patches of it; the class token is left out."""
        return (self.image_size // int(self.values["vision_config"].get("patch_size", 14))) ** 2

    @property
    def layer(self) -> int:
        """The layer of CLIP whose states are seen, counted as in a list that begins with the embeddings."""
        return int(self.values.get("vision_feature_layer", -2))


def read(values: Mapping[str, Any], where: str, _: Mapping[str, Any]) -> LlavaSizes:
    """What `config.json` says.

    Raises:
        InputError: a field is missing or has a value that no code path serves.
    """
    for name in _KINDS:
        json_object(values, name, where)
    served = {"template": "vicuna", "vision_feature_select_strategy": "default"}
    for name, expected in served.items():
        if (found := values.get(name) or expected) != expected:
            raise InputError(f"{where}: {name} is {found!r}; expected {expected!r}")
    if not isinstance(index := values.get("image_token_index"), int):
        raise InputError(
            f"{where}: field 'image_token_index' is {index!r}; expected the id of {IMAGE!r}"
        )
    return LlavaSizes({n: values[n] for n in _OWN_FIELDS if values.get(n) is not None})


def write(config: LlavaSizes) -> dict[str, Any]:
    """What `read` reads."""
    return {
        "template": "vicuna",
        "vision_feature_select_strategy": "default",
        "image_seq_length": config.tokens_per_tile,
        **config.values,
    }


class Llava(TiledMllm):
    """CLIP sees frames, `language_model` is the whole vision-language model."""

    prompt_points = True

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        assert isinstance(config.mllm, LlavaSizes)
        own = self.own = config.mllm
        super().__init__(
            config,
            tokenizer,
            vision_language_model(
                PublishedLlavaConfig,
                LlavaForConditionalGeneration,
                {**own.values, "tie_word_embeddings": own.tied},
                _KINDS,
            ),
            template=VICUNA,
            image_tokens=(IMAGE, IMAGE),
            tile_size=own.image_size,
            tokens_per_tile=own.tokens_per_tile,
        )

    def spellings(self, text: str) -> list[tuple[int, ...]]:
        """As it is read, and without the marks of a blank that reading puts before every piece, or all but the first.

        Pieces are what special tokens leave of a text; which of them a tokenizer of its training marked, nobody says.
        """
        special = "|".join(re.escape(token) for token in self.tokenizer.get_added_vocab())
        pieces = [piece for piece in re.split(f"({special})", text) if piece]
        read = [self.tokenizer.encode(piece, add_special_tokens=False) for piece in pieces]
        bare = [self._unmarked(ids) for ids in read]
        ways = (read, [*read[:1], *bare[1:]], bare)
        return list(dict.fromkeys(tuple(i for ids in way for i in ids) for way in ways))

    def _unmarked(self, ids: list[int]) -> list[int]:
        """Tokens without the mark before the first of them, if the rest of it is a token."""
        first = str(self.tokenizer.convert_ids_to_tokens(ids[0])) if ids else ""
        rest = first.removeprefix(MARK)
        if rest == first or (rest and rest not in self.tokenizer.get_vocab()):
            return ids
        return [*([int(self.tokenizer.convert_tokens_to_ids(rest))] if rest else []), *ids[1:]]

    def tiles(self, frame: np.ndarray, *, clip: bool) -> Tensor:
        """One frame squashed to the square that CLIP sees, [1, 3, s, s]."""
        size = (self.tile_size, self.tile_size)
        [pixels] = images.resized(images.check_rgb(frame), [size], torch.device(self.device))
        return images.normalise(pixels[None], values=(CLIP_MEAN, CLIP_STD))

    def visual_tokens(self, tiles: Tensor) -> Tensor:
        """Projected visual tokens: [T, 3, s, s] to [T, tokens_per_tile, C]."""
        model: Any = self.language_model.model
        seen: Tensor = model.multi_modal_projector(self.vision_states(tiles))
        return seen

    def vision_states(self, tiles: Tensor) -> Tensor:
        """CLIP's states of the patches, before the projector: [T, tokens_per_tile, c]."""
        tower: Any = self.language_model.model.vision_tower
        states = tower(tiles.to(tower.device, tower.dtype), output_hidden_states=True).hidden_states
        if not -len(states) <= self.own.layer < len(states):
            raise InputError(
                f"vision_feature_layer is {self.own.layer}; the vision model has {len(states) - 1}"
            )
        patches: Tensor = states[self.own.layer][:, 1:]  # without the class token
        return patches

    def vision_parts(self) -> tuple[nn.Module, ...]:
        """CLIP and the projector."""
        model: Any = self.language_model.model
        return model.vision_tower, model.multi_modal_projector

    def user_turn(
        self, text: str, visual: Visual | None, regions: Sequence[np.ndarray] = ()
    ) -> tuple[str, Visual | None]:
        """All images first, a line for each, then the words without `<image>`."""
        if regions:
            raise InputError("regions: this checkpoint's family has no region prompts")
        words = text.replace(prompts.IMAGE_PLACEHOLDER, "")
        if visual is None:
            return words, None
        lines = [IMAGE * count for count in visual.counts]
        return "\n".join([*lines, words.removeprefix("\n")]), visual


def _nano(vocabulary: int) -> dict[str, Any]:
    """Fields of a `config.json` with every part as small as it can be."""
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 16,
    }
    text = nano_text(vocabulary) | {"model_type": "llama"}
    return {
        "template": "vicuna",
        "vision_config": vision,
        "text_config": text,
        "image_token_index": vocabulary - 2,
    }


def _base_fields(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "template": "vicuna"}


def _base_name(name: str) -> str:
    """A base's tensor under its name in a Sa2VA; files of before transformers 4.52 have the language model in front."""
    name = re.sub(r"^language_model\.(model\.)?(?=lm_head)", "", name)
    name = re.sub(r"^language_model\.model\.", "model.language_model.", name)
    name = re.sub(r"^(vision_tower|multi_modal_projector)\.", r"model.\1.", name)
    return f"model.{name}"


FAMILY = MllmFamily(
    name="llava",
    title="LLaVA",
    architectures=("Sa2VAChatModelLlava",),
    recognise=lambda values: "image_token_index" in values,
    read=read,
    write=write,
    tensors=lambda _: TensorMap(
        (
            # transformers 5 has no module between the tower and CLIP.
            ("model.model.vision_tower.vision_model.*", "language_model.model.vision_tower.*"),
            ("model.*", "language_model.*"),
        )
    ),
    build=Llava,
    tokens=(IMAGE, "</s>"),
    base=BaseMllm(("LlavaForConditionalGeneration",), "text_config", _base_fields, _base_name),
    nano={"llava": _nano},
)
