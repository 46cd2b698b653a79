# SPDX-License-Identifier: Apache-2.0
"""The `sam2` package's own video predictor on given modules and frames, for comparison: same weights, same pixels.

The package wants a configuration file and a video on disk. Here it gets a `Sam2`'s modules and frames that are
already tensors, so that both sides are fed the same way and no decoding is timed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from sam2 import sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor, SAM2VideoPredictorVOS
from torch import Tensor

from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import Prompt

T = TypeVar("T")


def stock_predictor(segmenter: Sam2, *, optimized: bool = False) -> SAM2VideoPredictor:
    """A predictor that shares the segmenter's modules.

    Args:
        optimized: the package's `vos_optimized` variant, all parts compiled (CUDA).
    """
    kind = SAM2VideoPredictorVOS if optimized else SAM2VideoPredictor
    predictor = kind.__new__(kind)
    torch.nn.Module.__init__(predictor)
    state = dict(segmenter.sam2_model.__dict__)
    state["_modules"] = dict(state["_modules"])
    predictor.__dict__.update(state)
    predictor.fill_hole_area = 0
    predictor.non_overlap_masks = False
    predictor.clear_non_cond_mem_around_input = False
    predictor.add_all_frames_to_correct_as_cond = False
    sam2_video_predictor.tqdm = _no_bar
    if optimized:
        predictor._compile_all_components()
    return predictor


def _no_bar(items: Iterable[T], **_: object) -> Iterable[T]:
    """In place of the package's progress bar."""
    return items


def start(predictor: SAM2VideoPredictor, frames: Sequence[Tensor] | Tensor) -> dict[str, Any]:
    """What `init_state` makes of a video, for frames [3, S, S] that are already tensors."""
    side = int(frames[0].shape[-1])
    device = predictor.device
    return {
        "images": frames,
        "num_frames": len(frames),
        "offload_video_to_cpu": False,
        "offload_state_to_cpu": False,
        "video_height": side,
        "video_width": side,
        "device": device,
        "storage_device": device,
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


def add(
    predictor: SAM2VideoPredictor, state: dict[str, Any], index: int, prompt: Prompt, frame: int = 0
) -> None:
    """One object's points, box or mask on a frame.

    Raises:
        ValueError: a [SEG] embedding, which the package has no place for.
    """
    if prompt.mask is not None:
        predictor.add_new_mask(state, frame, index, prompt.mask)
    elif prompt.points is not None and prompt.labels is not None:
        side = state["video_width"]
        points, labels = prompt.points * side, prompt.labels
        box = points.flatten() if labels.tolist() == [2, 3] else None
        if box is not None:
            predictor.add_new_points_or_box(state, frame, index, box=box)
        else:
            predictor.add_new_points_or_box(state, frame, index, points=points, labels=labels)
    else:
        raise ValueError("the sam2 package's predictor takes points, boxes and masks only")


def propagate(
    predictor: SAM2VideoPredictor, frames: Sequence[Tensor] | Tensor, prompts: Sequence[Prompt]
) -> Iterator[Tensor]:
    """Mask logits [N, 1, S, S] frame by frame, all objects prompted on the first."""
    state = start(predictor, frames)
    for index, prompt in enumerate(prompts):
        add(predictor, state, index, prompt)
    for _, _, masks in predictor.propagate_in_video(state):
        yield masks
