# SPDX-License-Identifier: Apache-2.0
"""The families of multimodal language models: one line for each. What is not here is refused by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from sa2va_model.config.model import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.mllm.base import Mllm
from sa2va_model.mllm.family import MllmFamily

FAMILIES: dict[str, str | MllmFamily] = {
    "internvl": "sa2va_model.mllm.families.internvl",
    "qwen_vl": "sa2va_model.mllm.families.qwen_vl",
    "llava": "sa2va_model.mllm.families.llava",
}
"""By name: the file whose `FAMILY` it is, or the family itself."""

_SAMTOK = "without Sa2VA, or SAMTok, which is read by sa2va_model.samtok.load_samtok"
REFUSED = {
    "Qwen2_5_VLForConditionalGeneration": f"Qwen2.5-VL {_SAMTOK}; Sa2VA-Qwen2_5-VL-3B or -7B loads",
    "Qwen3VLForConditionalGeneration": f"Qwen3-VL {_SAMTOK}; Sa2VA-Qwen3-VL-4B loads",
    "PerceptionLMForConditionalGeneration": "Perception LM, or SAMTok with it; Sa2VA-1B loads",
}
"""What else is published, by `architectures`: what it is, and what loads instead."""


def family(name: str) -> MllmFamily:
    """The family of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    found = FAMILIES.get(name)
    if found is None:
        raise InputError(f"family is {name!r}; expected one of {', '.join(FAMILIES)}")
    if isinstance(found, MllmFamily):
        return found
    made: MllmFamily = importlib.import_module(found).FAMILY
    return made


def families() -> list[MllmFamily]:
    """All of them."""
    return [family(name) for name in FAMILIES]


def recognise(values: Mapping[str, Any], where: str) -> MllmFamily:
    """The family that a `config.json` is for; `architectures` may be missing.

    Raises:
        InputError: none, with what it is where that is known.
    """
    known, names = families(), values.get("architectures")
    if not names:
        return next((one for one in known if one.recognise(values)), known[0])
    name = names[0] if isinstance(names, list) else names
    for one in known:
        if isinstance(names, list) and name in one.architectures:
            return one
    if isinstance(name, str) and name in REFUSED:
        raise InputError(f"{where}: architectures is {names}, which is not read: {REFUSED[name]}")
    expected = " or ".join(one for family in known for one in family.architectures)
    raise InputError(f"{where}: architectures is {names}; expected {expected}")


def build_mllm(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> Mllm:
    """The multimodal language model of a configuration, with random weights.

    Raises:
        InputError: a field that the model cannot have, or a tokenizer without the model's special tokens.
    """
    return family(config.mllm.family).build(config, tokenizer)


def nano_names() -> list[str]:
    """Every nano configuration of every family, by the names that `nano_fields` takes."""
    return [name for one in families() for name in one.nano]


def family_of_nano(name: str) -> MllmFamily:
    """The family of a nano configuration.

    Raises:
        InputError: there is no such configuration; the message lists those there are.
    """
    for one in families():
        if name in one.nano:
            return one
    raise InputError(f"family is {name!r}; expected one of {', '.join(nano_names())}")


def nano_fields(name: str, vocabulary: int) -> dict[str, Any]:
    """The family's fields of a nano `config.json`.

    Raises:
        InputError: as `family_of_nano`.
    """
    own = family_of_nano(name)
    return {"architectures": [own.architectures[0]], **own.nano[name](vocabulary)}
