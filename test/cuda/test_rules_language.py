# SPDX-License-Identifier: Apache-2.0
"""All families on an emulated GPU: questions, clips, the live tracker, and the language model's graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from emulated_cuda import Cuda
from graph_tape import Graph

from sa2va_model.io.frames import Frame
from sa2va_model.mllm.registry import nano_names
from sa2va_model.regions import Region
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_model.tracking.judgement.memory_gate import GateConfig
from sa2va_model.tracking.live import LiveConfig, LiveTracker

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)


def in_bfloat16(family: str | None) -> Sa2VA:
    model = nano_model(family=family)
    for name, parameter in model.named_parameters():
        if not name.startswith("sam2."):
            parameter.data = parameter.data.bfloat16()
    return model


@pytest.mark.parametrize("family", [None, *(name for name in nano_names() if name != "llama")])
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


@pytest.mark.parametrize("family", [None, "internlm2", "phi3", "qwen2_5_vl", "qwen3_vl"])
def test_graphs_give_what_eager_kernels_give(family: str | None) -> None:
    """For new and known frames, and again: nothing waits in a capture."""
    model = nano_model(family=family)
    other = np.ascontiguousarray(IMAGE[::-1])
    asked = [([IMAGE], "a cup"), ([IMAGE], "the dog"), ([other, IMAGE], "a cup"), ([other], "it")]
    with Cuda() as gpu:
        gpu.move(model).use_profile("float32", graphs=False)
        plain = [model.ground(frames, words).embeddings.cpu() for frames, words in asked]
        model.use_profile("float32")
        before = Graph.captured
        again = [model.ground(frames, words).embeddings.cpu() for frames, words in asked * 2]
    assert not gpu.faults, gpu.report()
    assert Graph.captured - before >= 2
    assert model.mllm.generator.graphs_serve(10, 10), "no graph failed"
    for one, two in zip(plain * 2, again, strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_the_live_tracker_keeps_the_rules() -> None:
    model = in_bfloat16(None)
    with Cuda() as gpu:
        gpu.move(model).use_profile("bfloat16")
        gate = GateConfig(gate=True, distractors=True, motion=True)
        live = LiveTracker(model, LiveConfig(max_objects=2, gate=gate, merge_duplicates=False))
        live.track("the cup")
        live.prompt(box=(10, 10, 40, 40))
        graphs = model.segmenter._graphs
        before = [len(known) for known in graphs._owned.values()]
        results = [live.process(Frame(IMAGE, t / 10, t)) for t in range(4)]
        live.close()
    assert len(results[-1].tracks) == 2
    assert not [
        event for result in results for event in result.events if event.kind.name == "FAILED"
    ]
    assert not gpu.faults, gpu.report()
    after = [len(known) for known in graphs._owned.values()]
    assert before == after, "the tracker's graphs were there before the first frame"


def test_the_host_waits_as_often_for_four_objects_as_for_one() -> None:
    """For the image's health before memory may be touched, and for all that is read back of all objects together.

    Among them one that was named by words, whose embedding is compared with memory on every frame.
    """
    model = nano_model()
    eyes = replace(model.config.sam2, object_score_gate=True)  # then embeddings are decoded always
    model.config, model.sam2.config = replace(model.config, sam2=eyes), eyes
    with Cuda() as gpu:
        gpu.move(model).use_profile("float32", graphs=False)
        gate = GateConfig(gate=True, distractors=True, motion=True)
        config = LiveConfig(max_objects=4, gate=gate, merge_duplicates=False, verify_period=0)
        live = LiveTracker(model, config)
        live.track("the cup")
        counts = []
        for start, more in ((0, 0), (4, 3)):
            for n in range(more):
                live.prompt(box=(10 + start + n, 10, 40 + n, 40))
            for t in range(start, start + 3):
                before = sum(gpu.waits.values())
                result = live.process(Frame(IMAGE, t / 10, t))
            counts.append(sum(gpu.waits.values()) - before)
        live.close()
    assert len(result.tracks) == 4
    assert all(track.mask is not None for track in result.tracks)
    assert counts == [2, 2], gpu.waits
