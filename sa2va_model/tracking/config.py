# SPDX-License-Identifier: Apache-2.0
"""How a stream is followed: every period, limit, switch and default of the live tracker, in one place.

No torch is needed to read them, so that a node can declare its parameters before it loads anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.errors import InputError

PROPAGATIONS = ("sa2va", "handover")
RESOLUTIONS = (256, 512, 1024)


@dataclass(frozen=True)
class PropagationConfig:
    """Which SAM-2 follows an object, at which resolution and in which arithmetic.

    Attributes:
        kind: "sa2va" = the checkpoint's own decoder and memory; "handover" = a stock SAM-2 follows.
        stock: with handover, a published SAM-2, SAM 3 or EdgeTAM file (.pt) of any size.
        resolution: side of the square that the follower sees, pixels: 1024, 512 or 256; 0 = as the weights were
            trained. 512 costs about an eighth of 1024; small objects suffer.
        profile: how it is computed, see `load_model`; "auto" = as the model's other tasks.
    """

    kind: str = "sa2va"
    stock: str = ""
    resolution: int = 0
    profile: str = "auto"

    def __post_init__(self) -> None:
        if self.kind not in PROPAGATIONS:
            raise InputError(
                f"propagation is {self.kind!r}; expected one of {', '.join(PROPAGATIONS)}"
            )
        if self.kind == "handover" and not self.stock:
            raise InputError(
                "propagation 'handover' needs a stock SAM-2 file (.pt); none was given"
            )
        if self.kind != "handover" and self.stock:
            raise InputError(
                f"sam2 is {self.stock!r}, but propagation is {self.kind!r}; expected 'handover'"
            )
        if self.resolution not in (0, *RESOLUTIONS):
            raise InputError(
                f"resolution is {self.resolution}; expected {', '.join(map(str, RESOLUTIONS))} or 0"
            )


@dataclass(frozen=True)
class LifecycleConfig:
    """When a track that is not shown changes its state.

    Attributes:
        occluded_after: frames that do not show the object before it counts as occluded; more ignores flicker.
        lost_after: seconds of the frames' stamps without a frame that shows it before it counts as lost.
    """

    occluded_after: int = 2
    lost_after: float = 1.0

    def __post_init__(self) -> None:
        if self.occluded_after < 1:
            raise InputError(f"occluded_after is {self.occluded_after}; expected 1 frame or more")
        if self.lost_after < 0:
            raise InputError(f"lost_after is {self.lost_after} s; expected 0 or more")


@dataclass(frozen=True)
class VisibilityConfig:
    """What a mask must be to be shown, whatever else speaks for it.

    Attributes:
        min_quality: predicted IoU at least.
        min_area: fraction of the image at least.
    """

    min_quality: float = 0.1
    min_area: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("min_quality", "min_area"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 to 1")


@dataclass(frozen=True)
class GateConfig:
    """What decides about masks and memory.

    Attributes:
        gate: only frames whose mask has enough evidence are remembered; off = every frame that shows the object.
        distractors: frames that tell the object from something like it get a memory of their own.
        motion: where the camera stands still, masks far from where the object should be count less.
    """

    gate: bool = True
    distractors: bool = False
    motion: bool = False


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
        drift_after: frames in a row on which the [SEG] embedding's mask disagrees with memory's and has more
            evidence, after which memory is prompted again with it; 0 = never.
        merge_duplicates: the same words on the same pixels are the same track: `track` returns the id of a track with
            these words, and one with another id ends where its first mask lies on the mask of the other.
        duplicate_overlap: IoU from which on two masks lie on each other.
        max_instances: tracks that "every cup" may become.
        keep_looking: look for further instances, less and less often up to `search_limit`, after all were found.
        calibration: None = the model's own.
    """

    FIXED: ClassVar[tuple[str, ...]] = (
        "background",
        "max_objects",
        "ring",
        "replay_periods",
        "answer_limit",
        "gate",
        "propagation",
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
    drift_after: int = 3
    merge_duplicates: bool = True
    duplicate_overlap: float = 0.8
    max_instances: int = 8
    keep_looking: bool = False
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    visibility: VisibilityConfig = field(default_factory=VisibilityConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_objects <= 254:
            raise InputError(f"max_objects is {self.max_objects}; expected 1 to 254")
        if not 1 <= self.max_instances <= 254:
            raise InputError(f"max_instances is {self.max_instances}; expected 1 to 254")
        for name in ("search_period", "replay_periods", "answer_limit", "verify_share"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.search_period > self.search_limit:
            raise InputError(
                f"search_period is {self.search_period}; expected at most search_limit ({self.search_limit})"
            )
        if not 0 < self.duplicate_overlap <= 1:
            raise InputError(
                f"duplicate_overlap is {self.duplicate_overlap}; expected above 0, at most 1"
            )
        for name in ("redetect_every", "drift_after", "give_up_after", "verify_period"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 or more")
