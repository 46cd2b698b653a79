# SPDX-License-Identifier: Apache-2.0
"""Tensor names of official checkpoints and of our modules: the family's table, the segmenter's, and what joins them.

Fused weights are cut where transformers' classes have several modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from sa2va_model.config.model import ModelConfig
from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.mllm.registry import family
from sa2va_model.segmentation.kinds import MODULES, kind_of

MLLM = "mllm."
"""Our names of the language half begin so."""
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


class Names:
    """Official names and ours for one configuration."""

    def __init__(self, config: ModelConfig) -> None:
        segmenter = _SegmenterNames(config.sam2)
        language = family(config.mllm.family).tensors(config.mllm)
        ours = tuple((official, MLLM + own) for official, own in language.pairs)
        self._pairs = (*segmenter.pairs, *ours, ("*", MLLM + "*"))
        self._fused = [
            *segmenter.cuts,
            *(replace(c, ours=tuple(MLLM + own for own in c.ours)) for c in language.cuts),
        ]
        self._unused = segmenter.unused

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
