# SPDX-License-Identifier: Apache-2.0
"""Two ways from a sentence and some frames to masks, on the same weights: the official code's flow, and ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sa2va_model.io import preprocessing as images
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.mllm import chat as prompts
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.types import ImageFeatures, Prompt

MAX_NEW_TOKENS = 2048  # what the official code allows


@dataclass(frozen=True)
class FlowResult:
    """What a flow found, to compare flows.

    Attributes:
        ids: tokens of the answer.
        masks: bool [K, T, H, W].
        forwards: how often the language model ran for it.
        embeddings: [K, d].
    """

    ids: tuple[int, ...]
    masks: np.ndarray
    forwards: int
    embeddings: Tensor


def official_language(model: Sa2VA, frames: Sequence[np.ndarray], expression: str) -> Any:
    """`generate` as the official code calls it; returns (new tokens, [SEG] embeddings).

    Token by token, with the hidden states of all layers, the whole text decoded at each step to look for stop words.
    """
    mllm = model.mllm
    question = prompts.referring_question(prompts.clean_expression(expression))
    visual = mllm.look(list(frames), clip=len(frames) > 1)
    user, visual_of_turn = mllm.user_turn(f"{prompts.IMAGE_PLACEHOLDER}\n{question}", visual)
    ids = mllm.prompt_ids(user)
    inputs = mllm.inputs(ids, visual_of_turn)
    stops = mllm.template.stop_words

    def stop(ids: Tensor, scores: Any, **_: Any) -> Tensor:
        text = mllm.tokenizer.decode(ids[0])
        return torch.tensor([any(text.endswith(word) for word in stops)], device=ids.device)

    out: Any = mllm.language_model.generate(  # type: ignore[operator]
        inputs_embeds=inputs.embeddings,
        attention_mask=torch.ones(inputs.embeddings.shape[:2], device=model.device),
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=sorted(mllm.stop_ids),
        pad_token_id=0,
        stopping_criteria=[stop],
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    new = out.sequences[0]
    states = torch.cat([step[-1][0] for step in out.hidden_states])
    fed = new[:-1]
    found = states[len(states) - len(fed) :][fed == mllm.seg_id]
    return tuple(new.tolist()), model.text_hidden_fcs(found)


def official_masks(model: Sa2VA, frames: Sequence[np.ndarray], embeddings: Tensor) -> np.ndarray:
    """SAM-2 as the official code runs it: one session for each object, every keyframe encoded to be prompted and
    again to be remembered.
    """
    segmenter, size = model.sam2, model.config.sam2.image_size
    masks = []
    for embedding in embeddings:
        decoded = []
        for frame in frames:
            features = _encode(model, frame)
            plain = segmenter.without_memory(features)
            decoded.append(segmenter.decode(features, plain, Prompt(embedding=embedding)))
        for frame, seen in zip(frames, decoded, strict=True):
            segmenter.encode_memory(_encode(model, frame), seen, prompted=True)
        logits = [
            images.masks_to_image(seen.logits, size, *frame.shape[:2])[0]
            for seen, frame in zip(decoded, frames, strict=True)
        ]
        masks.append((torch.stack(logits) > 0).cpu().numpy())
    return np.array(masks, bool).reshape(len(masks), len(frames), *frames[0].shape[:2])


def _encode(model: Sa2VA, frame: np.ndarray) -> ImageFeatures:
    """SAM-2's own modules, whatever the model uses itself."""
    pixels = images.sam_pixels(frame, model.config.sam2)
    return model.sam2.encode_image(pixels.to(model.device, model.sam2.dtype))


@torch.inference_mode()
def official(
    model: Sa2VA, frames: Sequence[np.ndarray], expression: str, *, masks: bool = True
) -> FlowResult:
    """One expression, everything from the start, as the official code does it.

    Args:
        masks: go on from the [SEG] embedding to masks.
    """
    ids, embeddings = official_language(model, frames, expression)
    wanted = embeddings if masks else embeddings[:0]
    with torch.autocast("cuda", torch.bfloat16, enabled=model.device.type == "cuda"):
        return FlowResult(ids, official_masks(model, frames, wanted), len(ids), embeddings)


def ours(
    model: Sa2VA, frames: Sequence[np.ndarray], expressions: Sequence[str], *, masks: bool = True
) -> list[FlowResult]:
    """Expressions about frames, whatever is known of the frames already."""
    choice = KeyframeChoice("first", len(frames))
    replies = model.ground_many(frames, expressions, keyframes=choice)
    embeddings = torch.cat([reply.embeddings for reply in replies])
    shown = model.propagate(frames, embeddings if masks else embeddings[:0], len(frames))
    out, first = [], 0
    for reply in replies:
        rows = slice(first, first + len(reply.embeddings))
        first = rows.stop
        answer = reply.generated
        out.append(FlowResult(answer.ids, shown[rows], answer.forwards, reply.embeddings))
    return out
