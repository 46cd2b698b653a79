# SPDX-License-Identifier: Apache-2.0
"""The Qwen2.5-VL and Qwen3-VL families: transformers' own vision-language models, read as the official code reads them.

Frames are separate images (never a `video`), before the user's words whatever their place in them; every frame is
resized to whole squares of 28 pixels, and again by the image processor to 512 to 2048 of them; positions of visual
tokens are rows and columns (M-RoPE); Qwen3-VL adds features of its vision model behind the first layers of the language
model (DeepStack).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sa2va_model.config.model import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.io.preprocessing import CLIP_MEAN, CLIP_STD, Colour
from sa2va_model.io.whole_squares import in_squares
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.base import Mllm
from sa2va_model.mllm.family import BaseMllm, MllmFamily
from sa2va_model.mllm.json_fields import json_object
from sa2va_model.mllm.llm import nano_text, one_line, vision_language_model
from sa2va_model.mllm.tensor_map import TensorMap
from sa2va_model.mllm.types import Inputs
from sa2va_model.mllm.vision import Visual

QWEN2_5, QWEN3 = "qwen2_5_vl", "qwen3_vl"
HALF: Colour = (0.5, 0.5, 0.5)
NORMALISATION = {QWEN2_5: (CLIP_MEAN, CLIP_STD), QWEN3: (HALF, HALF)}
"""Mean and std of the published image processors."""
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
SYSTEM = {
    QWEN2_5: "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    QWEN3: "",
}
"""What the member's own chat template writes before the first turn."""
_CLASSES: dict[str, tuple[Any, Any]] = {
    QWEN2_5: (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    QWEN3: (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
_OWN_FIELDS = (
    "text_config",
    "vision_config",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "tie_word_embeddings",
)


@dataclass(frozen=True)
class QwenConfig:
    """The vision-language model and its image processor.

    Attributes:
        member: "qwen2_5_vl" or "qwen3_vl".
        values: the fields that transformers' configuration class gets.
        min_pixels, max_pixels: of a frame after resizing; the official code uses 512 and 2048 squares of
            28 pixels for every member of the family, whatever the checkpoint's image processor says.
        mean, std: of the image processor; None = the checkpoint does not say, as published.
        system: the system prompt where the tokenizer has no chat template; None = the family's own.
    """

    member: str
    values: Mapping[str, Any]
    min_pixels: int = 512 * 28 * 28
    max_pixels: int = 2048 * 28 * 28
    mean: Colour | None = None
    std: Colour | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            raise InputError(
                f"min_pixels is {self.min_pixels} and max_pixels {self.max_pixels}; "
                "expected 0 < min_pixels <= max_pixels"
            )
        for name, found in (("mean", self.mean), ("std", self.std)):
            if found is not None and len(found) != 3:
                raise InputError(
                    f"image_{name} is {found}; expected three numbers, one for each colour"
                )

    @property
    def family(self) -> str:
        """In the registry."""
        return "qwen_vl"

    @property
    def region_size(self) -> int:
        """There are no region prompts."""
        return 0

    @property
    def tied(self) -> bool:
        """Whether the language model's head is its embedding; transformers has written that in two places."""
        return any(part.get("tie_word_embeddings", False) for part in (self.values, self.llm))

    def untied(self) -> QwenConfig:
        """The same with a head of its own."""
        text = {**self.llm, "tie_word_embeddings": False}
        return replace(
            self, values={**self.values, "text_config": text, "tie_word_embeddings": False}
        )

    @property
    def llm(self) -> Mapping[str, Any]:
        """The language model's own configuration."""
        found: Mapping[str, Any] = self.values["text_config"]
        return found

    @property
    def vision(self) -> Mapping[str, Any]:
        """The vision model's own configuration."""
        found: Mapping[str, Any] = self.values["vision_config"]
        return found


def member_of(values: Mapping[str, Any], where: str) -> str:
    """Which member of the family a `config.json` describes; `model_type` is the same for both.

    Raises:
        InputError: neither the parts' `model_type` nor their fields say.
    """
    text, vision = values["text_config"], values["vision_config"]
    for part in (text, vision):
        for member in (QWEN2_5, QWEN3):
            if str(part.get("model_type", "")).startswith(member):
                return member
    if "deepstack_visual_indexes" in vision:
        return QWEN3
    if "fullatt_block_indexes" in vision:
        return QWEN2_5
    raise InputError(
        f"{where}: text_config.model_type is {text.get('model_type')!r}; expected {QWEN2_5}_text or {QWEN3}_text"
    )


def read(values: Mapping[str, Any], where: str, processor: Mapping[str, Any]) -> QwenConfig:
    """Reads `config.json` and `preprocessor_config.json`.

    Raises:
        InputError: a field is missing or has a value that no code path serves.
    """
    for name in ("text_config", "vision_config"):
        json_object(values, name, where)
    return QwenConfig(
        member=member_of(values, where),
        values={name: values[name] for name in _OWN_FIELDS if values.get(name) is not None},
        min_pixels=values.get("min_pixels") or QwenConfig.min_pixels,
        max_pixels=values.get("max_pixels") or QwenConfig.max_pixels,
        mean=_colour(processor.get("image_mean")),
        std=_colour(processor.get("image_std")),
        system=values.get("system_prompt"),
    )


def _colour(values: Any) -> Colour | None:
    return None if values is None else tuple(float(value) for value in values)  # type: ignore[return-value]


def write(config: QwenConfig) -> dict[str, Any]:
    """What `read` reads from `config.json`."""
    own: dict[str, Any] = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    if config.system is not None:
        own["system_prompt"] = config.system
    return {"template": "qwen_chat", **config.values, **own}


def write_processor(config: QwenConfig) -> dict[str, Any]:
    """`preprocessor_config.json`, as transformers writes it for this family."""
    vision, (mean, std) = config.vision, NORMALISATION[config.member]
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_mean": list(config.mean or mean),
        "image_std": list(config.std or std),
        "size": {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels},
        "patch_size": vision.get("patch_size", 14 if config.member == QWEN2_5 else 16),
        "temporal_patch_size": vision.get("temporal_patch_size", 2),
        "merge_size": vision.get("spatial_merge_size", 2),
    }


def template_of(tokenizer: PreTrainedTokenizerBase, config: QwenConfig) -> prompts.Template:
    """The tokenizer's chat template, or the member's where the checkpoint has none.

    Raises:
        InputError: the template does not write what the user said.
    """
    turn = prompts.TEMPLATES["qwen_chat"]
    if config.system is None and tokenizer.chat_template:
        return prompts.template_of_tokenizer(tokenizer, "<|im_start|>", turn.stop_words)
    system = SYSTEM[config.member] if config.system is None else config.system
    return prompts.Template(turn.instruction, turn.stop_words, system)


class QwenVL(Mllm):
    """Qwen2.5-VL or Qwen3-VL; `language_model` is the whole vision-language model."""

    prompt_points = True
    whole_squares = True
    """Frames are resized to whole squares first; off only for answers that were recorded without."""

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        assert isinstance(config.mllm, QwenConfig)
        own = self.own = config.mllm
        super().__init__(
            config,
            tokenizer,
            vision_language_model(
                *_CLASSES[own.member],
                {**own.values, "tie_word_embeddings": own.tied},
                {"text_config": f"{own.member}_text", "vision_config": f"{own.member}_vision"},
            ),
            template=template_of(tokenizer, own),
            image_tokens=(IMAGE_PAD, VISION_END),
            mrope=True,
            # What transformers 4.57 calls the last hidden state of Qwen3-VL, in training and in the official code, is
            # not normalised; that of every other family is (docs/log.md).
            before_norm=own.member == QWEN3,
        )
        vision = self._model.visual.config
        self.merge = int(vision.spatial_merge_size)
        self._sizes = {
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": self.merge,
        }
        mean, std = NORMALISATION[self.own.member]
        self.normalise(self.own.mean or mean, self.own.std or std)

    def normalise(self, mean: Colour, std: Colour) -> None:
        """Sets what the image processor subtracts and divides by."""
        self._processor = Qwen2VLImageProcessorPil(
            min_pixels=self.own.min_pixels,
            max_pixels=self.own.max_pixels,
            image_mean=list(mean),
            image_std=list(std),
            **self._sizes,
        )

    def open_readings(self) -> dict[str, Callable[[], None]]:
        """The normalisation, where the checkpoint has no image processor's file."""
        if self.own.mean is not None:
            return {}
        known = {"CLIP": (CLIP_MEAN, CLIP_STD), "0.5": (HALF, HALF)}
        return {name: partial(self.normalise, *values) for name, values in known.items()}

    def as_recorded(self, environment: Mapping[str, Any]) -> None:
        """Also without `process_vision_info`, which stood in front of the image processor later."""
        super().as_recorded(environment)
        self.whole_squares = not str(environment.get("processor", "")).startswith("stub")

    @property
    def _model(self) -> Any:
        """Vision model and language model without the head."""
        return self.language_model.model

    def pixels(self, frames: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """The image processor's patches, float32 [patches of all frames, D], and (1, rows, columns) of each frame.

        Raises:
            InputError: an array of the wrong kind, or one side is more than 200 times the other.
        """
        checked = [images.check_rgb(frame) for frame in frames]
        try:
            if self.whole_squares:
                checked = [in_squares(frame) for frame in checked]
            done = self._processor(checked, return_tensors="pt", input_data_format="channels_last")
        except ValueError as error:
            sizes = sorted({frame.shape[:2] for frame in checked})
            raise InputError(f"image of size {sizes[0]}: {one_line(error)}") from error
        return done["pixel_values"], done["image_grid_thw"]

    def seen_pixels(self, frames: Sequence[np.ndarray], *, clip: bool) -> Tensor:
        """The patches of all frames."""
        return self.pixels(frames)[0]

    def look(self, frames: Sequence[np.ndarray], *, clip: bool) -> Visual:
        """What the vision model sees; frames of a clip are separate images, as in the official code."""
        pixels, grids = self.pixels(frames)
        seen = self._model.get_image_features(
            pixels.to(self.device, self.dtype), grids.to(self.device), return_dict=True
        )
        deep = getattr(seen, "deepstack_features", None) or ()
        rows = [(int(t), int(h), int(w)) for t, h, w in grids.tolist()]
        return Visual(
            torch.cat(list(seen.pooler_output)),
            tuple(t * h * w // self.merge**2 for t, h, w in rows),
            grids=tuple(rows),
            deep=tuple(torch.cat(list(layer)) for layer in deep),
        )

    def user_turn(
        self, text: str, visual: Visual | None, regions: Sequence[np.ndarray] = ()
    ) -> tuple[str, Visual | None]:
        """All images first, nothing between them, then the words without `<image>`."""
        if regions:
            raise InputError("regions: this checkpoint's family has no region prompts")
        words = text.replace(prompts.IMAGE_PLACEHOLDER, "")
        counts = visual.counts if visual else ()
        blocks = [VISION_START + IMAGE_PAD * count + VISION_END for count in counts]
        return "".join(blocks) + words, visual

    def inputs(self, ids: Sequence[int], visual: Visual | None) -> Inputs:
        """Embeddings, rows and columns of visual tokens, and what DeepStack adds to them."""
        tokens = torch.tensor([list(ids)], device=self.device)
        if visual is None:
            return Inputs(self.embed(tokens, None))
        places = tokens == self.image_id
        positions, _ = self._model.get_rope_index(
            tokens,
            mm_token_type_ids=places.int(),
            image_grid_thw=torch.tensor(visual.grids, device=self.device),
        )
        return Inputs(self.embed(tokens, visual.tokens), positions, places, visual.deep)


def _nano(member: str, vocabulary: int) -> dict[str, Any]:
    """Fields of a `config.json` with every part as small as it can be."""
    third = member == QWEN3
    rope = (
        {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}
        if third
        else {"type": "mrope", "mrope_section": [1, 1, 2]}
    )
    text = nano_text(vocabulary) | {"model_type": f"{member}_text", "rope_scaling": rope}
    vision: dict[str, Any] = {
        "model_type": member,
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 32,
    }
    if third:
        text |= {"head_dim": 16}
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    else:
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    return {
        "text_config": text,
        "vision_config": vision,
        "vision_start_token_id": vocabulary - 4,
        "vision_end_token_id": vocabulary - 3,
        "image_token_id": vocabulary - 2,
        "video_token_id": vocabulary - 1,
        "min_pixels": 16 * 8 * 8,
        "max_pixels": 48 * 8 * 8,
    }


_BASE_NAMES = (
    ("model.visual.", "model.visual."),
    ("model.language_model.", "model.language_model."),
    ("language_model.", "model.language_model."),
    ("visual.", "model.visual."),
    ("model.", "model.language_model."),
)
"""How parts of a Qwen-VL have been called, and their names in transformers 5."""


def _base_name(name: str) -> str:
    for theirs, ours in _BASE_NAMES:
        if name.startswith(theirs):
            return "model." + ours + name.removeprefix(theirs)
    return f"model.{name}"


def _base_fields(values: dict[str, Any]) -> dict[str, Any]:
    # Qwen2.5-VL was published without a `text_config`.
    return values if "text_config" in values else Qwen2_5_VLConfig(**values).to_dict()


FAMILY = MllmFamily(
    name="qwen_vl",
    title="Qwen-VL",
    architectures=("Sa2VAChatModelQwen",),
    recognise=lambda values: "text_config" in values and "image_token_index" not in values,
    read=read,
    write=write,
    processor=write_processor,
    tensors=lambda _: TensorMap((("model.*", "language_model.*"),)),
    build=QwenVL,
    base=BaseMllm(
        ("Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration"),
        "text_config",
        _base_fields,
        _base_name,
    ),
    tokens=(VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD),
    nano={QWEN2_5: partial(_nano, QWEN2_5), QWEN3: partial(_nano, QWEN3)},
)
