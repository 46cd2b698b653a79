# SPDX-License-Identifier: Apache-2.0
"""The rewritten memory encoder against the `sam2` package's module, stage by stage."""

from __future__ import annotations

import pytest
import torch
from sam2.modeling.memory_encoder import MaskDownSampler

from sa2va_model.device import CPU, CUDA, DeviceTraits
from sa2va_model.segmentation.backends.fused.kernels import Kernels
from sa2va_model.segmentation.backends.fused.memory_encoder import _mask_stage


@pytest.mark.parametrize("traits", [CPU, CUDA], ids=["planes", "pixels"])
@pytest.mark.parametrize("count", [1, 3])
@torch.inference_mode()
def test_stages_of_masks(traits: DeviceTraits, count: int) -> None:
    torch.manual_seed(5)
    steps = list(MaskDownSampler(embed_dim=64, kernel_size=3, stride=2, padding=1).encoder)
    for step in steps:
        for parameter in step.parameters():
            parameter.normal_()
    kernels = Kernels(torch.float32, traits)
    stages = [_mask_stage(steps[i], steps[i + 1], kernels) for i in range(0, len(steps) - 1, 3)]
    kinds = [type(stage).__name__ for stage in stages]
    few = ["_PlanarStage", "_NarrowStage"] if traits.layouts else ["_MaskStage"] * 2
    assert kinds == [*few, "_MaskStage", "_MaskStage"]
    x = want = 8 * torch.rand(count, 1, 64, 64) - 4
    for i, stage in enumerate(stages):
        want = torch.nn.Sequential(*steps[3 * i : 3 * i + 3])(want)
        x = stage(x)
        assert x.shape == want.shape
        assert torch.allclose(x, want, rtol=1e-5, atol=2e-5)
