# SPDX-License-Identifier: Apache-2.0
"""The language models behind InternVL, as transformers' own classes.

InternLM2 has no class there and needs none: it is Llama with other names and fused weights, which
`models/internlm2.py` splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from sa2va_model.errors import InputError
from sa2va_model.mllm.models.internlm2 import INTERNLM2

LANGUAGE_MODELS = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    INTERNLM2: "llama",
    "LlamaForCausalLM": "llama",
    "Phi3ForCausalLM": "phi3",
}
"""`llm_config.architectures` of checkpoints, and transformers' model type that computes the same."""
_NOT_PASSED = (
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "auto_map",
    "attn_implementation",
)
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
CONFIG_ERRORS = (ValueError, TypeError, KeyError, ZeroDivisionError, StrictDataclassError)
"""What transformers raises for a field that it cannot use."""


def architecture(values: Mapping[str, Any]) -> str:
    """The class name in `llm_config`.

    Raises:
        InputError: it is not one of `LANGUAGE_MODELS`.
    """
    names = values.get("architectures") or ["Qwen2ForCausalLM"]
    if not isinstance(names, list | tuple) or names[0] not in LANGUAGE_MODELS:
        raise InputError(
            f"llm_config.architectures is {names}; expected one of {', '.join(LANGUAGE_MODELS)}"
        )
    return str(names[0])


def one_line(error: Exception) -> str:
    """An exception's text without line breaks."""
    return " ".join(str(error).split())


def passed_on(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a checkpoint's configuration that transformers' configuration class gets."""
    return {k: v for k, v in values.items() if k not in _NOT_PASSED and not k.startswith("_")}


def nano_text(vocabulary: int) -> dict[str, Any]:
    """Sizes of a language model as small as it can be: two layers, two query heads for each key-value head."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "initializer_range": 0.06,
        "tie_word_embeddings": False,
    }


def language_config(values: Mapping[str, Any]) -> PreTrainedConfig:
    """transformers' configuration of `llm_config`.

    Raises:
        InputError: an unknown architecture or a field with a value that the model cannot have.
    """
    name, known = architecture(values), passed_on(values)
    if name == INTERNLM2:
        known |= {"attention_bias": bool(known.pop("bias", False)), "mlp_bias": False}
    # The class's own defaults may lie outside a small vocabulary; the tokenizer's are used here.
    known = dict.fromkeys(SPECIAL_IDS) | known
    try:
        return AutoConfig.for_model(LANGUAGE_MODELS[name], **known)
    except CONFIG_ERRORS as error:
        raise InputError(f"llm_config: {one_line(error)}") from error


def language_model(values: Mapping[str, Any]) -> PreTrainedModel:
    """The causal language model that `llm_config` describes, with random weights.

    Raises:
        InputError: as `language_config`.
    """
    config = language_config(values)
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    except (*CONFIG_ERRORS, RuntimeError, AssertionError) as error:
        raise InputError(f"llm_config: {one_line(error)}") from error
    assert isinstance(model, PreTrainedModel)
    return model


def vision_language_model(
    config_class: Any, model_class: Any, values: Mapping[str, Any], kinds: Mapping[str, str]
) -> PreTrainedModel:
    """A vision-language model of transformers, with random weights.

    Args:
        config_class, model_class: of transformers.
        values: the fields of its configuration, those of its parts in objects.
        kinds: the `model_type` of each part, as transformers calls it today.

    Raises:
        InputError: a field with a value that the model cannot have.
    """
    parts = {name: {**passed_on(values[name]), "model_type": kind} for name, kind in kinds.items()}
    # The class's own defaults may lie outside a small vocabulary; the tokenizer's are used here.
    parts["text_config"] = dict.fromkeys(SPECIAL_IDS) | parts["text_config"]
    try:
        config = config_class(**{**values, **parts})
        model = model_class._from_config(config, attn_implementation="sdpa")
    except (*CONFIG_ERRORS, RuntimeError, AssertionError) as error:
        raise InputError(f"text_config or vision_config: {one_line(error)}") from error
    assert isinstance(model, PreTrainedModel)
    return model


def exact_span(config: PreTrainedConfig) -> int | None:
    """The longest sequence whose states do not depend on how it is cut into forwards; None = any.

    Dynamic NTK and LongRoPE change all frequencies once a sequence is longer than what the model was trained for:
    keys that are cached then keep the old ones. A sliding window hides old tokens by their number, which tokens of
    other branches would count towards.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    limits: list[int] = []
    if rope.get("rope_type") == "dynamic":
        limits.append(int(config.max_position_embeddings))
    if rope.get("rope_type") == "longrope":
        original = rope.get("original_max_position_embeddings")
        limits.append(int(original or config.max_position_embeddings))
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window and (kinds is None or "sliding_attention" in kinds):
        limits.append(int(window))
    return min(limits, default=None)
