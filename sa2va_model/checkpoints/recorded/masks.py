# SPDX-License-Identifier: Apache-2.0
"""SAM-2 against recorded masks, frame by frame, so that a verdict does not depend on the machine.

Sums in float32 come out differently with another instruction set or number of threads. With random weights the mask
decoder turns that into logits 1e-3 apart, and memories stored in bfloat16 let it grow from frame to frame. So:

* ours is computed in float64: what is left is the rounding of the record;
* after each frame the tracker goes on with the recorded memory and pointer instead of its own: every frame, and every
  memory, is judged by itself;
* how far a record in float32 may be off is measured, in float64 as well: how much the same frames change when every
  weight is moved by about one unit in float32's last place.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sa2va_model.checkpoints.recorded.stages import TOLERANCE, GoldenStage, largest, within
from sa2va_model.io import preprocessing as images
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.memory_bank import MemoryBank
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import ImageFeatures, Prompt

SHIFTS = 3
"""How often weights are moved."""
MARGIN = 8.0
"""How many times the largest change a record may be off; of all recorded frames the worst is 4.2 off, most below 2."""
CEILING = 0.01
"""No tolerance is wider than this part of the largest recorded value."""


def mask_stages(
    model: Sa2VA, gold: Mapping[str, Tensor], frames: list[np.ndarray]
) -> list[GoldenStage]:
    """Compare masks, scores, pointers and memories of every object on every frame, from the recorded embeddings."""
    pixels = torch.cat([images.sam_pixels(frame, model.config.sam2) for frame in frames])
    stages = []
    if (recorded := gold.get("g_pixel_values.stride8")) is not None:
        stages.append(within("sam pixels", pixels[..., ::8, ::8], recorded[: len(pixels)]))
    keyframes = min(model.config.keyframes, len(frames))
    exact = copy.deepcopy(model.sam2).double()
    models = [exact, *(_shifted(exact, seed) for seed in range(SHIFTS))]
    comparison = _Comparison()
    seen = [_features(sam2, pixels) for sam2 in models]
    for k in range(len(gold["language_embd"])):
        runs = [_run(*pair, gold, k, keyframes) for pair in zip(models, seen, strict=True)]
        for t, answers in enumerate(zip(*runs, strict=True)):
            _compare(comparison, gold, (k, t), answers)
            _compare_final(comparison, gold, (k, t), frames[t].shape[:2], answers)
    return [*stages, *comparison.stages()]


def _shifted(sam2: Sam2, seed: int) -> Sam2:
    """The same with every weight moved by about one unit in float32's last place."""
    moved = copy.deepcopy(sam2)
    generator = torch.Generator().manual_seed(seed)
    for weight in moved.parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.data *= 1 + torch.finfo(torch.float32).eps * noise.to(weight.device)
    return moved


@torch.inference_mode()
def _features(sam2: Sam2, pixels: Tensor) -> list[ImageFeatures]:
    return [sam2.encode_image(frame[None]) for frame in pixels.to(sam2.device, sam2.dtype)]


@dataclass(frozen=True)
class _Answer:
    """What one model makes of one frame.

    Attributes:
        values: by the names of the record.
        logits: [1, 1, 4h, 4w].
        image_size: S.
    """

    values: dict[str, Tensor]
    logits: Tensor
    image_size: int


def _run(
    sam2: Sam2, clip: list[ImageFeatures], gold: Mapping[str, Tensor], k: int, keyframes: int
) -> Iterator[_Answer]:
    """Follow object k in one streaming pass, led by the record.

    Each object has a tracker of its own, as in the official code.
    """
    bank = RecordedBank(sam2, keyframes, gold, k)
    config = TrackerConfig(max_objects=1, max_conditioning=keyframes, clip_length=len(clip))
    tracker = OnlineTracker(sam2, config, bank=bank)
    tracker.add("object", Prompt(embedding=gold["language_embd"][k]), frames=keyframes)
    for features in clip:
        decoded = tracker.step(features)["object"].decoded
        values = {
            "obj_ptr": decoded.pointers[0],
            "ious": decoded.ious[0],
            "object_score": decoded.object_scores[0],
            "multimasks": decoded.candidates[0],
            "low_res_mask": decoded.logits[0],
            "maskmem_features_bf16": bank.encoded,
        }
        yield _Answer(values, decoded.logits, sam2.config.image_size)


