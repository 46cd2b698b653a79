# SPDX-License-Identifier: Apache-2.0
"""Every number that makes one Sa2VA differ from another: the tiny model, a nano model and 26B share all code.

`ModelConfig` is read from a checkpoint's `config.json` by `config_json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sa2va_model.config.segmenter import Sam2Config, SegmenterConfig
from sa2va_model.errors import InputError

SEG_MODES = ("single", "repetitive", "unique")


class FamilyConfig(Protocol):
    """What anybody may ask of the configuration that a family of language models has of its own.

    All else in it is for the family's own file.
    """

    @property
    def family(self) -> str:
        """Its name in `mllm.registry`."""

    @property
    def llm(self) -> Mapping[str, Any]:
        """The language model's own configuration (`llm_config`, `text_config`), passed on to transformers."""

    @property
    def tied(self) -> bool:
        """Whether the language model's head is its embedding."""

    def untied(self) -> FamilyConfig:
        """The same with a head of its own."""

    @property
    def region_size(self) -> int:
        """Side of the token grid onto which a region prompt is rasterised; 0 = the family has no region prompts."""


@dataclass(frozen=True)
class ModelConfig:
    """One Sa2VA.

    Attributes:
        mllm: the language half, as its family needs it.
        keyframes: how many frames of a clip the language model sees and SAM-2 is prompted on (official: 5).
        extra_answers: sentences this model was trained to answer a referring question with, beside
            `chat.ANSWERS`; known ones are checked in one forward.
        seg: how keyframes are prompted: "single" = one `[SEG]` for all of them (published); "repetitive" = one `[SEG]`
            for each; "unique" = each its own token, `[SEG]`, `[SEG 2]` … (Table 12 of the paper). Of the last two,
            whoever takes one embedding per object has that of the first keyframe.
    """

    mllm: FamilyConfig
    sam2: SegmenterConfig = field(default_factory=Sam2Config)
    keyframes: int = 5
    max_new_tokens: int = 2048
    extra_answers: tuple[str, ...] = ()
    seg: str = "single"

    def __post_init__(self) -> None:
        if self.seg not in SEG_MODES:
            raise InputError(f"seg is {self.seg!r:.40}; expected one of {', '.join(SEG_MODES)}")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; expected 1 or more")
        if self.keyframes < 1:
            raise InputError(f"keyframes is {self.keyframes}; expected 1 or more")

    @property
    def llm(self) -> Mapping[str, Any]:
        """See `FamilyConfig`."""
        return self.mllm.llm

    @property
    def tied(self) -> bool:
        """See `FamilyConfig`."""
        return self.mllm.tied

    def untied(self) -> ModelConfig:
        """The same with a language model that has a head of its own."""
        return replace(self, mllm=self.mllm.untied())

    @property
    def region_size(self) -> int:
        """See `FamilyConfig`."""
        return self.mllm.region_size
