# SPDX-License-Identifier: Apache-2.0
"""The tracker on an emulated GPU: types, devices, waits; graphs give what eager kernels give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from emulated_cuda import Cuda
from graph_tape import Graph
from torch import Tensor

from sa2va_cli.bench.tracker_race import moving_squares, ours
from sa2va_model.checkpoints.files.sam2_files import stock_config
from sa2va_model.device import read_back
from sa2va_model.io.preprocessing import masks_on
from sa2va_model.segmentation.backends.base import Segmenter
from sa2va_model.segmentation.backends.registry import pick_runtime
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import nano_model, wake
from sa2va_model.tracking import handover
from sa2va_model.tracking.config import PropagationConfig

CUDA = torch.device("cuda")


def published() -> Sam2:
    torch.manual_seed(0)
    segmenter = Sam2(stock_config("tiny", image_size=128)).eval()
    wake(segmenter)
    return segmenter


def sam3() -> Sam2:
    return nano_model(seed=1, segmenter="sam3").sam2


def made(weights: Sam2, profile: str, *, graphs: bool = False) -> Segmenter:
    return pick_runtime(profile, CUDA, weights.config, graphs=graphs).segmenter(weights)


def come_and_go(tracker: OnlineTracker, t: int, prompts: list) -> None:  # type: ignore[type-arg]
    if t == 3:
        tracker.remove("0")
    if t == 4:
        tracker.add("late", prompts[0])
        tracker.add("1", prompts[1])
    if t == 6:
        tracker.add("more", prompts[1], frames=2)


def follow(segmenter: Segmenter, frames: Tensor, prompts: list) -> Tensor:  # type: ignore[type-arg]
    """Logits of all objects on all frames, one behind the other."""
    tracker = OnlineTracker(
        segmenter, TrackerConfig(max_objects=4, max_conditioning=4, distractor_slots=2)
    )
    for n, prompt in enumerate(prompts):
        tracker.add(str(n), prompt, frames=1 + n % 2)
    out = []
    for t, frame in enumerate(frames):
        come_and_go(tracker, t, prompts)
        with torch.inference_mode():
            seen = tracker.step(segmenter.encode_image(frame[None].to(CUDA)))
            out += [one.logits.cpu().float().flatten() for one in seen.values()]
    return torch.cat(out)


@pytest.mark.parametrize(
    ("profile", "make"),
    [("float32", published), ("bfloat16", published), ("bfloat16", sam3), ("reference", sam3)],
)
def test_rules(profile: str, make: Callable[[], Sam2]) -> None:
    weights = make()
    side = weights.config.image_size
    frames, prompts = moving_squares(3, side, 2)
    with Cuda() as gpu:
        masks = list(ours(made(gpu.move(weights), profile), frames, prompts))
    assert masks[-1].shape == (2, 1, side, side)
    assert not gpu.faults, gpu.report()


@pytest.mark.parametrize("radius", [0, 2])
def test_masks_on_a_picture_come_with_the_numbers(radius: int) -> None:
    """What is drawn on the host is read in the same transfer, and is what a CPU draws."""
    model = nano_model(seed=1)
    weights, side = model.sam2, model.config.sam2.image_size
    config = replace(weights.config, guided_radius=radius)
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    frames, prompts = moving_squares(2, side, 2)
    with Cuda() as gpu:
        segmenter = made(gpu.move(weights), "float32")
        segmenter.config = config
        tracker = OnlineTracker(segmenter, TrackerConfig(max_objects=2))
        for n, prompt in enumerate(prompts):
            tracker.add(str(n), prompt)
        for frame in frames:
            with torch.inference_mode():
                features = segmenter.encode_image(frame[None].to(CUDA))
                seen = tracker.step(features, picture=picture)
        logits = torch.cat([one.logits.cpu() for one in seen.values()])
    assert not gpu.faults, gpu.report()
    for one, wanted in zip(seen.values(), masks_on(logits, config, picture), strict=True):
        assert one.mask is not None
        np.testing.assert_array_equal(one.mask, wanted)


@pytest.mark.parametrize(
    ("profile", "kind", "clips"),
    [("float32", "sam2", 2), ("bfloat16", "sam2", 1), ("float32", "sam3", 1)],
)
def test_graphs_give_what_eager_kernels_give(profile: str, kind: str, clips: int) -> None:
    """Over clips whose memories come and go: none is captured twice, none of them reads another's memory."""
    weights = nano_model(seed=1, segmenter=kind).sam2
    frames, prompts = moving_squares(7, weights.config.image_size, 2)
    near = 1e-4 if profile == "float32" else 0.1
    with Cuda() as gpu:
        gpu.move(weights)
        wanted = follow(made(weights, profile), frames, prompts)
        segmenter, counts = made(weights, profile, graphs=True), []
        for _ in range(clips):
            assert float((follow(segmenter, frames, prompts) - wanted).abs().max()) <= near
            counts.append(Graph.captured)
    assert not gpu.faults, gpu.report()
    assert counts[0] == counts[-1], "the second clip finds the first one's graphs"


def test_a_stock_model_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """At another size, from the mask that was found."""
    model = nano_model(seed=1)
    torch.manual_seed(9)
    stock = Sam2(replace(model.config.sam2, image_size=96, pointer_positions=True)).eval()
    wake(stock)
    monkeypatch.setattr(handover, "load_stock", lambda *_, **__: stock)
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    profile = PropagationConfig(kind="handover", stock="stock.pt", profile="float32")
    with Cuda() as gpu:
        gpu.move(stock)
        vision = handover.Vision(gpu.move(model), profile)
        tracker = vision.tracker()
        tracker.add("a", Prompt(embedding=torch.ones(model.config.sam2.hidden_dim, device="cuda")))
        for _ in range(3):
            with torch.inference_mode():
                seen = tracker.step(vision.encode(image))["a"]
        assert seen.logits.device.type == "cuda"
    assert not vision.shared
    assert not gpu.faults, gpu.report()


def test_nothing_is_captured_on_the_way_after_a_warm_up() -> None:
    weights = nano_model(seed=1).sam2
    frames, prompts = moving_squares(7, 64, 2)
    with Cuda() as gpu:
        segmenter = made(gpu.move(weights), "float32", graphs=True)
        OnlineTracker(
            segmenter, TrackerConfig(max_objects=4, max_conditioning=4, distractor_slots=2)
        ).warm_up()
        before = Graph.captured
        follow(segmenter, frames, prompts)
    assert not gpu.faults, gpu.report()
    assert Graph.captured == before


def test_what_is_read_back_together_is_what_was_there() -> None:
    torch.manual_seed(1)
    given = [torch.randn(2, 3), torch.rand(2, 5, 7) > 0.5, torch.arange(3), torch.randn(4, 3).T]
    with Cuda() as gpu:
        there = [tensor.to(CUDA) for tensor in given]
        gpu.waits.clear()
        got = read_back(*there)
        assert sum(gpu.waits.values()) == 1
    assert not gpu.faults, gpu.report()
    for array, tensor in zip(got, given, strict=True):
        assert array.dtype == tensor.numpy().dtype
        assert np.array_equal(array, tensor.numpy())
