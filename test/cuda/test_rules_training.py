# SPDX-License-Identifier: Apache-2.0
"""A training step's forward on an emulated GPU, and fewer bits.

The backward pass is not emulated: a CPU build's autograd engine asks for a real accelerator.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from emulated_cuda import Cuda, OnCuda
from torch import nn

from sa2va_model.checkpoints.quantisation import quantise
from sa2va_model.testing import nano_model
from sa2va_training.data.synth import write_scenes
from sa2va_training.objectives.objectives import Totals
from sa2va_training.run.job import make_job, open_all
from sa2va_training.run.launch import make_accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "flat"
    write_scenes(folder, "flat", range(4), size=96)
    return folder


@pytest.mark.parametrize("autocast", [False, True])
def test_a_steps_losses(scenes: Path, tmp_path: Path, autocast: bool) -> None:
    from train_helpers import settings

    chosen = settings(tmp_path, scenes, loss={"points": 64, "names": 0.1})
    model = nano_model()
    accelerator = make_accelerator(chosen)
    job = make_job(chosen, accelerator, model, "", open_all(chosen))
    batch = next(iter(job.feeder.steps(0, 1)))[0]
    with Cuda() as gpu:
        learner = gpu.move(job.learner)
        given = batch.to("cuda")
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = learner(given, Totals(*(1.0 for _ in fields(Totals))))["loss"]
    assert isinstance(loss, OnCuda)
    assert loss.requires_grad
    assert not gpu.faults, gpu.report()


def test_eight_bits_are_made_on_the_way_from_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes quantises a weight when it moves from the CPU to the device, and one that is there already never."""
    places: list[str] = []

    def int8(weight: torch.Tensor, **_: Any) -> nn.Parameter:
        places.append(weight.device.type)
        return nn.Parameter(weight, requires_grad=False)

    layers = SimpleNamespace(
        Linear8bitLt=lambda inputs, outputs, **_: nn.Linear(inputs, outputs, False),
        Int8Params=int8,
    )
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=layers))
    model = nano_model().mllm.language_model
    with Cuda():
        weight = torch.ones(4, 4, device="cuda")
        assert quantise(model, 8, torch.bfloat16, torch.device("cpu"))
        layer: Any = next(m for m in model.modules() if hasattr(m, "take_weight"))
        layer.take_weight(weight)
    assert places == ["cpu"]
