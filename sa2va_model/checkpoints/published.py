# SPDX-License-Identifier: Apache-2.0
"""The sizes of the published checkpoints, to build models of their shape with random weights.

Speed and memory do not depend on the values. Sizes are those of the base models' cards; a real checkpoint is loaded by
its own `config.json` and needs nothing from here.
"""

from __future__ import annotations

from typing import Any

from sa2va_model.config import ModelConfig, VisionConfig
from sa2va_model.errors import InputError
from sa2va_model.mllm.families.qwen_config import QWEN2_5, QWEN3, QwenConfig

QWEN_VOCABULARY, INTERNLM2_VOCABULARY = 151_674, 92_558
VIT_300M = VisionConfig()
VIT_6B = VisionConfig(
    hidden_size=3200,
    intermediate_size=12800,
    num_hidden_layers=45,
    num_attention_heads=25,
    qkv_bias=False,
    qk_normalization=True,
    norm_type="rms_norm",
)


def _llm(
    hidden: int, mlp: int, layers: int, heads: int, kv: int, *, internlm2: bool = False
) -> dict[str, Any]:
    name = "InternLM2ForCausalLM" if internlm2 else "Qwen2ForCausalLM"
    own = {"bias": False, "rms_norm_eps": 1e-5} if internlm2 else {"rms_norm_eps": 1e-6}
    return {
        "architectures": [name],
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": INTERNLM2_VOCABULARY if internlm2 else QWEN_VOCABULARY,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        **own,
    }


_INTERNVL: dict[str, tuple[VisionConfig, dict[str, Any], str]] = {
    "1b": (VIT_300M, _llm(896, 4864, 24, 14, 2), "qwen_chat"),
    "4b": (VIT_300M, _llm(2048, 11008, 36, 16, 2), "phi3_chat"),
    "8b": (VIT_300M, _llm(4096, 14336, 32, 32, 8, internlm2=True), "internlm2_chat"),
    "26b": (VIT_6B, _llm(6144, 16384, 48, 48, 8, internlm2=True), "internlm2_chat"),
    "internvl3-2b": (VIT_300M, _llm(1536, 8960, 28, 12, 2), "qwen_chat"),
    "internvl3-8b": (VIT_300M, _llm(3584, 18944, 28, 28, 4), "qwen_chat"),
    "internvl3-14b": (VIT_300M, _llm(5120, 13824, 48, 40, 8), "qwen_chat"),
}
_VISION_2_5 = {
    "model_type": QWEN2_5,
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_VISION_3 = {
    "model_type": QWEN3,
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "deepstack_visual_indexes": [5, 11, 17],
}
_ROPE_2_5 = {"rope_type": "default", "mrope_section": [16, 24, 24]}
_ROPE_3 = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
_QWEN_VL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2.5-vl-3b": (QWEN2_5, _llm(2048, 11008, 36, 16, 2), {"rope_scaling": _ROPE_2_5}),
    "qwen2.5-vl-7b": (QWEN2_5, _llm(3584, 18944, 28, 28, 4), {"rope_scaling": _ROPE_2_5}),
    "qwen3-vl-2b": (
        QWEN3,
        _llm(2048, 6144, 28, 16, 8),
        {"rope_scaling": _ROPE_3, "rope_theta": 5e6, "head_dim": 128},
    ),
    "qwen3-vl-4b": (
        QWEN3,
        _llm(2560, 9728, 36, 32, 8),
        {"rope_scaling": _ROPE_3, "rope_theta": 5e6, "head_dim": 128},
    ),
}
PUBLISHED = (*_INTERNVL, *_QWEN_VL)


def published_config(name: str) -> ModelConfig:
    """The configuration of a published size.

    Args:
        name: 1b, 4b, 8b, 26b, internvl3-2b, …; see `PUBLISHED`.

    Raises:
        InputError: there is no such size; the message lists those there are.
    """
    if name in _INTERNVL:
        vision, llm, template = _INTERNVL[name]
        return ModelConfig(vision=vision, llm=llm, template=template)
    if name not in _QWEN_VL:
        raise InputError(f"size is {name!r}; expected one of {', '.join(PUBLISHED)}")
    family, llm, own = _QWEN_VL[name]
    text = {k: v for k, v in llm.items() if k != "architectures"} | own
    seen = _VISION_2_5 if family == QWEN2_5 else _VISION_3
    values = {
        "text_config": {**text, "model_type": f"{family}_text"},
        "vision_config": {**seen, "out_hidden_size": text["hidden_size"]},
    }
    return ModelConfig(vision=VisionConfig(), llm=text, qwen=QwenConfig(family, values))
