# SPDX-License-Identifier: Apache-2.0
"""OnlineTracker against the `sam2` package's own video predictor, on the same weights and frames.

Both ways to compute are compared: the package's modules one object at a time, and the rewritten blocks
with all objects as one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from sa2va_cli.bench.sam2_predictor import propagate, stock_predictor
from sa2va_model.checkpoints.presets import nano_config
from sa2va_model.config.model import Sam2Config
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.backends.profile import FLOAT32
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import wake

FRAMES = 64  # more than pointers (16), long enough that an error would grow
TOLERANCE = 1e-4
SIDE = 64

SAM20 = replace(
    nano_config(300).sam2, image_size=SIDE, object_score_gate=True, binarize_prompted=True
)
SAM21 = replace(SAM20, pointer_positions=True)


def make_grounder(config: Sam2Config, seed: int = 3) -> Sam2:
    """Random weights; the objects stay visible, and memory matters for the masks."""
    torch.manual_seed(seed)
    segmenter = Sam2(config).eval()
    wake(segmenter)
    return segmenter


def clip(seed: int = 0) -> Tensor:
    """A bright square that moves over noise: float32 [T, 3, S, S]."""
    generator = torch.Generator().manual_seed(seed)
    background = torch.randn(1, 3, SIDE, SIDE, generator=generator).expand(FRAMES, -1, -1, -1)
    frames = background + 0.2 * torch.randn(FRAMES, 3, SIDE, SIDE, generator=generator)
    for t in range(FRAMES):
        frames[t, :, 12 + t // 2 : 32 + t // 2, 8 + t // 2 : 30 + t // 2] += 2.0
    return frames


def a_mask() -> Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[12:32, 8:30] = True
    return mask


PROMPTS = {
    "point": Prompt(points=torch.tensor([[0.3, 0.35]]), labels=torch.tensor([1])),
    "two points": Prompt(
        points=torch.tensor([[0.3, 0.35], [0.8, 0.9]]), labels=torch.tensor([1, 0])
    ),
    "box": Prompt.box(8 / SIDE, 12 / SIDE, 30 / SIDE, 32 / SIDE),
    "mask": Prompt(mask=a_mask()),
}
FOUR = ["point", "mask", "box", "two points"]


@cache
def stock_logits(config: Sam2Config, seed: int, names: tuple[str, ...]) -> Tensor:
    """[T, N, S, S] of the sam2 package; objects do not know of each other, so each name is computed once."""
    if len(names) > 1:
        return torch.cat([stock_logits(config, seed, (name,)) for name in names], dim=1)
    predictor = stock_predictor(make_grounder(config))
    masks = propagate(predictor, clip(seed), [PROMPTS[name] for name in names])
    return torch.stack([one[:, 0] for one in masks])


def test_the_packages_objects_do_not_know_of_each_other() -> None:
    """What `stock_logits` rests on."""
    predictor, frames = stock_predictor(make_grounder(SAM21)), clip(1)[:20]
    masks = propagate(predictor, frames, [PROMPTS[name] for name in FOUR[:2]])
    together = torch.stack([one[:, 0] for one in masks])
    assert torch.equal(together, stock_logits(SAM21, 1, tuple(FOUR[:2]))[:20])


def our_logits(segmenter: Sam2, frames: Tensor, names: Sequence[str]) -> Tensor:
    """[T, N, S, S] of ours, one frame at a time."""
    tracker = OnlineTracker(segmenter, TrackerConfig())
    for i, name in enumerate(names):
        tracker.add(str(i), PROMPTS[name])
    out = []
    with torch.inference_mode():
        for frame in frames:
            seen = tracker.step(segmenter.encode_image(frame[None]))
            out.append(torch.cat([segmenter.image_logits(o.logits)[:, 0] for o in seen.values()]))
    return torch.stack(out)


def runtime(segmenter: Sam2, kind: str) -> Sam2:
    return segmenter if kind == "reference" else FusedSam2(segmenter, FLOAT32)


both_ways = pytest.mark.parametrize("kind", ["reference", "rewritten"])
both_generations = pytest.mark.parametrize("config", [SAM20, SAM21], ids=["sam2.0", "sam2.1"])


@both_ways
@both_generations
@pytest.mark.parametrize("name", FOUR)
def test_equals_the_sam2_predictor(config: Sam2Config, name: str, kind: str) -> None:
    ours = our_logits(runtime(make_grounder(config), kind), clip(), [name])
    stock = stock_logits(config, 0, (name,))
    assert ours.shape == stock.shape
    assert float(stock[5:].std()) > 0.05, "the random model must give masks that vary"
    assert float((ours - stock).abs().max()) <= TOLERANCE


@both_ways
@both_generations
def test_four_objects_equal_the_sam2_predictor(config: Sam2Config, kind: str) -> None:
    ours = our_logits(runtime(make_grounder(config), kind), clip(1), FOUR)
    assert float((ours - stock_logits(config, 1, tuple(FOUR))).abs().max()) <= TOLERANCE


def test_memory_decides_the_masks() -> None:
    """Else the equalities above would hold for a tracker that forgets."""
    segmenter, frames = make_grounder(SAM20), clip()
    remembered = our_logits(segmenter, frames, ["mask"])
    tracker = OnlineTracker(segmenter, TrackerConfig())
    tracker.add("0", Prompt(mask=~a_mask()))
    with torch.inference_mode():
        for frame in frames:
            seen = tracker.step(segmenter.encode_image(frame[None]))
        other = segmenter.image_logits(seen["0"].logits)[:, 0]
    assert float((remembered[-1] - other).abs().max()) > 100 * TOLERANCE
