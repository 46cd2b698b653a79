# SPDX-License-Identifier: Apache-2.0
"""The Qwen2.5-VL and Qwen3-VL families: transformers' own vision-language models, read as the official code reads them.

Frames are separate images (never a `video`), before the user's words whatever their place in them; every frame is
resized to whole squares of 28 pixels, and again by the image processor to 512 to 2048 of them; positions of visual
tokens are rows and columns (M-RoPE); Qwen3-VL adds features of its vision model behind the first layers of the language
model (DeepStack).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sa2va_model.config import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.base import Mllm
from sa2va_model.mllm.families.qwen_config import NORMALISATION, QWEN2_5, QWEN3, Colour, QwenConfig
from sa2va_model.mllm.llm import CONFIG_ERRORS, SPECIAL_IDS, one_line, passed_on
from sa2va_model.mllm.types import Generated, Inputs
from sa2va_model.mllm.vision import Visual

SQUARE, SQUARES = 28, (4, 16384)
"""Side of a square in pixels, and how few and how many a frame has after the first resize."""
VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
SYSTEM = {
    QWEN2_5: "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    QWEN3: "",
}
"""What the family's own chat template writes before the first turn."""
_CLASSES: dict[str, tuple[Any, Any]] = {
    QWEN2_5: (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    QWEN3: (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}


def vision_language_model(config: QwenConfig) -> PreTrainedModel:
    """transformers' model of a configuration, with random weights.

    Raises:
        InputError: a field with a value that the model cannot have.
    """
    config_class, model_class = _CLASSES[config.family]
    values = {
        name: _part(value, f"{config.family}_{name.split('_')[0]}")
        if isinstance(value, Mapping)
        else value
        for name, value in config.values.items()
    }
    values["tie_word_embeddings"] = config.tied
    values["text_config"] = dict.fromkeys(SPECIAL_IDS) | values["text_config"]
    try:
        model = model_class._from_config(config_class(**values), attn_implementation="sdpa")
    except (*CONFIG_ERRORS, RuntimeError, AssertionError) as error:
        raise InputError(f"text_config or vision_config: {one_line(error)}") from error
    assert isinstance(model, PreTrainedModel)
    return model


def _part(values: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """One part's configuration under today's name of its type."""
    return {**passed_on(values), "model_type": model_type}


def template_of(tokenizer: PreTrainedTokenizerBase, config: QwenConfig) -> prompts.Template:
    """The tokenizer's chat template, or the family's where the checkpoint has none.

    Raises:
        InputError: the template does not write what the user said.
    """
    turn = prompts.TEMPLATES["qwen_chat"]
    system = SYSTEM[config.family] if config.system is None else config.system
    if not tokenizer.chat_template or config.system is not None:
        return prompts.Template(turn.instruction, turn.stop_words, system)
    mark = "\u241fthe user's words\u241f"
    written = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
    )
    assert isinstance(written, str)
    head, found, tail = written.partition(mark)
    if not found:
        raise InputError("tokenizer: its chat template does not write the user's words")
    begin = head.rfind("<|im_start|>")
    system, opening = head[: max(begin, 0)], head[max(begin, 0) :]
    escaped = (part.replace("{", "{{").replace("}", "}}") for part in (opening, tail))
    return prompts.Template("{input}".join(escaped), turn.stop_words, system)


def _in_squares(frame: np.ndarray) -> np.ndarray:
    """A frame resized to whole squares, as the official code does before its image processor resizes again.

    It calls `process_vision_info` of qwen_vl_utils with the square of Qwen2.5-VL whatever the model's own is.
    """
    height, width = frame.shape[:2]
    size = _squares(width, height)
    if size == (width, height):
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def _squares(width: int, height: int) -> tuple[int, int]:
    """The width and height in whole squares nearest to a frame's, within the budget of qwen_vl_utils.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if max(width, height) > 200 * min(width, height):
        raise ValueError("absolute aspect ratio must be smaller than 200")
    sides = [max(SQUARE, round(side / SQUARE) * SQUARE) for side in (width, height)]
    area, (fewest, most) = sides[0] * sides[1], (SQUARE**2 * count for count in SQUARES)
    if area > most:
        shrink = math.sqrt(width * height / most)
        sides = [max(SQUARE, int(side / shrink / SQUARE) * SQUARE) for side in (width, height)]
    elif area < fewest:
        grow = math.sqrt(fewest / (width * height))
        sides = [math.ceil(side * grow / SQUARE) * SQUARE for side in (width, height)]
    return sides[0], sides[1]


class QwenVL(Mllm):
    """Qwen2.5-VL or Qwen3-VL; `language_model` is the whole vision-language model."""

    whole_squares = True
    """Frames are resized to whole squares first; off only for answers that were recorded without."""

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        assert config.qwen is not None
        self.qwen = config.qwen
        super().__init__(
            config,
            tokenizer,
            vision_language_model(config.qwen),
            template=template_of(tokenizer, config.qwen),
            image_tokens=(IMAGE_PAD, VISION_END),
            mrope=True,
            # What transformers 4.57 calls the last hidden state of Qwen3-VL, in training and in the official code, is
            # not normalised; that of every other family is (docs/log.md).
            before_norm=config.qwen.family == QWEN3,
        )
        vision = self._model.visual.config
        self.merge = int(vision.spatial_merge_size)
        self._sizes = {
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": self.merge,
        }
        self.normalisation_given = self.qwen.mean is not None
        mean, std = NORMALISATION[self.qwen.family]
        self.normalise(self.qwen.mean or mean, self.qwen.std or std)

    def normalise(self, mean: Colour, std: Colour) -> None:
        """Sets what the image processor subtracts and divides by."""
        self._processor = Qwen2VLImageProcessorPil(
            min_pixels=self.qwen.min_pixels,
            max_pixels=self.qwen.max_pixels,
            image_mean=list(mean),
            image_std=list(std),
            **self._sizes,
        )

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
                checked = [_in_squares(frame) for frame in checked]
            done = self._processor(checked, return_tensors="pt", input_data_format="channels_last")
        except ValueError as error:
            sizes = sorted({frame.shape[:2] for frame in checked})
            raise InputError(f"image of size {sizes[0]}: {one_line(error)}") from error
        return done["pixel_values"], done["image_grid_thw"]

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
            raise InputError("regions: this checkpoint's family (Qwen-VL) has no region prompts")
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

    def seg_states(self, prompt: Sequence[int], generated: Generated) -> Tensor:
        """Also those of a `[SEG]` that the prompt holds, as the official code of this family does."""
        fed = torch.tensor([*prompt, *generated.ids[:-1]], device=generated.states.device)
        return generated.states[fed == self.seg_id]
