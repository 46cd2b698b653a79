# SPDX-License-Identifier: Apache-2.0
"""Models of the published sizes with random weights that answer as a trained one does: speed does not depend on values.

Weights are made on the device, in the type in which they are used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sa2va_model.checkpoints.meta_init import place, unallocated
from sa2va_model.checkpoints.presets import byte_tokenizer
from sa2va_model.checkpoints.published import published_config
from sa2va_model.errors import InputError
from sa2va_model.mllm.chat import ANSWERS, referring_question
from sa2va_model.mllm.registry import family
from sa2va_model.sa2va import Sa2VA

ANSWER = "Sure, [SEG]."
WORDS = 400  # tokens; frequent words are one token each, as in a real vocabulary


def random_model(size: str, device: torch.device, dtype: torch.dtype) -> Sa2VA:
    """A published size whose language model answers every referring question with `ANSWER`.

    Raises:
        InputError: there is no such size.
    """
    # One stop token; the 4B checkpoint's template ends with several, which changes nothing that is measured.
    config = published_config(size, template="qwen_chat")
    corpus = [referring_question("the man"), "user assistant", *ANSWERS] * 50
    with unallocated():
        tokens = family(config.mllm.family).tokens
        model = Sa2VA(config, byte_tokenizer(corpus, WORDS, tokens)).eval()
    generator = torch.Generator(device=device).manual_seed(0)
    for buffers in [module._buffers for module in model.modules()]:
        for name, buffer in buffers.items():
            buffers[name] = None if buffer is None else buffer.to(device)
    for name, tensor in model.state_dict().items():
        kind = torch.float32 if name.startswith("sam2.") else dtype  # as checkpoints are loaded
        place(model, name, _values(name, tensor, device, kind, generator))
    script_answer(model, ANSWER)
    return model


def _values(
    name: str, like: Tensor, device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """Ones for norms, zeros for biases, and small uniform numbers for all else."""
    if like.ndim == 1:
        return torch.full(like.shape, float(not name.endswith("bias")), device=device, dtype=dtype)
    bound = 0.5 / max(like[0].numel(), 1) ** 0.5
    values = torch.empty(like.shape, device=device, dtype=dtype)
    return values.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def script_answer(model: Sa2VA, text: str) -> None:
    """Sets embeddings and output rows so that greedy decoding writes `text` after any prompt.

    Each token that leads to the next has an embedding in a direction of its own, large enough to survive all layers;
    the next token's output row points there. The tokens must differ from each other.
    """
    mllm = model.mllm
    prompt_end = mllm.prompt_ids("x")[-1]
    ids = mllm.tokenizer.encode(text + mllm.template.stop_words[0], add_special_tokens=False)
    chain = [prompt_end, *ids]
    if len(set(chain)) < len(chain):
        raise InputError(f"answer is {text!r}; expected tokens that all differ")
    inputs = mllm.language_model.get_input_embeddings().weight
    outputs = mllm.language_model.get_output_embeddings().weight
    width = inputs.shape[1]
    mixed = torch.randn(width, len(ids), generator=torch.Generator().manual_seed(1))
    directions = torch.linalg.qr(mixed).Q.T.to(inputs.device)
    for before, after, direction in zip(chain[:-1], chain[1:], directions, strict=True):
        inputs[before] = (10 * width**0.5 * direction).to(inputs.dtype)
        outputs[after] = direction.to(outputs.dtype)
