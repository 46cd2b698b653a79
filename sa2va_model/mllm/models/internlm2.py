# SPDX-License-Identifier: Apache-2.0
"""The tensors of InternLM2, which is Llama under other names and with fused queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sa2va_model.cut_tensor import CutTensor
from sa2va_model.mllm.tensor_map import TensorMap

INTERNLM2 = "InternLM2ForCausalLM"
_LAYER = "language_model.model.layers.#."
_PAIRS = (
    ("language_model.model.tok_embeddings.*", "language_model.model.embed_tokens.*"),
    ("language_model.output.*", "language_model.lm_head.*"),
    (_LAYER + "attention.wo.*", _LAYER + "self_attn.o_proj.*"),
    (_LAYER + "feed_forward.w1.*", _LAYER + "mlp.gate_proj.*"),
    (_LAYER + "feed_forward.w2.*", _LAYER + "mlp.down_proj.*"),
    (_LAYER + "feed_forward.w3.*", _LAYER + "mlp.up_proj.*"),
    (_LAYER + "attention_norm.*", _LAYER + "input_layernorm.*"),
    (_LAYER + "ffn_norm.*", _LAYER + "post_attention_layernorm.*"),
)


def internlm2_tensors(values: Mapping[str, Any]) -> TensorMap:
    """The names of the language model that `llm_config` describes."""
    heads = int(values["num_attention_heads"])
    return TensorMap(_PAIRS, (_grouped(heads, int(values.get("num_key_value_heads") or heads)),))


def _grouped(heads: int, kv_heads: int) -> CutTensor:
    """Wqkv: for each key-value head its query heads, then the key, then the value."""
    share = heads // kv_heads

    def cut(tensor: Tensor) -> tuple[Tensor, ...]:
        blocks = tensor.reshape(kv_heads, share + 2, -1, *tensor.shape[1:])
        parts = (blocks[:, :share], blocks[:, share], blocks[:, share + 1])
        return tuple(part.reshape(-1, *tensor.shape[1:]) for part in parts)

    def join(parts: tuple[Tensor, ...]) -> Tensor:
        rest = parts[0].shape[1:]
        query = parts[0].reshape(kv_heads, share, -1, *rest)
        key, value = (part.reshape(kv_heads, 1, -1, *rest) for part in parts[1:])
        return torch.cat([query, key, value], dim=1).reshape(-1, *rest)

    ours = tuple(f"{_LAYER}self_attn.{letter}_proj.*" for letter in "qkv")
    return CutTensor(_LAYER + "attention.wqkv.*", ours, cut, join)
