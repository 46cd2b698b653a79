# SPDX-License-Identifier: Apache-2.0
"""OnlineTracker against the `sam2` package's own video predictor, on the same weights and frames."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from sa2va_model.config import Sam2Config
from sa2va_model.grounding import Grounder, Prompt
from sa2va_model.nano import wake
from sa2va_model.presets import nano_config
from sa2va_model.tracker import OnlineTracker, TrackerConfig

FRAMES = 34
TOLERANCE = 1e-4
SIDE = 64

SAM20 = replace(
    nano_config(300).sam2, image_size=SIDE, object_score_gate=True, binarize_prompted=True
)
SAM21 = replace(SAM20, pointer_positions=True)


def make_grounder(config: Sam2Config, seed: int = 3) -> Grounder:
    """Random weights; the objects stay visible, and memory matters for the masks."""
    torch.manual_seed(seed)
    grounder = Grounder(config).eval()
    wake(grounder)
    return grounder


class Predictor(SAM2VideoPredictor):
    """The stock predictor, given modules and frames instead of a configuration file and a video."""

    def __init__(self, grounder: Grounder) -> None:
        torch.nn.Module.__init__(self)
        self.__dict__.update(grounder.sam2_model.__dict__)
        self.fill_hole_area = 0
        self.non_overlap_masks = False
        self.clear_non_cond_mem_around_input = False
        self.add_all_frames_to_correct_as_cond = False

    def start(self, images: Tensor) -> dict[str, Any]:
        """What `init_state` makes of a video, for frames [T, 3, S, S] that are already in memory."""
        return {
            "images": images,
            "num_frames": len(images),
            "offload_video_to_cpu": False,
            "offload_state_to_cpu": False,
            "video_height": SIDE,
            "video_width": SIDE,
            "device": torch.device("cpu"),
            "storage_device": torch.device("cpu"),
            "point_inputs_per_obj": {},
            "mask_inputs_per_obj": {},
            "cached_features": {},
            "constants": {},
            "obj_id_to_idx": OrderedDict(),
            "obj_idx_to_id": OrderedDict(),
            "obj_ids": [],
            "output_dict_per_obj": {},
            "temp_output_dict_per_obj": {},
            "frames_tracked_per_obj": {},
        }


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


PROMPTS: dict[str, tuple[Prompt, Callable[[Predictor, Any, int], Any]]] = {
    "point": (
        Prompt(points=torch.tensor([[0.3, 0.35]]), labels=torch.tensor([1])),
        lambda p, s, i: p.add_new_points_or_box(
            s, 0, i, points=[[0.3 * SIDE, 0.35 * SIDE]], labels=[1]
        ),
    ),
    "two points": (
        Prompt(points=torch.tensor([[0.3, 0.35], [0.8, 0.9]]), labels=torch.tensor([1, 0])),
        lambda p, s, i: p.add_new_points_or_box(
            s, 0, i, points=[[0.3 * SIDE, 0.35 * SIDE], [0.8 * SIDE, 0.9 * SIDE]], labels=[1, 0]
        ),
    ),
    "box": (
        Prompt.box(8 / SIDE, 12 / SIDE, 30 / SIDE, 32 / SIDE),
        lambda p, s, i: p.add_new_points_or_box(s, 0, i, box=[8, 12, 30, 32]),
    ),
    "mask": (Prompt(mask=a_mask()), lambda p, s, i: p.add_new_mask(s, 0, i, a_mask())),
}


def stock_logits(grounder: Grounder, frames: Tensor, names: list[str]) -> Tensor:
    """[T, N, S, S] of the sam2 package."""
    predictor = Predictor(grounder)
    state = predictor.start(frames)
    for i, name in enumerate(names):
        PROMPTS[name][1](predictor, state, i)
    return torch.stack([masks[:, 0] for _, _, masks in predictor.propagate_in_video(state)])


def our_logits(grounder: Grounder, frames: Tensor, names: list[str]) -> Tensor:
    """[T, N, S, S] of ours, one frame at a time."""
    tracker = OnlineTracker(grounder, TrackerConfig())
    for i, name in enumerate(names):
        tracker.add(str(i), PROMPTS[name][0])
    out = []
    with torch.inference_mode():
        for frame in frames:
            seen = tracker.step(grounder.encode_image(frame[None]))
            out.append(torch.cat([grounder.image_logits(o.logits)[:, 0] for o in seen.values()]))
    return torch.stack(out)


@pytest.mark.parametrize("config", [SAM20, SAM21], ids=["sam2.0", "sam2.1"])
@pytest.mark.parametrize("name", list(PROMPTS))
def test_equals_the_sam2_predictor(config: Sam2Config, name: str) -> None:
    grounder, frames = make_grounder(config), clip()
    ours, stock = our_logits(grounder, frames, [name]), stock_logits(grounder, frames, [name])
    assert ours.shape == stock.shape
    assert float(stock[5:].std()) > 0.05, "the random model must give masks that vary"
    assert float((ours - stock).abs().max()) <= TOLERANCE


def test_several_objects_equal_the_sam2_predictor() -> None:
    grounder, frames = make_grounder(SAM21), clip(1)
    names = ["point", "mask", "box"]
    ours, stock = our_logits(grounder, frames, names), stock_logits(grounder, frames, names)
    assert float((ours - stock).abs().max()) <= TOLERANCE


def test_memory_decides_the_masks() -> None:
    """Else the equalities above would hold for a tracker that forgets."""
    grounder, frames = make_grounder(SAM20), clip()
    remembered = our_logits(grounder, frames, ["mask"])
    tracker = OnlineTracker(grounder, TrackerConfig())
    tracker.add("0", Prompt(mask=~a_mask()))
    with torch.inference_mode():
        for frame in frames:
            seen = tracker.step(grounder.encode_image(frame[None]))
        other = grounder.image_logits(seen["0"].logits)[:, 0]
    assert float((remembered[-1] - other).abs().max()) > 100 * TOLERANCE
