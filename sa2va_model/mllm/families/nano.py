# SPDX-License-Identifier: Apache-2.0
"""A nano configuration of every family that checkpoints come in; for tests and for trying things out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sa2va_model.checkpoints.presets import nano_config
from sa2va_model.config import ModelConfig, VisionConfig
from sa2va_model.errors import InputError
from sa2va_model.mllm.families.qwen_config import QWEN2_5, QWEN3, QwenConfig

QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_LANGUAGE: dict[str, dict[str, Any]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
    "internlm2": {
        "architectures": ["InternLM2ForCausalLM"],
        "bias": False,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    },
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "phi3": {"architectures": ["Phi3ForCausalLM"]},
    "internvit_6b": {"architectures": ["InternLM2ForCausalLM"], "bias": False},
}
FAMILIES = (*_LANGUAGE, QWEN2_5, QWEN3)


def nano_family(name: str, vocabulary: int) -> ModelConfig:
    """The nano model with the language model, or the vision-language model, of a family.

    Raises:
        InputError: there is no such family; the message lists those there are.
    """
    if name not in FAMILIES:
        raise InputError(f"family is {name!r}; expected one of {', '.join(FAMILIES)}")
    config = nano_config(vocabulary)
    llm = {**config.llm, **_sizes(vocabulary)}
    if name in (QWEN2_5, QWEN3):
        return _qwen_vl(config, name, llm)
    config = replace(config, llm={**llm, **_LANGUAGE[name]})
    if name == "internvit_6b":
        options: dict[str, Any] = {"norm_type": "rms_norm", "qkv_bias": False}
        vision = replace(config.vision, qk_normalization=True, **options)
        return replace(config, vision=vision, template="internlm2_chat")
    return replace(config, template="internlm2_chat" if name == "internlm2" else "qwen_chat")


def _sizes(vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }


def _qwen_vl(config: ModelConfig, name: str, llm: dict[str, Any]) -> ModelConfig:
    llm.pop("architectures")
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 32,
    }
    if name == QWEN2_5:
        vision |= {"window_size": 16, "fullatt_block_indexes": [1], "model_type": QWEN2_5}
        llm |= {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
        llm |= {"model_type": "qwen2_5_vl_text"}
    else:
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
        vision |= {"model_type": QWEN3}
        rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}
        llm |= {"head_dim": 16, "rope_scaling": rope, "model_type": "qwen3_vl_text"}
    values = {
        "text_config": llm,
        "vision_config": vision,
        "image_token_id": llm["vocab_size"] - 2,
        "video_token_id": llm["vocab_size"] - 1,
        "vision_start_token_id": llm["vocab_size"] - 4,
        "vision_end_token_id": llm["vocab_size"] - 3,
    }
    qwen = QwenConfig(name, values, min_pixels=16 * 8 * 8, max_pixels=48 * 8 * 8)
    return replace(config, vision=VisionConfig(), llm=llm, qwen=qwen)
