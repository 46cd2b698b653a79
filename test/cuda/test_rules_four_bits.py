# SPDX-License-Identifier: Apache-2.0
"""A language model in 4 bits on an emulated GPU: bitsandbytes' own operators keep CUDA's rules, and can be captured.

Its `Params4bit` is replaced by a parameter that is quantised when it is made: one tensor cannot be of that class and of
the emulation's. The operators, the layer and what is around it are those that run on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from emulated_cuda import Cuda
from graph_tape import Graph
from torch import Tensor, nn

from sa2va_model.checkpoints.quantisation import quantise
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model

bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra 'quantised' is not installed")
IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)


def packed(weight: Tensor, *, requires_grad: bool, quant_type: str, module: Any) -> nn.Parameter:
    """As `Params4bit` is once it came to the device of `weight`."""
    data, state = bitsandbytes.functional.quantize_4bit(weight, quant_type=quant_type)
    parameter: Any = nn.Parameter(data, requires_grad=requires_grad)
    parameter.quant_state = module.quant_state = state
    return parameter  # type: ignore[no-any-return]


def in_four_bits(model: Sa2VA, device: str, dtype: torch.dtype) -> None:
    body: Any = model.mllm.language_model.model
    weights = {
        name: layer.weight.detach()
        for name, layer in body.named_modules()
        if type(layer) is nn.Linear
    }
    assert quantise(model.mllm.language_model, 4, dtype, torch.device(device)) == len(weights) > 0
    for name, weight in weights.items():
        body.get_submodule(name).take_weight(weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_the_cpus(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """For a new frame, a known one and again, eagerly and as graphs."""
    models, asked = [nano_model() for _ in range(3)], ("a cup", "the dog", "a cup")
    for model in models:
        for name, parameter in model.named_parameters():
            if not name.startswith("sam2."):
                parameter.data = parameter.data.to(dtype)
    future = torch.__future__
    monkeypatch.setattr(bitsandbytes.nn, "Params4bit", packed)
    with Cuda() as gpu:
        for model in models[1:]:
            gpu.move(model)
    # A layer that is moved would lose what its weight was quantised by.
    overwrites = future.get_overwrite_module_params_on_conversion()
    future.set_overwrite_module_params_on_conversion(False)
    try:
        in_four_bits(models[0], "cpu", dtype)
        wanted = [models[0].ground([IMAGE], words).embeddings for words in asked]
        for model, graphs in zip(models[1:], (False, True), strict=True):
            before = Graph.captured
            with Cuda() as gpu:
                in_four_bits(model, "cuda", dtype)
                model.use_profile("float32", graphs=graphs)
                got = [model.ground([IMAGE], words).embeddings.cpu() for words in asked]
            assert not gpu.faults, gpu.report()
            assert (Graph.captured > before) == graphs
            near = 1e-5 if dtype == torch.float32 else 1e-2
            for one, other in zip(wanted, got, strict=True):
                assert torch.allclose(one, other, atol=near)
    finally:
        future.set_overwrite_module_params_on_conversion(overwrites)
    whole = nano_model().ground([IMAGE], asked[0]).embeddings
    assert not torch.allclose(whole, wanted[0].float(), atol=1e-3), "4 bits round"
