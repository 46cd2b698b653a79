# SPDX-License-Identifier: Apache-2.0
"""SAMTok whole: a plain Qwen-VL whose answers name masks by words, and the tokenizer that draws them.

The language model needs nothing of ours: any server of text does, whose answer goes to `MaskTokenizer.decode`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sa2va_model.config.segmenter import Sam2Config
from sa2va_model.errors import InputError
from sa2va_model.io.given import ImageLike, as_image
from sa2va_model.io.json_files import read_json
from sa2va_model.mllm.llm import one_line
from sa2va_model.samtok import words
from sa2va_model.samtok.tokenizer import FILE, MaskTokenizer, load_mask_tokenizer

CLASSES = {
    "Qwen2_5_VLForConditionalGeneration": Qwen2_5_VLForConditionalGeneration,
    "Qwen3VLForConditionalGeneration": Qwen3VLForConditionalGeneration,
}
IMAGE = "<|image_pad|>"
LONGEST = 512
"""New tokens, as the official demo has it."""


@dataclass(frozen=True)
class MaskAnswer:
    """An answer.

    Attributes:
        text: with the words of masks.
        codes: [K], the masks that it names.
        masks: bool [K, H, W].
    """

    text: str
    codes: tuple[words.Code, ...]
    masks: np.ndarray


class SamTok:
    """A published SAMTok checkpoint. Build it with `load_samtok`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        processor: Qwen2VLImageProcessorPil,
        masks: MaskTokenizer,
    ) -> None:
        self.model, self.tokenizer, self.processor, self.masks = model, tokenizer, processor, masks

    @torch.inference_mode()
    def ask(
        self,
        image: ImageLike,
        question: str,
        regions: np.ndarray | None = None,
        *,
        max_new_tokens: int = LONGEST,
    ) -> MaskAnswer:
        """A question about an image; greedy.

        Args:
            regions: bool [K, H, W]; `{}` in the question stands for the words of each, in order.

        Raises:
            InputError: as many `{}` as regions are expected.
        """
        image = as_image(image)
        given = () if regions is None else self.masks.encode(image, regions)
        if question.count("{}") != len(given):
            raise InputError(f"question: has {question.count('{}')} {{}} for {len(given)} regions")
        for code in given:
            question = question.replace("{}", words.spell(code), 1)
        seen = self.processor([image], return_tensors="pt", input_data_format="channels_last")
        count = int(seen["image_grid_thw"].prod()) // self.processor.merge_size**2
        ids = self._prompt(question, count)
        device = self.model.device
        out = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=torch.ones_like(ids).to(device),
            mm_token_type_ids=(ids == self._id(IMAGE)).int().to(device),
            pixel_values=seen["pixel_values"].to(device, self.model.dtype),
            image_grid_thw=seen["image_grid_thw"].to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        text = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        codes = words.read(text)
        return MaskAnswer(text, tuple(codes), self.masks.decode(image, codes))

    def save(self, folder: str | Path) -> None:
        """Writes what `load_samtok` reads, in the published layout; the weights in their own types."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        torch.save(self.masks.official(), Path(folder) / FILE)

    def _prompt(self, question: str, count: int) -> torch.Tensor:
        """Token ids [1, L] of one user turn in the checkpoint's own chat template."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer.encode(str(text).replace(IMAGE, IMAGE * count, 1))
        return torch.tensor([ids])

    def _id(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))


def is_samtok(folder: str | Path) -> bool:
    """The folder holds a mask tokenizer beside its language model."""
    return (Path(folder) / FILE).is_file()


def load_samtok(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = "auto",
    sam2: Sam2Config | None = None,
) -> SamTok:
    """A published checkpoint: Qwen3-VL or Qwen2.5-VL, its tokenizer and image processor, and the mask tokenizer.

    Args:
        dtype: of the language model; "auto" = as stored.
        sam2: of the mask tokenizer; None = of a published size.

    Raises:
        InputError: a file is missing or another one, or the tokenizer has no words for masks.
    """
    folder = Path(folder)
    values = read_json(folder / "config.json")
    names = values.get("architectures") or ["nothing"]
    if not isinstance(names, list) or names[0] not in CLASSES:
        raise InputError(
            f"{folder / 'config.json'}: architectures is {names}; expected {' or '.join(CLASSES)}"
        )
    if not is_samtok(folder):
        raise InputError(f"{folder}: has no {FILE}; expected a SAMTok checkpoint")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        model = CLASSES[names[0]].from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder}: {one_line(error)}") from error
    known = tokenizer.get_vocab()
    missing = [token for token in words.vocabulary() if token not in known]
    if missing:
        raise InputError(
            f"{folder}: tokenizer has no {missing[0]!r} ({len(missing)} in all); expected SAMTok's"
        )
    masks = load_mask_tokenizer(folder / FILE, config=sam2, device=device)
    return SamTok(model.eval().to(device), tokenizer, processor, masks)
