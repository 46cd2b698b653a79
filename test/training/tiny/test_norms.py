# SPDX-License-Identifier: Apache-2.0
"""Normalisation is there while training, gone when shipped, and nobody can tell from the output."""

from __future__ import annotations

import torch
from torch import nn

from sa2va_model.conv_stem import ResidualStem
from sa2va_training.tiny.learner import TinyLearner
from sa2va_training.tiny.norms import HalfStem, fold_norms, stems


@torch.no_grad()
def test_folding_changes_no_output() -> None:
    torch.manual_seed(0)
    learner = TinyLearner().train()
    pixels = torch.randn(2, 3, 192, 192)
    learner.model.mllm.visual_tokens(pixels)  # running statistics that are not those of the start
    learner.encode(pixels)
    for module in learner.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    learner.eval()
    words, masks = learner.model.mllm.visual_tokens(pixels), learner.encode(pixels).fine
    assert all(isinstance(getattr(parent, name), HalfStem) for parent, name in stems(learner.model))
    fold_norms(learner.model)
    assert all(
        isinstance(getattr(parent, name), ResidualStem) for parent, name in stems(learner.model)
    )
    assert not any(isinstance(module, nn.BatchNorm2d) for module in learner.modules())
    torch.testing.assert_close(
        learner.model.mllm.visual_tokens(pixels), words, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(learner.encode(pixels).fine, masks, rtol=1e-4, atol=1e-4)
