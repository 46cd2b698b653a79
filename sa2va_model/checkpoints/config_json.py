# SPDX-License-Identifier: Apache-2.0
"""`config.json` to a configuration and back: the official fields as published, and ours beside them.

The segmenter's section is ours: official checkpoints lack it, because their code has the sizes built in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sa2va_model.config.fields import renamed_fields
from sa2va_model.config.model import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.mllm.registry import family, recognise
from sa2va_model.segmentation.kinds import segmenter_from_dict

_OWN = ("keyframes", "max_new_tokens", "extra_answers", "seg")


def config_from_json(
    values: Mapping[str, Any],
    where: str = "config.json",
    processor: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Read an official or our own `config.json`.

    Args:
        values: the parsed JSON object.
        where: what to call it in errors.
        processor: `preprocessor_config.json`, which some families have.

    Raises:
        InputError: a needed field is missing or has a value that no code path serves.
    """
    try:
        return ModelConfig(
            mllm=recognise(values, where).read(values, where, processor or {}),
            sam2=segmenter_from_dict(values, where),
            **renamed_fields(ModelConfig, values, {name: name for name in _OWN}),
        )
    except (TypeError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: a field is missing or has the wrong type ({error})") from error


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of our folders: official field names, plus ours."""
    own = family(config.mllm.family)
    return {
        "model_type": "sa2va_chat",
        "architectures": [own.architectures[0]],
        "keyframes": config.keyframes,
        "max_new_tokens": config.max_new_tokens,
        "extra_answers": list(config.extra_answers),
        **({} if config.seg == "single" else {"seg": config.seg}),
        config.sam2.SECTION: asdict(config.sam2),
        **own.write(config.mllm),
    }
