# SPDX-License-Identifier: Apache-2.0
"""Losing and finding: the live tracker's states against a world in which it is known who is there.

The nano model's scores mean nothing, so the evidence is dictated here; what is tested is what follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch

from sa2va_model.checkpoints.calibration import Calibration, EvidenceWeights
from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import Decoded, Prompt
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracks import Event, EventKind, FrameResult, Reason, TrackState

VALUES = Calibration(
    weight=0.4,
    floor=-2.0,
    hide=0.0,
    show=0.5,
    regain=2.0,
    confirmed=1.5,
    denied=-2.0,
    redetect=True,
)
CONFIG = LiveConfig(verify_period=0, search_period=60.0, search_limit=60.0, calibration=VALUES)


frames = partial(noisy_clip, change=4.0)


class Scripted(Sa2VA):
    """Says yes or no as it is told; the [SEG] embedding is always the same."""

    there: bool
    asked: int

    def ground(
        self, frames: Sequence[np.ndarray], expression: str, **options: object
    ) -> GroundingResult:  # type: ignore[override]
        """The scripted answer."""
        self.asked += 1
        reply = super().ground(frames, expression)
        return reply if self.there else replace(reply, text="no", embeddings=reply.embeddings[:0])


class World:
    """Dictates the evidence of every mask, and counts whose masks were weighed."""

    def __init__(self, values: Calibration) -> None:
        self._values = values
        self.memory = self.spoken = 3.0
        self.weighed = {"memory": 0, "spoken": 0}

    def __call__(
        self, weights: EvidenceWeights, decoded: Decoded, *signs: object, scored: bool
    ) -> torch.Tensor:
        """The evidence that is so."""
        name = "memory" if weights is self._values.memory else "spoken"
        self.weighed[name] += 1
        return torch.full((len(decoded.quality),), getattr(self, name))


@dataclass
class Stage:
    """A live tracker in a dictated world."""

    live: LiveTracker
    model: Scripted
    world: World

    def run(self, clip: Sequence[Frame], script: Sequence[float]) -> list[FrameResult]:
        results = []
        for frame, evidence in zip(clip, script, strict=True):
            self.world.memory = self.world.spoken = evidence
            results.append(self.live.process(frame))
        return results


def begin(config: LiveConfig = CONFIG, *, from_text: bool = True) -> Stage:
    model = nano_model()
    eyes = replace(model.config.sam2, object_score_gate=True)
    model.config, model.sam2.config = replace(model.config, sam2=eyes), eyes
    model.__class__ = Scripted
    assert isinstance(model, Scripted)
    model.there, model.asked = True, 0
    assert config.calibration is not None
    world = World(config.calibration)
    live = LiveTracker(model, config, weigh=world)
    if from_text:
        live.track("the mug")
    else:
        live.prompt(box=(5, 5, 30, 25), label="mug")
    return Stage(live, model, world)


def told(results: Sequence[FrameResult]) -> list[Event]:
    return [event for result in results for event in result.events]


def test_lost_and_found_again_by_the_stored_embedding() -> None:
    stage = begin()
    script = [3.0] * 5 + [-4.0] * 20 + [3.0] * 12
    results = stage.run(frames(37), script)
    events = told(results)
    assert [(e.kind.name, e.reason) for e in events] == [
        ("STARTED", Reason.ASKED),
        ("FOUND", Reason.WORDS),
        ("OCCLUDED", Reason.UNSEEN),
        ("LOST", Reason.UNSEEN),
        ("REACQUIRED", Reason.REDETECTED),
    ]
    assert stage.model.asked == 1, "without the language model"
    for event in events:
        assert event.stamp == event.frame_index / 10
    lost, back = events[3].frame_index, events[4].frame_index
    assert 5 + 10 <= lost <= 5 + 15
    assert 25 < back <= 25 + 8
    for result in results:
        track = result.tracks[0]
        assert (track.mask is not None) == (track.state == TrackState.TRACKING) or result.index < 9


def test_a_lost_object_is_not_stepped_by_memory() -> None:
    stage = begin()
    clip = frames(30)
    results = stage.run(clip[:25], [3.0] * 5 + [-4.0] * 20)
    assert results[-1].tracks[0].state == TrackState.LOST
    before = dict(stage.world.weighed)
    stage.run(clip[25:], [-4.0] * 5)
    assert stage.world.weighed["memory"] == before["memory"]
    assert stage.world.weighed["spoken"] > before["spoken"], "it is looked for with its embedding"


def test_without_a_calibration_the_embedding_alone_brings_nothing_back() -> None:
    stage = begin(replace(CONFIG, calibration=replace(VALUES, redetect=False)))
    events = told(stage.run(frames(37), [3.0] * 5 + [-4.0] * 20 + [3.0] * 12))
    assert [e.kind.name for e in events][-1] == "LOST"


def test_one_look_is_not_enough() -> None:
    stage = begin()
    script = [3.0] * 5 + [-4.0] * 20 + [3.0] * 2 + [-4.0] * 8
    assert "REACQUIRED" not in [e.kind.name for e in told(stage.run(frames(35), script))]


def test_without_an_embedding_memory_itself_must_be_sure() -> None:
    stage = begin(from_text=False)
    results = stage.run(frames(37), [3.0] * 5 + [-4.0] * 20 + [3.0] * 12)
    assert [(e.kind.name, e.reason) for e in told(results)][2:] == [
        ("OCCLUDED", Reason.UNSEEN),
        ("LOST", Reason.UNSEEN),
        ("REACQUIRED", Reason.RETURNED),
    ]


def test_words_find_what_the_embedding_does_not() -> None:
    stage = begin(replace(CONFIG, search_period=0.5, redetect_every=0))
    clip = frames(60)
    stage.run(clip[:5], [3.0] * 5)
    stage.model.there = False
    away = stage.run(clip[5:30], [-4.0] * 25)
    assert "LOST" in [e.kind.name for e in told(away)]
    asked = stage.model.asked
    assert asked > 1
    stage.model.there = True
    back = stage.run(clip[30:], [3.0] * 30)
    assert [(e.kind.name, e.reason) for e in told(back)] == [("REACQUIRED", Reason.WORDS)]


def test_words_that_point_at_something_else_do_not_bring_it_back() -> None:
    stage = begin(replace(CONFIG, search_period=0.5))
    results = stage.run(frames(60), [3.0] * 5 + [-4.0] * 55)
    assert "REACQUIRED" not in [e.kind.name for e in told(results)]


def test_a_denial_alone_is_no_loss() -> None:
    """The words deny twice what is plainly there: the mask stays."""
    stage = begin(replace(CONFIG, verify_period=0.5, agreement=0.0))
    clip = frames(30)
    stage.run(clip[:10], [3.0] * 10)
    stage.model.there = False
    denied = stage.run(clip[10:16], [3.0] * 6)
    stage.model.there = True
    later = stage.run(clip[16:], [3.0] * 14)
    assert told([*denied, *later]) == []
    assert all(result.tracks[0].mask is not None for result in (*denied, *later))


def test_denials_of_a_doubtful_mask_are_a_loss() -> None:
    stage = begin(replace(CONFIG, verify_period=0.5))
    clip = frames(50)
    stage.run(clip[:10], [3.0] * 10)
    stage.model.there = False
    events = told(stage.run(clip[10:], [0.3] * 40))
    assert [e.kind.name for e in events] == ["OCCLUDED", "LOST"]
    assert events[0].reason == Reason.DENIED


def test_giving_up_is_said() -> None:
    stage = begin(replace(CONFIG, give_up_after=1.0))
    results = stage.run(frames(40), [3.0] * 5 + [-4.0] * 35)
    last = told(results)[-1]
    assert (last.kind, last.reason) == (EventKind.STOPPED, Reason.GIVEN_UP)
    assert "given up" in last.detail
    assert results[-1].tracks == ()


def test_evidence_that_is_no_number_changes_little() -> None:
    stage = begin()
    results = stage.run(frames(20), [3.0] * 10 + [math.nan] * 5 + [3.0] * 5)
    assert [e.kind.name for e in told(results)] == ["STARTED", "FOUND"]


@pytest.mark.parametrize(("agreement", "expected"), [(1.1, 1), (0.0, 0)])
def test_memory_that_drifted_is_prompted_again(
    agreement: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the embedding keeps seeing something else, with more evidence, memory starts again from it."""
    stage = begin(replace(CONFIG, agreement=agreement))
    clip = frames(12)
    stage.run(clip[:4], [3.0] * 4)
    calls = []
    add = OnlineTracker.add

    def spy(tracker: OnlineTracker, name: str, prompt: Prompt, **more: int) -> None:
        calls.append(name)
        add(tracker, name, prompt, **more)

    monkeypatch.setattr(OnlineTracker, "add", spy)
    stage.world.memory, stage.world.spoken = -2.0, 3.0
    results = [stage.live.process(frame) for frame in clip[4:9]]
    assert len(calls) == expected
    assert all(result.tracks[0].state == TrackState.TRACKING for result in results)
