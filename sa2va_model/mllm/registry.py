# SPDX-License-Identifier: Apache-2.0
"""Which language half a configuration asks for."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from sa2va_model.config import ModelConfig
from sa2va_model.mllm.base import Mllm
from sa2va_model.mllm.families.internvl import InternVL
from sa2va_model.mllm.families.qwen_vl import QwenVL


def build_mllm(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> Mllm:
    """The multimodal language model of a configuration, with random weights.

    Raises:
        InputError: a field that the model cannot have, or a tokenizer without the model's special tokens.
    """
    if config.qwen is not None:
        return QwenVL(config, tokenizer)
    return InternVL(config, tokenizer)
