# SPDX-License-Identifier: Apache-2.0
"""The sizes of the published checkpoints, to build models of their shape with random weights.

Speed and memory do not depend on the values. Sizes are those of the base models' cards; a real checkpoint is loaded by
its own `config.json` and needs nothing from here.
"""

from __future__ import annotations

from typing import Any

from sa2va_model.checkpoints.config_json import config_from_json
from sa2va_model.config.model import ModelConfig
from sa2va_model.config.segmenter import Sam3Config
from sa2va_model.errors import InputError

QWEN_VOCABULARY, INTERNLM2_VOCABULARY = 151_674, 92_558
_VIT_6B = {
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 45,
    "num_attention_heads": 25,
    "qkv_bias": False,
    "qk_normalization": True,
    "norm_type": "rms_norm",
}
"""InternViT-6B; the defaults are those of InternViT-300M."""


def _llm(
    hidden: int, mlp: int, layers: int, heads: int, kv: int, *, internlm2: bool = False
) -> dict[str, Any]:
    name = "InternLM2ForCausalLM" if internlm2 else "Qwen2ForCausalLM"
    own: dict[str, Any] = {"rms_norm_eps": 1e-6}
    if internlm2:
        # Of the base's card (InternLM2.5); longer than 32768 tokens, frequencies grow with the length.
        own = {
            "bias": False,
            "rms_norm_eps": 1e-5,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
        }
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


def _internvl(template: str, llm: dict[str, Any], **vision: Any) -> dict[str, Any]:
    return {
        "architectures": ["Sa2VAChatModel"],
        "template": template,
        "vision_config": vision,
        "llm_config": llm,
    }


_INTERNVL = {
    "1b": _internvl("qwen_chat", _llm(896, 4864, 24, 14, 2)),
    "4b": _internvl("phi3_chat", _llm(2048, 11008, 36, 16, 2)),
    "8b": _internvl("internlm2_chat", _llm(4096, 14336, 32, 32, 8, internlm2=True)),
    "26b": _internvl("internlm2_chat", _llm(6144, 16384, 48, 48, 8, internlm2=True), **_VIT_6B),
    "internvl3-2b": _internvl("qwen_chat", _llm(1536, 8960, 28, 12, 2)),
    "internvl3-8b": _internvl("qwen_chat", _llm(3584, 18944, 28, 28, 4)),
    "internvl3-14b": _internvl("qwen_chat", _llm(5120, 13824, 48, 40, 8)),
}
_VISION_2_5 = {
    "model_type": "qwen2_5_vl",
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_VISION_3 = {
    "model_type": "qwen3_vl",
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "deepstack_visual_indexes": [5, 11, 17],
}
_ROPE_2_5 = {"rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}}
_ROPE_3 = {
    "rope_scaling": {
        "rope_type": "default",
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
    "rope_theta": 5e6,
    "head_dim": 128,
}


def _qwen_vl(vision: dict[str, Any], rope: dict[str, Any], llm: dict[str, Any]) -> dict[str, Any]:
    text = {k: v for k, v in llm.items() if k != "architectures"} | rope
    return {
        "architectures": ["Sa2VAChatModelQwen"],
        "text_config": {**text, "model_type": f"{vision['model_type']}_text"},
        "vision_config": {**vision, "out_hidden_size": text["hidden_size"]},
    }


_QWEN_VL = {
    "qwen2.5-vl-3b": _qwen_vl(_VISION_2_5, _ROPE_2_5, _llm(2048, 11008, 36, 16, 2)),
    "qwen2.5-vl-7b": _qwen_vl(_VISION_2_5, _ROPE_2_5, _llm(3584, 18944, 28, 28, 4)),
    "qwen3-vl-2b": _qwen_vl(_VISION_3, _ROPE_3, _llm(2048, 6144, 28, 16, 8)),
    "qwen3-vl-4b": _qwen_vl(_VISION_3, _ROPE_3, _llm(2560, 9728, 36, 32, 8)),
}
_SAM3 = {"qwen3-vl-4b-sam3": _QWEN_VL["qwen3-vl-4b"] | {Sam3Config.SECTION: {}}}
_LLAVA = {
    "llava-1.5-7b": {
        "architectures": ["Sa2VAChatModelLlava"],
        "template": "vicuna",
        "image_token_index": 32_000,
        "text_config": {
            **{k: v for k, v in _llm(4096, 11008, 32, 32, 32).items() if k != "architectures"},
            "vocab_size": 32_007,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e4,
        },
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
    }
}
_TEN_CLIPS = {
    f"sasasa2va-{size}": {
        **_INTERNVL[size],
        "architectures": ["SaSaSa2VAChatModel"],
        "model_type": "sasasa2va_chat",
    }
    for size in ("4b", "26b")
}
_FIELDS: dict[str, dict[str, Any]] = _INTERNVL | _QWEN_VL | _SAM3 | _LLAVA | _TEN_CLIPS
PUBLISHED = tuple(_FIELDS)


def published_config(name: str, **changes: Any) -> ModelConfig:
    """The configuration of a published size.

    Args:
        name: 1b, 4b, 8b, 26b, internvl3-2b, …; see `PUBLISHED`.
        changes: fields of `config.json` that are otherwise.

    Raises:
        InputError: there is no such size; the message lists those there are.
    """
    if name not in _FIELDS:
        raise InputError(f"size is {name!r}; expected one of {', '.join(PUBLISHED)}")
    return config_from_json({**_FIELDS[name], **changes})
