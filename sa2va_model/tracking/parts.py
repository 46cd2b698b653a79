# SPDX-License-Identifier: Apache-2.0
"""What the live tracker is put together from; shared by those that ask, those that watch, and the tracker itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sa2va_model.keyframes import FrameRing
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Decoded, ImageFeatures
from sa2va_model.tracking.calibration import Calibration
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.grounding_worker import GroundingWorker
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.memory_gate import MemoryGate
from sa2va_model.tracking.motion import CameraMotion
from sa2va_model.tracking.replay import Replay
from sa2va_model.tracking.track_names import TrackNames
from sa2va_model.tracking.track_table import TrackTable
from sa2va_model.tracking.visibility_test import VisibilityTest

DISTRACTOR_SLOTS = 3


@dataclass
class Parts:
    """One stream's parts; `config` and `judge` may change while it runs."""

    model: Sa2VA
    vision: Vision
    config: LiveConfig
    calibration: Calibration
    trust: MemoryGate
    tracker: OnlineTracker
    judge: VisibilityTest
    questioner: GroundingWorker
    ring: FrameRing
    replay: Replay
    register: TrackTable
    camera: CameraMotion

    def evidence_for(self, track_id: str, features: ImageFeatures, decoded: Decoded) -> float:
        """Evidence that an embedding's mask on some image is a known object; negative infinity for an empty mask."""
        self.trust.frame(features)
        rows = torch.tensor([self.tracker.row(track_id)], device=self.model.device)
        return float(self.trust.weigh(self.calibration.spoken, rows, decoded))

    def decode(self, embedding: torch.Tensor, features: ImageFeatures) -> Decoded:
        """What a [SEG] embedding shows on an image, without memory."""
        return self.vision.decode(embedding, features)


def assemble(model: Sa2VA, config: LiveConfig, names: TrackNames | None = None) -> Parts:
    """All parts for a model; `names` of tracks come from there."""
    calibration = config.calibration or model.calibration
    vision = Vision(model, config.vision)
    settings = TrackerConfig(
        max_objects=config.max_objects,
        max_conditioning=max(4, model.config.keyframes),
        distractor_slots=DISTRACTOR_SLOTS if config.trust.distractors else 0,
        reuse_embedding=model.config.sam2.object_score_gate,
    )
    trust = MemoryGate(vision.follower, config.max_objects, calibration, config.trust)
    tracker = vision.tracker(settings, trust)
    tracker.warm_up()
    ring = FrameRing(max(config.ring, model.config.keyframes), vision.encode)
    return Parts(
        model=model,
        vision=vision,
        config=config,
        calibration=calibration,
        trust=trust,
        tracker=tracker,
        judge=VisibilityTest(vision.follower, config.lifecycle),
        questioner=GroundingWorker(model, background=config.background, limit=config.answer_limit),
        ring=ring,
        replay=Replay(tracker, ring, config.replay_periods if config.background else None),
        register=TrackTable(config.max_objects, names),
        camera=CameraMotion(),
    )
