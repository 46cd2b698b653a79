# SPDX-License-Identifier: Apache-2.0
"""Tensor names of official checkpoints and of our modules, for every family; the one place that knows both.

A table of pairs is read in both directions; `#` stands for a layer number and `*` for the rest of a name. Fused weights
are cut where transformers' classes have several modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sa2va_model.config import ModelConfig
from sa2va_model.mllm.llm import INTERNLM2
from sa2va_model.segmentation.kinds import MODULES, CutTensor, kind_of
from sa2va_model.segmenter_config import SegmenterConfig

_VISION, _OUR_VISION = "vision_model.encoder.layers.#.", "mllm.vision_model.encoder.layer.#."
_LAYER, _OUR_LAYER = "language_model.model.layers.#.", "mllm.language_model.model.layers.#."
_INTERNVIT = (
    ("vision_model.embeddings.class_embedding", "mllm.vision_model.embeddings.cls_token"),
    (
        "vision_model.embeddings.position_embedding",
        "mllm.vision_model.embeddings.position_embeddings",
    ),
    (
        "vision_model.embeddings.patch_embedding.*",
        "mllm.vision_model.embeddings.patch_embeddings.projection.*",
    ),
    (_VISION + "ls1", _OUR_VISION + "lambda_1"),
    (_VISION + "ls2", _OUR_VISION + "lambda_2"),
    (_VISION + "norm1.*", _OUR_VISION + "layernorm_before.*"),
    (_VISION + "norm2.*", _OUR_VISION + "layernorm_after.*"),
    (_VISION + "attn.proj.*", _OUR_VISION + "attention.projection_layer.*"),
    (_VISION + "attn.*", _OUR_VISION + "attention.*"),
    (_VISION + "mlp.*", _OUR_VISION + "mlp.*"),
)
_INTERNLM2 = (
    (
        "language_model.model.tok_embeddings.*",
        "mllm.language_model.model.embed_tokens.*",
    ),
    ("language_model.output.*", "mllm.language_model.lm_head.*"),
    (_LAYER + "attention.wo.*", _OUR_LAYER + "self_attn.o_proj.*"),
    (_LAYER + "feed_forward.w1.*", _OUR_LAYER + "mlp.gate_proj.*"),
    (_LAYER + "feed_forward.w2.*", _OUR_LAYER + "mlp.down_proj.*"),
    (_LAYER + "feed_forward.w3.*", _OUR_LAYER + "mlp.up_proj.*"),
    (_LAYER + "attention_norm.*", _OUR_LAYER + "input_layernorm.*"),
    (_LAYER + "ffn_norm.*", _OUR_LAYER + "post_attention_layernorm.*"),
)
_INTERNVL = (("language_model.*", "mllm.language_model.*"), ("mlp1.*", "mllm.mlp1.*"))
_QWEN = (("model.*", "mllm.language_model.*"),)
OURS = "sam2.sam2_model."
"""Begins our names of a segmenter's tensors."""


class _SegmenterNames:
    """Names of a segmenter's tensors with what stands before them, and those of what joins the halves."""

    def __init__(self, config: SegmenterConfig) -> None:
        names = kind_of(config).names()
        pairs = tuple((MODULES + official, OURS + ours) for official, ours in names.pairs)
        rest = (("grounding_encoder.*", "sam2.*"), ("text_hidden_fcs.*", "text_hidden_fcs.*"))
        self.pairs = (*pairs, *rest)
        self.cuts = [
            replace(c, official=MODULES + c.official, ours=tuple(OURS + o for o in c.ours))
            for c in names.cuts
        ]
        self.unused = tuple(MODULES + begin for begin in names.unused)


def _thirds(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.chunk(3)


def _stacked(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(parts)


def _grouped(heads: int, kv_heads: int) -> CutTensor:
    """InternLM2's wqkv: for each key-value head its query heads, then the key, then the value."""
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

    ours = tuple(f"{_OUR_LAYER}self_attn.{letter}_proj.*" for letter in "qkv")
    return CutTensor(_LAYER + "attention.wqkv.*", ours, cut, join)


class Names:
    """Official names and ours for one configuration."""

    def __init__(self, config: ModelConfig) -> None:
        self._pairs: tuple[tuple[str, str], ...]
        segmenter = _SegmenterNames(config.sam2)
        self._fused, self._unused = segmenter.cuts, segmenter.unused
        if config.qwen is not None:
            self._pairs = (*_QWEN, *segmenter.pairs)
            return
        parts = tuple(f"{_OUR_VISION}attention.{letter}_proj.*" for letter in "qkv")
        self._fused.append(CutTensor(_VISION + "attn.qkv.*", parts, _thirds, _stacked))
        self._pairs = (*_INTERNVIT, *_INTERNVL, *segmenter.pairs)
        if INTERNLM2 in (config.llm.get("architectures") or ()):
            heads = int(config.llm["num_attention_heads"])
            kv_heads = int(config.llm.get("num_key_value_heads") or heads)
            self._fused.append(_grouped(heads, kv_heads))
            self._pairs = (*_INTERNVIT, *_INTERNLM2, *_INTERNVL, *segmenter.pairs)

    @classmethod
    def of_segmenter(cls, config: SegmenterConfig) -> Names:
        """Those of a segmenter alone."""
        names, segmenter = cls.__new__(cls), _SegmenterNames(config)
        names._pairs, names._fused, names._unused = (
            segmenter.pairs,
            segmenter.cuts,
            segmenter.unused,
        )
        return names

    def cut(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """Our tensors from an official one; views of it where that is possible."""
        for fused in self._fused:
            found = _pattern(fused.official).match(name)
            if found:
                parts = fused.cut(tensor)
                return {_filled(o, found): p for o, p in zip(fused.ours, parts, strict=True)}
        return {_renamed(name, self._pairs): tensor}

    def needed(self, name: str) -> bool:
        """Whether an official tensor is used for anything."""
        return not name.startswith(self._unused)

    def alone(self, name: str) -> bool:
        """Whether an official tensor is one of ours as it is."""
        return not any(_pattern(fused.official).match(name) for fused in self._fused)

    def official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict under official names, in the official layout."""
        backwards = tuple((ours, official) for official, ours in self._pairs)
        out: dict[str, Tensor] = {}
        for name, tensor in state.items():
            whole = self._joined(name, state)
            if whole is None:
                out[_renamed(name, backwards)] = tensor
            else:
                out.update(whole)
        return out

    def _joined(self, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The fused tensor at the first of its parts, nothing at the others; None = `name` is no such part."""
        for fused in self._fused:
            for place, part in enumerate(fused.ours):
                found = _pattern(part).match(name)
                if found and place:
                    return {}
                if found:
                    parts = tuple(state[_filled(ours, found)] for ours in fused.ours)
                    return {_filled(fused.official, found): fused.join(parts)}
        return None


_COMPILED: dict[str, re.Pattern[str]] = {}


def _pattern(text: str) -> re.Pattern[str]:
    if text not in _COMPILED:
        escaped = re.escape(text).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")
        _COMPILED[text] = re.compile(f"^{escaped}$")
    return _COMPILED[text]


def _filled(text: str, found: re.Match[str]) -> str:
    """`text` with what the placeholders of another pattern matched."""
    groups = iter(found.groups())
    return re.sub(r"[#*]", lambda _: next(groups), text)


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """By the first pair that matches; the same name if none does."""
    for old, new in pairs:
        found = _pattern(old).match(name)
        if found:
            return _filled(new, found)
    return name
