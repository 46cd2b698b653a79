# SPDX-License-Identifier: Apache-2.0
"""What a family of multimodal language models has to say of itself: one value, made in the family's own file.

`registry.py` lists the families; nothing else in the project names one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from sa2va_model.config.model import FamilyConfig, ModelConfig
from sa2va_model.mllm.base import Mllm
from sa2va_model.mllm.tensor_map import TensorMap

Json = dict[str, Any]


@dataclass(frozen=True)
class BaseMllm:
    """What a family's training starts from: a published model without anything of Sa2VA's.

    Attributes:
        architectures: its classes in `config.json`.
        llm_field: the object of `config.json` that has the language model's `vocab_size`.
        fields: its `config.json` as this family's.
        name: of a tensor of its files in a Sa2VA's.
        layout: a word for people about its files, "" = as published.
    """

    architectures: tuple[str, ...]
    llm_field: str
    fields: Callable[[Json], Json] = lambda values: values
    name: Callable[[str], str] = lambda name: name
    layout: str = ""


@dataclass(frozen=True)
class MllmFamily:
    """One family.

    Attributes:
        name: in the registry, and `FamilyConfig.family` of its configurations.
        title: what people call it.
        architectures: the official classes in `config.json`; the first is written.
        recognise: whether a `config.json` that names no class is this family's.
        read: its configuration from (`config.json`, what to call that in errors, `preprocessor_config.json`).
        write: its fields of `config.json`; the inverse of `read`.
        tensors: names in the files and in its module.
        build: its module, with random weights.
        processor: `preprocessor_config.json`, None where the family has none.
        tokens: special tokens that its tokenizer has beside those of all (`presets.byte_tokenizer`).
        base: what its training starts from, None = nothing is known.
        nano: by name, its fields of a `config.json` as small as they can be, for a vocabulary of that size.
    """

    name: str
    title: str
    architectures: tuple[str, ...]
    recognise: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], str, Mapping[str, Any]], FamilyConfig]
    write: Callable[[Any], Json]
    tensors: Callable[[Any], TensorMap]
    build: Callable[[ModelConfig, PreTrainedTokenizerBase], Mllm]
    processor: Callable[[Any], Json | None] = lambda _: None
    tokens: tuple[str, ...] = ()
    base: BaseMllm | None = None
    nano: Mapping[str, Callable[[int], Json]] = field(default_factory=dict)
