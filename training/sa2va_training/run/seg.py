# SPDX-License-Identifier: Apache-2.0
"""A model whose keyframes are prompted in another way before it is trained: Table 12 of the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sa2va_model.errors import InputError
from sa2va_model.mllm.chat import seg_tokens
from sa2va_model.sa2va import Sa2VA


def with_seg(model: Sa2VA, mode: str, frames: int = 0) -> Sa2VA:
    """The same model with `[SEG]` used in another way, in place; "" = as it is.

    Tokens that its tokenizer lacks are added, with the mean of all words as their rows.

    Args:
        frames: that it is trained with, and as many keyframes it is shown from now on; 0 = its own number.

    Raises:
        InputError: the tables of words are too small, and the family's configuration does not say how large they are.
    """
    if mode in ("", model.config.seg):
        return model
    keyframes = frames if frames and mode != "single" else model.config.keyframes
    model.config = replace(model.config, seg=mode, keyframes=keyframes)
    mllm = model.mllm
    mllm.config = model.config
    tokens = seg_tokens(mode, model.config.keyframes)
    known = mllm.tokenizer.get_vocab()
    missing = [token for token in tokens if token not in known]
    if missing:
        mllm.tokenizer.add_tokens(missing, special_tokens=True)
        rows = max(mllm.tokenizer.get_vocab().values()) + 1
        if rows > int(mllm.language_model.get_input_embeddings().weight.shape[0]):
            _widen(model, rows)
    mllm.seg_ids = tuple(
        dict.fromkeys(int(mllm.tokenizer.convert_tokens_to_ids(token)) for token in tokens)
    )
    return model


def _widen(model: Sa2VA, rows: int) -> None:
    """Both tables of words up to so many rows."""
    own: Any = model.config.mllm
    if "llm" not in getattr(own, "__dataclass_fields__", {}):
        raise InputError(
            f"train.seg is 'unique', and the vocabulary of this {own.family} model has no rows to spare; "
            "expected single or repetitive"
        )
    language_model: Any = model.mllm.language_model
    tied = model.config.tied
    tables: list[nn.Module] = [language_model.get_input_embeddings()]
    tables += [] if tied else [language_model.get_output_embeddings()]
    with torch.no_grad():
        for table in tables:
            old: torch.Tensor = table.weight  # type: ignore[assignment]
            mean = old.float().mean(0, keepdim=True).to(old.dtype)
            wide = torch.cat([old, mean.expand(rows - len(old), -1)])
            table.weight = nn.Parameter(wide, requires_grad=old.requires_grad)
            setattr(
                table, "num_embeddings" if isinstance(table, nn.Embedding) else "out_features", rows
            )
    if tied:
        head = language_model.get_output_embeddings()
        head.weight, head.out_features = tables[0].weight, rows
    language_model.config.vocab_size = rows
    config = replace(model.config, mllm=replace(own, llm={**own.llm, "vocab_size": rows}))
    model.config = model.mllm.config = config
