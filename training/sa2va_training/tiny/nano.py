# SPDX-License-Identifier: Apache-2.0
"""A learner so small that a test trains it in a second; everything is there, nothing is learnt."""

from __future__ import annotations

from dataclasses import replace

import torch

from sa2va_model.checkpoints.presets import nano_config
from sa2va_model.config.model import ModelConfig
from sa2va_training.tiny.data.language import tiny_tokenizer
from sa2va_training.tiny.learner import TinyLearner

SIZE = 64


def small_config() -> ModelConfig:
    """The nano configuration with both halves looking at the same 64-pixel square, as the tiny model's do."""
    config = nano_config(
        len(tiny_tokenizer()), vision_config={"image_size": SIZE}, dynamic_image_size=False
    )
    return replace(
        config,
        sam2=replace(
            config.sam2,
            image_size=SIZE,
            object_score_gate=True,
            multimask=False,
            stability_fallback=False,
            pointer_positions=True,
        ),
    )


def small_learner(seed: int = 0) -> TinyLearner:
    """A learner with random weights."""
    torch.manual_seed(seed)
    return TinyLearner(small_config())
