# SPDX-License-Identifier: Apache-2.0
"""Pixels to tokens, channels last, against the modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sa2va_model.conv_stem import ResidualBlock, ResidualStem
from sa2va_model.device import CPU, CUDA
from sa2va_model.segmentation.backends.fused.kernels import Kernels
from sa2va_model.segmentation.backends.fused.stem import embedding

KERNELS = Kernels(torch.float32, CPU)


@pytest.mark.parametrize("count", [1, 2])
@torch.inference_mode()
def test_a_stem_of_residual_blocks(count: int) -> None:
    torch.manual_seed(3)
    stem, position = ResidualStem((6, 8), (1, 2), 12), torch.randn(1, 8, 8, 12)
    fast, pixels = embedding(stem, position, KERNELS), torch.randn(count, 3, 32, 32)
    got, want = fast(pixels), stem(pixels).permute(0, 2, 3, 1) + position
    assert type(fast).__name__ == "FastStem"
    assert got.is_contiguous()
    assert torch.allclose(got, want, atol=1e-5)


@torch.inference_mode()
def test_what_is_no_plain_stem_runs_as_it_is() -> None:
    position, pixels = torch.randn(1, 8, 8, 12), torch.randn(1, 3, 32, 32)
    trained = ResidualStem((6, 8), (0, 1), 12)
    block = next(layer for layer in trained if isinstance(layer, ResidualBlock))
    block.first = nn.Sequential(block.first, nn.BatchNorm2d(8))
    half = nn.Conv2d(3, 12, 4, 4).bfloat16()
    for proj, kernels in (
        (trained.eval(), KERNELS),
        (half, KERNELS),
        (ResidualStem((6, 8), (0, 1), 12), Kernels(torch.float32, CUDA)),
    ):
        fast = embedding(proj, position, kernels)
        assert type(fast).__name__ == "Convolution"
        want = proj.float()(pixels).permute(0, 2, 3, 1) + position
        assert torch.allclose(fast(pixels), want, atol=0.02)
