# SPDX-License-Identifier: Apache-2.0
"""Recorded operators: the same answers bit for bit, for each shape its own, and nothing that stays behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from sa2va_cli.bench.tracker_race import moving_squares, ours
from sa2va_model.segmentation.backends.fused import recording
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.backends.fused.recording import RECORD_AFTER, Recording
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import nano_model


class Stage:
    """A function with a weight, which counts how often Python runs it."""

    def __init__(self, *, wants_gradients: bool = False) -> None:
        self.weight = nn.Parameter(torch.randn(4, 4), requires_grad=wants_gradients)
        self.calls = 0

    def __call__(self, x: Tensor, *, power: int = 1) -> Sequence[Tensor]:
        self.calls += 1
        out = x.flatten(0, -2) @ self.weight
        return out.view(x.shape).relu_(), x**power


def repeat(call: Recording, x: Tensor, **fixed: int) -> None:
    for _ in range(RECORD_AFTER + 4):
        one = call(x, **fixed)
        assert len(one) == 2


@torch.inference_mode()
def test_each_shape_and_each_fixed_value_is_recorded_for_itself() -> None:
    stage = Stage()
    call, plain = Recording(stage), Stage()
    plain.weight = stage.weight
    cases = [(torch.randn(3, 4), 1), (torch.randn(2, 5, 4), 2), (torch.randn(4, 3).T, 2)]
    for x, power in cases:
        repeat(call, x, power=power)
    # Those before it is recorded, and the recording itself.
    assert stage.calls == len(cases) * (RECORD_AFTER + 1)
    for x, power in [*cases, (torch.randn(3, 4), 3)]:
        for got, want in zip(call(x, power=power), plain(x, power=power), strict=True):
            assert torch.equal(got, want)


def test_what_cannot_be_recorded_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 4)
    with torch.inference_mode():
        wanting = Stage(wants_gradients=True)  # a constant of a graph must not
        repeat(Recording(wanting), x)
        assert wanting.calls >= RECORD_AFTER + 4
        monkeypatch.delattr(torch._C, "_create_graph_by_tracing")
        gone = Stage()
        repeat(Recording(gone), x)
        assert gone.calls == RECORD_AFTER + 4
    trained = Stage()
    repeat(Recording(trained), x)  # outside of inference mode
    still = Stage()
    with torch.inference_mode():
        repeat(Recording(still, active=False), x)
    assert trained.calls == still.calls == RECORD_AFTER + 4


@torch.inference_mode()
def test_weights_go_with_the_function() -> None:
    stage = Stage()
    call, weight = Recording(stage), weakref.ref(stage.weight)
    repeat(call, torch.randn(3, 4))
    del stage, call
    gc.collect()
    assert weight() is None


def _masks(weights: Sam2, frames: Tensor) -> list[Tensor]:
    prompts = [Prompt.box(0.1, 0.2, 0.5, 0.6), Prompt.box(0.4, 0.1, 0.8, 0.5)]
    return list(ours(FusedSam2(weights), frames, prompts))


def test_a_recorded_tracker_answers_bit_for_bit_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = nano_model().sam2
    frames, _ = moving_squares(9, weights.config.image_size, 2)
    made: list[int] = []
    record = recording._record

    def counted(function: recording.Function, tensors: Sequence[Tensor]) -> recording.Function:
        made.append(len(tensors))
        return record(function, tensors)

    monkeypatch.setattr(recording, "_record", counted)
    monkeypatch.setattr(recording, "RECORD_AFTER", 1000)
    plain = _masks(weights, frames)
    assert not made
    monkeypatch.setattr(recording, "RECORD_AFTER", 1)
    recorded = _masks(weights, frames)
    assert len(made) >= 8, "image, pyramid, attention, decoder, memory"
    assert all(torch.equal(one, other) for one, other in zip(plain, recorded, strict=True))
