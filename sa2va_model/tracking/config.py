# SPDX-License-Identifier: Apache-2.0
"""How a stream is followed: every period, limit and switch of the live tracker in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.errors import InputError
from sa2va_model.tracking.handover import VisionConfig
from sa2va_model.tracking.lifecycle import LifecycleConfig
from sa2va_model.tracking.memory_gate import GateConfig
from sa2va_model.tracking.visibility_test import VisibilityConfig


@dataclass(frozen=True)
class LiveConfig:
    """Times in seconds of the frames' stamps. The names in FIXED are settled when the tracker is made.

    Attributes:
        background: ask the language model on its own thread while tracking goes on (a robot), or within
            `process` (a file: slower frames, but the same result on every run).
        max_objects: tracks at once; a further command fails.
        ring: frames kept to replay a late answer on.
        replay_periods: with `background`, replaying a late answer may take so many frame periods; frames are
            skipped evenly if all would take longer.
        answer_limit: wall-clock seconds after which a question counts as failed; raise it for a slow machine.
        search_period: between two questions for a lost object; grows by half each time up to `search_limit`.
        redetect_every: frames between two looks for a lost object with its stored [SEG] embedding; 0 = never.
            Only where the model's calibration allows it (`Calibration.redetect`).
        give_up_after: seconds after which a lost track is stopped; 0 = never.
        verify_period: between two checks that a tracked object is still what was asked for; 0 = never.
        verify_strikes: so many checks in a row that find another object restart the memory.
        verify_share: with `background`, a check that takes long is made rarer, so that checks take at most this share
            of the time.
        agreement: IoU of memory's mask and the words' mask from which on they mean the same.
        merge_duplicates: the same words on the same pixels are the same track: `track` returns the id of a track with
            these words, and one with another id ends where its first mask lies on the mask of the other.
        duplicate_overlap: IoU from which on two masks lie on each other.
        drift_after: frames in a row on which the [SEG] embedding's mask disagrees with memory's and has more
            evidence, after which memory is prompted again with it; 0 = never.
        lifecycle: when a track counts as occluded or lost.
        visibility: what a mask must be to be shown.
        gate: what decides about masks and memory.
        vision: which SAM-2 follows, at which resolution and in which arithmetic; fixed when the tracker is made.
        calibration: None = the model's own.
    """

    FIXED: ClassVar[tuple[str, ...]] = (
        "background",
        "max_objects",
        "ring",
        "replay_periods",
        "answer_limit",
        "gate",
        "vision",
        "calibration",
    )

    background: bool = False
    max_objects: int = 16
    ring: int = 32
    replay_periods: float = 1.0
    answer_limit: float = 120.0
    search_period: float = 0.5
    search_limit: float = 4.0
    redetect_every: int = 2
    give_up_after: float = 0.0
    verify_period: float = 1.0
    verify_strikes: int = 2
    verify_share: float = 0.2
    agreement: float = 0.5
    merge_duplicates: bool = True
    duplicate_overlap: float = 0.8
    drift_after: int = 3
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    visibility: VisibilityConfig = field(default_factory=VisibilityConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_objects <= 254:
            raise InputError(f"max_objects is {self.max_objects}; expected 1 to 254")
        for name in ("search_period", "replay_periods", "answer_limit"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected more than 0")
        if not 0 < self.duplicate_overlap <= 1:
            raise InputError(
                f"duplicate_overlap is {self.duplicate_overlap}; expected above 0, at most 1"
            )
        for name in ("redetect_every", "drift_after", "give_up_after", "verify_period"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 or more")
