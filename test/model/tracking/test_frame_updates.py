# SPDX-License-Identifier: Apache-2.0
"""Losing and finding: the live tracker's states against a world in which it is known who is there.

The nano model's scores mean nothing, so the evidence is dictated here; what is tested is what follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.segmentation.types import Decoded
from sa2va_model.testing import nano_model
from sa2va_model.tracking.calibration import Calibration
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
CONFIG = LiveConfig(verify_period=0, search_period=60.0, calibration=VALUES)


def frames(count: int) -> list[Frame]:
    """A slowly changing 40 x 30 clip at 10 Hz."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 40, 3)).astype(float)
    out = []
    for i in range(count):
        image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255)
        out.append(Frame(image.astype(np.uint8), i / 10, i))
    return out


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


def begin(config: LiveConfig = CONFIG, *, spoken: bool = True) -> tuple[LiveTracker, Scripted]:
    model = nano_model()
    eyes = replace(model.config.sam2, object_score_gate=True)
    model.config, model.sam2.config = replace(model.config, sam2=eyes), eyes
    model.__class__ = Scripted
    assert isinstance(model, Scripted)
    model.there, model.asked = True, 0
    live = LiveTracker(model, config)
    if spoken:
        live.track("the mug")
    else:
        live.prompt(box=(5, 5, 30, 25), label="mug")
    return live, model


def dictate(live: LiveTracker, evidence: float) -> None:
    """From now on all masks have this evidence."""

    def weigh(head: object, rows: torch.Tensor, decoded: Decoded) -> torch.Tensor:
        return torch.full((len(rows),), evidence)

    live._parts.trust.weigh = weigh  # type: ignore[method-assign,assignment]


def run(live: LiveTracker, clip: Sequence[Frame], script: Sequence[float]) -> list[FrameResult]:
    results = []
    for frame, evidence in zip(clip, script, strict=True):
        dictate(live, evidence)
        results.append(live.process(frame))
    return results


def told(results: Sequence[FrameResult]) -> list[Event]:
    return [event for result in results for event in result.events]


def test_lost_and_found_again_by_the_stored_embedding() -> None:
    live, model = begin()
    script = [3.0] * 5 + [-4.0] * 20 + [3.0] * 12
    results = run(live, frames(37), script)
    events = told(results)
    assert [(e.kind.name, e.reason) for e in events] == [
        ("STARTED", Reason.ASKED),
        ("FOUND", Reason.WORDS),
        ("OCCLUDED", Reason.UNSEEN),
        ("LOST", Reason.UNSEEN),
        ("REACQUIRED", Reason.REDETECTED),
    ]
    assert model.asked == 1, "without the language model"
    for event in events:
        assert event.stamp == event.frame_index / 10
    lost, back = events[3].frame_index, events[4].frame_index
    assert 5 + 10 <= lost <= 5 + 15
    assert 25 < back <= 25 + 8
    for result in results:
        track = result.tracks[0]
        assert (track.mask is not None) == (track.state == TrackState.TRACKING) or result.index < 9


def test_a_lost_object_is_not_stepped_by_memory() -> None:
    live, _ = begin()
    run(live, frames(25), [3.0] * 5 + [-4.0] * 20)
    assert live._watch.stepped() == []


def test_without_a_calibration_the_embedding_alone_brings_nothing_back() -> None:
    live, _ = begin(replace(CONFIG, calibration=replace(VALUES, redetect=False)))
    events = told(run(live, frames(37), [3.0] * 5 + [-4.0] * 20 + [3.0] * 12))
    assert [e.kind.name for e in events][-1] == "LOST"


def test_one_look_is_not_enough() -> None:
    live, _ = begin()
    script = [3.0] * 5 + [-4.0] * 20 + [3.0] * 2 + [-4.0] * 8
    assert "REACQUIRED" not in [e.kind.name for e in told(run(live, frames(35), script))]


