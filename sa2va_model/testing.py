# SPDX-License-Identifier: Apache-2.0
"""A whole Sa2VA with random weights, built in well under a second, and clips: what tests use in place of mocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sa2va_model.checkpoints.presets import NANO_SEGMENTERS, byte_tokenizer, nano_config
from sa2va_model.io.frames import Frame
from sa2va_model.mllm.registry import family_of_nano
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.sam2 import Sam2


def nano_model(
    seed: int = 0, *, answers: bool = True, family: str | None = None, segmenter: str = "sam2"
) -> Sa2VA:
    """The nano configuration with weights that are a function of `seed`.

    Args:
        answers: the language model writes `[SEG]` whatever it is asked; otherwise it never does.
        family: one of `registry.nano_names`; None = the smallest.
        segmenter: one of `presets.NANO_SEGMENTERS`.
    """
    tokenizer = byte_tokenizer(extra=() if family is None else family_of_nano(family).tokens)
    config = replace(nano_config(len(tokenizer), family), sam2=NANO_SEGMENTERS[segmenter])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Sa2VA(config, tokenizer).eval()
        wake(model.sam2)
        script_answer(model, found=answers)
    return model


def script_answer(model: Sa2VA, *, found: bool = True) -> None:
    """Sets the word embeddings so that greedy decoding writes `[SEG]<stop>`, or `<stop>` at once.

    What ends every prompt (a newline or a colon) and `[SEG]` get embeddings of their own large directions, which
    survive the random layers; the output rows of the next tokens point there. Everything else stays contextual.
    """
    mllm = model.mllm
    end, stop = mllm.prompt_ids("x")[-1], int(mllm.tokenizer.eos_token_id)
    inputs = mllm.language_model.get_input_embeddings().weight
    outputs = mllm.language_model.get_output_embeddings().weight
    with torch.no_grad():
        first, second = torch.linalg.qr(torch.randn(inputs.shape[1], 2)).Q.T
        inputs[end], inputs[mllm.seg_id] = 3 * first, 3 * second
        outputs.mul_(0.01)
        outputs[mllm.seg_id if found else stop] = first
        if found:
            outputs[stop] = second


def wake(segmenter: Sam2) -> None:
    """Scales random weights so that masks have some contrast and depend on memory, as in a trained model."""
    sam = segmenter.sam2_model
    for parameter in sam.memory_encoder.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    for network in sam.sam_mask_decoder.output_hypernetworks_mlps:
        network.layers[-1].weight.data.mul_(20)
    sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(1.0)


def noisy_clip(count: int, *, change: float = 12.0, seed: int = 0) -> list[Frame]:
    """A slowly changing 40 x 30 clip at 10 Hz.

    Args:
        change: standard deviation of what every frame adds to a pixel.
    """
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (30, 40, 3)).astype(float)
    out = []
    for i in range(count):
        image = np.clip(image + rng.normal(0, change, image.shape), 0, 255)
        out.append(Frame(image.astype(np.uint8), i / 10, i))
    return out
