# SPDX-License-Identifier: Apache-2.0
"""All families on an emulated GPU: questions, clips, the live tracker, and the language model's graphs."""

from __future__ import annotations

import numpy as np
import pytest
from emulated_cuda import Cuda
from graph_tape import Graph

from sa2va_model.io.frames import Frame
from sa2va_model.mllm.families.nano import FAMILIES
from sa2va_model.regions import Region
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracking.memory_gate import GateConfig

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)


def in_bfloat16(family: str | None) -> Sa2VA:
    model = nano_model(family=family)
    for name, parameter in model.named_parameters():
        if not name.startswith("sam2."):
            parameter.data = parameter.data.bfloat16()
    return model


@pytest.mark.parametrize("family", [None, *FAMILIES])
def test_rules(family: str | None) -> None:
    model = in_bfloat16(family)
    with Cuda() as gpu:
        gpu.move(model).use_profile("float32", graphs=False)
        model.segment(IMAGE, "the red cup")
        model.segment_video([IMAGE] * 3, "the red cup")
        if family is None:
            model.ask([IMAGE], "what is region1?", [Region(box=(5, 5, 40, 40))])
            model.segment_many(IMAGE, ["the red cup", "a dog"])
    assert not gpu.faults, gpu.report()


@pytest.mark.parametrize("profile", ["float32", "bfloat16"])
def test_the_live_tracker_keeps_the_rules(profile: str) -> None:
    model = in_bfloat16(None)
    with Cuda() as gpu:
        gpu.move(model).use_profile(profile)
        gate = GateConfig(gate=True, distractors=True, motion=True)
        live = LiveTracker(model, LiveConfig(max_objects=4, gate=gate))
        live.track("the cup")
        live.prompt(box=(10, 10, 40, 40))
        live.prompt(points=np.array([[30, 30]]))
        before = Graph.captured
        results = [live.process(Frame(IMAGE, t / 10, t)) for t in range(6)]
        live.close()
    assert len(results[-1].tracks) == 3
    assert not [
        event for result in results for event in result.events if event.kind.name == "FAILED"
    ]
    assert not gpu.faults, gpu.report()
    if profile == "float32":
        assert Graph.captured - before <= 1, "the language model's alone: the tracker's were there"
