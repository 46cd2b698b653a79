# SPDX-License-Identifier: Apache-2.0
"""The tracker alone on the hard clips: J&F of plain memory, of each addition, of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from start import first_prompt

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.io import preprocessing as images
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import ImageFeatures
from sa2va_model.tracking.config import GateConfig
from sa2va_model.tracking.judgement.memory_gate import MemoryGate
from sa2va_model.tracking.judgement.motion import CameraMotion
from sa2va_sim.hard_clips import HardClip
from sa2va_training.metrics.jf import frame_jf

SLOTS = 3  # distractor-resolving memories
SEEN = 0.05  # share of itself below which the target is gone


@dataclass(frozen=True)
class Variant:
    """A tracker to measure; `gate` None = SAM-2's own behaviour."""

    gate: GateConfig | None = None
    embedding: bool = False


VARIANTS: dict[str, Variant] = {
    "plain memory": Variant(),
    "+ gate": Variant(GateConfig(gate=True)),
    "+ distractor memory": Variant(GateConfig(gate=False, distractors=True)),
    "+ motion prior": Variant(GateConfig(gate=False, motion=True)),
    "+ [SEG] decoded again": Variant(GateConfig(gate=False), True),
    "gate and [SEG]": Variant(GateConfig(gate=True), True),
    "all": Variant(GateConfig(gate=True, distractors=True, motion=True), True),
}


@dataclass
class Score:
    """Figures of one variant.

    Attributes:
        visible: J&F of each frame that shows the target, by kind of clip.
        gone: whether each frame without it has no mask.
    """

    visible: dict[str, list[float]] = field(default_factory=dict)
    gone: list[float] = field(default_factory=list)

    def mean(self, kind: str | None = None) -> float:
        """J&F over frames, of one kind or all."""
        lists = self.visible.values() if kind is None else [self.visible.get(kind, [])]
        every = [value for values in lists for value in values]
        return float(np.mean(every)) if every else float("nan")

    def figures(self, kinds: Sequence[str]) -> dict[str, float]:
        """J&F of all clips and of each kind, and the share of frames without the target that have no mask."""
        gone = float(np.mean(self.gone)) if self.gone else float("nan")
        return {"all": self.mean(), **{kind: self.mean(kind) for kind in kinds}, "gone": gone}


def build(model: Sa2VA, variant: Variant, calibration: Calibration) -> OnlineTracker:
    """The tracker of a variant."""
    config = TrackerConfig(
        max_objects=1,
        reuse_embedding=variant.embedding,
        distractor_slots=SLOTS if variant.gate and variant.gate.distractors else 0,
    )
    policy = None
    if variant.gate is not None:
        policy = MemoryGate(model.sam2, 1, calibration, variant.gate)
    return OnlineTracker(model.sam2, config, policy)


@torch.inference_mode()
def run_clip(
    model: Sa2VA,
    clip: HardClip,
    scores: Mapping[str, Score],
    *,
    start: str,
    calibration: Calibration,
) -> None:
    """Adds one clip to the scores of all variants; its images are encoded once."""
    features = [model.encode_image(rgb) for rgb in clip.rgb]
    begin = first_prompt(model, clip, features, start)
    camera = CameraMotion()
    moving = [camera.update(rgb) for rgb in clip.rgb]
    for name, score in scores.items():
        variant = VARIANTS[name]
        if begin is None:
            _add(score, clip, [None] * len(features), 0)
            continue
        first, prompt = begin
        tracker = build(model, variant, calibration)
        tracker.add("0", prompt)
        masks = [
            _step(model, tracker, feature, clip.rgb.shape[1:3], moves)
            for feature, moves in zip(features[first:], moving[first:], strict=True)
        ]
        _add(score, clip, masks, first)


def _step(
    model: Sa2VA,
    tracker: OnlineTracker,
    features: ImageFeatures,
    size: tuple[int, int],
    moves: bool,
) -> np.ndarray:
    if isinstance(tracker.policy, MemoryGate):
        tracker.policy.camera_moves = moves
    logits = tracker.step(features)["0"].logits
    shown = images.masks_to_image(logits, model.config.sam2.image_size, *size)
    mask: np.ndarray = (shown[0] > 0).numpy()
    return mask


def _add(score: Score, clip: HardClip, masks: list[np.ndarray | None], first: int) -> None:
    """Scores the frames after the first one."""
    nothing = np.zeros(clip.rgb.shape[1:3], bool)
    for number, mask in enumerate(masks, first):
        truth = clip.instances[number] == clip.target
        if number == first:
            continue
        if clip.visible[number] < SEEN:
            score.gone.append(float(mask is None or not mask.any()))
        else:
            value = frame_jf(nothing if mask is None else mask, truth).j_and_f
            score.visible.setdefault(clip.kind, []).append(value)
