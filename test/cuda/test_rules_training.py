# SPDX-License-Identifier: Apache-2.0
"""A training step on an emulated GPU, adapters, and fewer bits."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from emulated_cuda import Cuda, OnCuda
from peft import LoraConfig
from torch import nn

from sa2va_model.checkpoints.adapters import (
    fingerprint,
    load_adapter,
    save_adapter,
    unload_adapter,
    wrap_language_model,
)
from sa2va_model.checkpoints.quantisation import quantise
from sa2va_model.testing import nano_model
from sa2va_training.batches.batch import Batch
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
def test_a_step(scenes: Path, tmp_path: Path, autocast: bool) -> None:
    """Losses, backward pass and optimiser; in float32 it is the CPU's step."""
    from train_helpers import settings

    parts = {"rank": 4, "alpha": 8, "dropout": 0.0}
    chosen = settings(tmp_path, scenes, train=parts, loss={"points": 64, "names": 0.1})
    job = make_job(chosen, make_accelerator(chosen), nano_model(), "", open_all(chosen))
    batch = next(iter(job.feeder.steps(0, 1)))[0]
    totals = Totals(*(1.0 for _ in fields(Totals)))
    wanted = {} if autocast else stepped(job.learner, batch, totals)
    with Cuda() as gpu:
        learner = gpu.move(job.learner)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            found = stepped(learner, batch.to("cuda"), totals)
        assert all(isinstance(value, OnCuda) for value in found.values())
        near = [torch.allclose(found[name].cpu(), wanted[name], atol=1e-5) for name in wanted]
    assert all(near)
    assert len(found) > 20
    assert not gpu.faults, gpu.report()


def stepped(learner: nn.Module, batch: Batch, totals: Totals) -> dict[str, torch.Tensor]:
    """What one step of AdamW adds to each number, by name; the learner is as before behind it."""
    trained = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    torch.manual_seed(0)
    learner(batch, totals)["loss"].backward()
    norm = torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
    gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
    assert float(norm) > 0
    torch.optim.AdamW(trained.values(), lr=1e-3).step()
    with torch.no_grad():
        for name, parameter in trained.items():
            moved = parameter - before[name]
            assert name not in gradients or bool(moved.any()) or not bool(gradients[name].any())
            parameter.copy_(before[name])
            parameter.grad = None
    return gradients


def test_adapters_come_and_go(tmp_path: Path) -> None:
    teacher = nano_model()
    base = fingerprint(teacher)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")
    peft = wrap_language_model(teacher.mllm.language_model, lora)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "lora_B" in name or name.startswith("text_hidden_fcs."):
                parameter.add_(0.05)
    parts = [name for name, _ in teacher.named_parameters() if name.startswith("text_hidden_fcs.")]
    save_adapter(teacher, tmp_path, base=base, parts=parts, peft=peft, notes={})
    image, model = np.full((60, 80, 3), 99, np.uint8), nano_model()
    with Cuda() as gpu:
        gpu.move(model).use_profile("float32")
        answers = [model.ground([image], "a cup").embeddings.cpu()]
        load_adapter(model, tmp_path)
        answers.append(model.ground([image], "a cup").embeddings.cpu())
        unload_adapter(model)
        answers.append(model.ground([image], "a cup").embeddings.cpu())
    assert torch.allclose(answers[0], answers[2], atol=1e-5)
    assert not torch.allclose(answers[0], answers[1], atol=1e-3)
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