class RecordedBank(MemoryBank):
    """A memory of one object that keeps what was recorded instead of what it is given; `encoded` is the latter."""

    def __init__(self, sam2: Sam2, keyframes: int, gold: Mapping[str, Tensor], k: int) -> None:
        super().__init__(sam2, 1, keyframes)
        self._gold, self._object, self._frame = gold, k, 0
        self.encoded = torch.zeros(0)

    def prompt(self, row: int, spatial: Tensor, pointer: Tensor) -> None:
        """Remember the record of a prompted frame."""
        super().prompt(row, *self._recorded("prompted", spatial, pointer))

    def write(
        self,
        rows: Tensor,
        spatial: Tensor,
        pointers: Tensor,
        recent: Tensor,
        distractor: Tensor | None = None,
    ) -> None:
        """Remember the record of a tracked frame."""
        memory, pointer = self._recorded("tracked", spatial[0], pointers[0])
        super().write(rows, memory[None], pointer[None], recent, distractor)

    def _recorded(self, kind: str, spatial: Tensor, pointer: Tensor) -> tuple[Tensor, Tensor]:
        """What the record has for this frame; without one, what is given."""
        stem = f"obj{self._object}.{kind}.{self._frame}."
        self._frame += 1
        memory = self._gold.get(stem + "maskmem_features_bf16")
        self.encoded = spatial
        if memory is None:
            return spatial, pointer
        self.encoded = spatial.T.reshape(memory.shape)
        return memory.flatten(1).T.to(spatial), self._gold[stem + "obj_ptr"].to(pointer)


class _Comparison:
    """The verdict on every stage, taken from its worst frame."""

    def __init__(self) -> None:
        self._worst: dict[str, GoldenStage] = {}
        self._flipped = 0

    def add(
        self,
        name: str,
        ours: Tensor,
        shifted: Sequence[Tensor],
        gold: Tensor,
        at_least: float = TOLERANCE,
    ) -> float:
        """Judge one stage of one frame; returns its tolerance."""
        change = max(largest(ours, other) for other in shifted)
        ceiling = CEILING * float(gold.abs().max())
        stage = GoldenStage(name, largest(ours, gold), max(at_least, min(MARGIN * change, ceiling)))
        known = self._worst.get(name)
        if known is None or not _part(stage) <= _part(known):
            self._worst[name] = stage
        return stage.tolerance

    def add_mask(self, ours: Tensor, gold: Tensor, tolerance: float) -> None:
        """Count pixels on another side of 0 than recorded, unless the record can have rounded there."""
        flipped = (ours > 0) != gold
        self._flipped += int((flipped & ~(ours.abs() <= tolerance)).sum())

    def stages(self) -> list[GoldenStage]:
        """All verdicts."""
        return [*self._worst.values(), GoldenStage("final masks", float(self._flipped), 0.0)]


def _part(stage: GoldenStage) -> float:
    """How much of its tolerance a stage uses; NaN counts as more than anything."""
    part = stage.largest_difference / stage.tolerance
    return part if part == part else float("inf")


def _compare(
    comparison: _Comparison,
    gold: Mapping[str, Tensor],
    place: tuple[int, int],
    answers: Sequence[_Answer],
) -> None:
    """Compare what was recorded of one object on one frame; some of it with a stride of 4 pixels."""
    k, t = place
    kind = "prompted" if f"obj{k}.prompted.{t}.low_res_mask" in gold else "tracked"
    tolerance = TOLERANCE
    for name in answers[0].values:
        for stride, ending in ((1, ""), (4, ".stride4")):
            recorded = gold.get(f"obj{k}.{kind}.{t}.{name}{ending}")
            if recorded is None:
                continue
            ours, *shifted = (_every(answer.values[name], stride) for answer in answers)
            recorded = recorded.reshape(ours.shape)
            if recorded.dtype == torch.bfloat16:
                recorded = _unrounded(recorded, ours)
            label = name.removesuffix("_bf16").replace("_", " ")
            # Scores are single numbers that can stay put by chance; pointers are read off the same tokens.
            least = tolerance if name in ("ious", "object_score") else TOLERANCE
            allowed = comparison.add(label, ours, shifted, recorded, least)
            tolerance = allowed if name == "obj_ptr" else tolerance


def _every(values: Tensor, stride: int) -> Tensor:
    return values[..., ::stride, ::stride] if values.ndim > 1 else values


def _unrounded(recorded: Tensor, ours: Tensor) -> Tensor:
    """The value nearest to ours that bfloat16 rounds to what was recorded."""
    exact = recorded.double()
    half = torch.exp2(exact.abs().clamp_min(2.0**-30).log2().floor() - 8)
    return torch.clamp(ours.double().cpu(), exact - half, exact + half)


def _compare_final(
    comparison: _Comparison,
    gold: Mapping[str, Tensor],
    place: tuple[int, int],
    shape: tuple[int, ...],
    answers: Sequence[_Answer],
) -> None:
    """Compare logits and masks at the size of the picture."""
    k, t = place
    ours, *shifted = (
        images.masks_to_image(a.logits, a.image_size, *shape)[0].cpu() for a in answers
    )
    logits = gold.get(f"obj{k}.mask_logits_final")
    tolerance = comparison.add("final logits", ours, shifted, ours if logits is None else logits[t])
    comparison.add_mask(ours, gold[f"obj{k}.mask_final"][t], tolerance)