def test_without_an_embedding_memory_itself_must_be_sure() -> None:
    live, _ = begin(spoken=False)
    results = run(live, frames(37), [3.0] * 5 + [-4.0] * 20 + [3.0] * 12)
    assert [(e.kind.name, e.reason) for e in told(results)][2:] == [
        ("OCCLUDED", Reason.UNSEEN),
        ("LOST", Reason.UNSEEN),
        ("REACQUIRED", Reason.RETURNED),
    ]


def test_words_find_what_the_embedding_does_not() -> None:
    live, model = begin(replace(CONFIG, search_period=0.5, redetect_every=0))
    clip = frames(60)
    run(live, clip[:5], [3.0] * 5)
    model.there = False
    away = run(live, clip[5:30], [-4.0] * 25)
    assert "LOST" in [e.kind.name for e in told(away)]
    asked = model.asked
    assert asked > 1
    model.there = True
    back = run(live, clip[30:], [3.0] * 30)
    assert [(e.kind.name, e.reason) for e in told(back)] == [("REACQUIRED", Reason.WORDS)]


def test_words_that_point_at_something_else_do_not_bring_it_back() -> None:
    live, _ = begin(replace(CONFIG, search_period=0.5))
    results = run(live, frames(60), [3.0] * 5 + [-4.0] * 55)
    assert "REACQUIRED" not in [e.kind.name for e in told(results)]


def test_a_denial_alone_is_no_loss() -> None:
    """The words deny twice what is plainly there: the mask stays."""
    live, model = begin(replace(CONFIG, verify_period=0.5, agreement=0.0))
    clip = frames(30)
    run(live, clip[:10], [3.0] * 10)
    model.there = False
    denied = run(live, clip[10:16], [3.0] * 6)
    model.there = True
    later = run(live, clip[16:], [3.0] * 14)
    assert told([*denied, *later]) == []
    assert all(result.tracks[0].mask is not None for result in (*denied, *later))


def test_denials_of_a_doubtful_mask_are_a_loss() -> None:
    live, model = begin(replace(CONFIG, verify_period=0.5))
    clip = frames(50)
    run(live, clip[:10], [3.0] * 10)
    model.there = False
    events = told(run(live, clip[10:], [0.3] * 40))
    assert [e.kind.name for e in events] == ["OCCLUDED", "LOST"]
    assert events[0].reason == Reason.DENIED


def test_giving_up_is_said() -> None:
    live, _ = begin(replace(CONFIG, give_up_after=1.0))
    results = run(live, frames(40), [3.0] * 5 + [-4.0] * 35)
    last = told(results)[-1]
    assert (last.kind, last.reason) == (EventKind.STOPPED, Reason.GIVEN_UP)
    assert "given up" in last.detail
    assert results[-1].tracks == ()


def test_evidence_that_is_no_number_changes_little() -> None:
    live, _ = begin()
    results = run(live, frames(20), [3.0] * 10 + [math.nan] * 5 + [3.0] * 5)
    assert [e.kind.name for e in told(results)] == ["STARTED", "FOUND"]


@pytest.mark.parametrize(("agreement", "expected"), [(0.0, 1), (0.9, 0)])
def test_memory_that_drifted_is_prompted_again(agreement: float, expected: int) -> None:
    """Where the embedding keeps seeing something else, with more evidence, memory starts again from it."""
    live, _ = begin()
    clip = frames(12)
    run(live, clip[:4], [3.0] * 4)
    live._parts.trust.rivals = lambda row: (agreement, -2.0, 3.0)  # type: ignore[method-assign]
    calls = []
    add = live._parts.tracker.add
    live._parts.tracker.add = lambda name, prompt, **more: (
        calls.append(name),
        add(name, prompt, **more),
    )[1]  # type: ignore[method-assign,assignment,func-returns-value]
    results = run(live, clip[4:9], [3.0] * 5)
    assert len(calls) == expected
    assert all(result.tracks[0].state == TrackState.TRACKING for result in results)
