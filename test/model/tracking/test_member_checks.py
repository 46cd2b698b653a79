# SPDX-License-Identifier: Apache-2.0
"""Members of a group are asked about one by one. Red squares stand for masks, and the model sees those on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.segmentation.object_masks import painted_over
from sa2va_model.testing import nano_model
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.instances.groups import InstanceGroups, Resting
from sa2va_model.tracking.judgement.visibility_test import Glance
from sa2va_model.tracking.live import LiveTracker
from sa2va_model.tracks import EventKind, FrameResult, Reason, TrackState

from .red_squares import SHAPE, picture, red

PERIOD = 0.1
# Each square is one member; what nano weights make of it is not looked at.
SQUARES = [(8, 20, 12), (52, 26, 12), (98, 32, 12)]  # x, y, side


def low(mask: np.ndarray, side: int) -> torch.Tensor:
    """The mask at the decoder's size, bool [1, 1, side, side]."""
    whole = torch.from_numpy(mask)[None, None].float()
    return F.interpolate(whole, size=(side, side), mode="area") > 0.5


class Seeing(Sa2VA):
    """Says yes as long as something red is in the picture, and remembers what it was shown."""

    shown: list[np.ndarray]

    def ground(self, frames: Sequence[np.ndarray], expression: str) -> GroundingResult:  # type: ignore[override]
        """The answer, without an embedding if there is nothing red."""
        self.shown.append(frames[-1])
        reply = super().ground(frames, expression)
        return reply if red(frames[-1]).any() else replace(reply, embeddings=reply.embeddings[:0])


class Stage:
    """A live tracker with a group of three members, each on its square."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, denies: bool = True) -> None:
        model = nano_model()
        model.__class__ = Seeing
        assert isinstance(model, Seeing)
        model.shown = []
        self.model, self.k = model, 0
        self.config = LiveConfig(verify_period=0.5, merge_duplicates=False)
        self.live = LiveTracker(model, self.config)
        side = self.live._tracker._segmenter.config.mask_size
        for x, y, size in SQUARES:
            mask = np.zeros(SHAPE, bool)
            mask[y : y + size, x : x + size] = True
            self.live.prompt(mask=mask, label="red block")
        self.show(SQUARES)
        self.names = [record.id for record in self.live._table]
        self.masks = {n: self.square(k) for k, n in enumerate(self.names)}
        for name in self.names:
            record = self.live._table.get(name)
            assert record is not None
            record.shown_mask = low(self.masks[name], side)
            record.check_at(0.0)
            record.among(others=denies)
        group = Resting("red_block", "the red block", self.names, denies)
        groups, members = self.live._instances, self.live._members
        monkeypatch.setattr(groups, "resting", lambda: iter([group]))
        monkeypatch.setattr(groups, "members", lambda name: list(self.names))

        def painted(names: Sequence[str], frame: Frame) -> np.ndarray:
            return painted_over(frame.rgb, [self.masks[name] for name in names])

        monkeypatch.setattr(groups, "painted", painted)

        class Probe:
            """Sees what is red on a picture."""

            def look(self, embedding: Any, rgb: np.ndarray, row: int | None = None) -> Glance:
                return Glance(low(red(rgb), side), True, 0.0)

        class Eyes:
            def encode(self, rgb: np.ndarray) -> np.ndarray:
                return rgb

        monkeypatch.setattr(members, "_probe", Probe())
        monkeypatch.setattr(members, "_vision", Eyes())
        self.followed: list[tuple[str, np.ndarray]] = []

        def follow(record: Any, thing: Any, *rest: Any) -> None:
            self.followed.append((record.id, thing.mask))
            self.masks[record.id] = thing.mask
            real(record, thing, *rest)

        real = members._start.follow
        monkeypatch.setattr(members._start, "follow", follow)

    def square(self, k: int) -> np.ndarray:
        return red(picture(SQUARES[k : k + 1]))

    def show(self, squares: Sequence[tuple[int, int, int]], times: int = 1) -> list[FrameResult]:
        results = []
        for _ in range(times):
            frame = Frame(picture(squares), PERIOD * self.k, self.k)
            results.append(self.live.process(frame))
            self.k += 1
        return results

    def lose(self, *members: int) -> None:
        for k in members:
            record = self.live._table.get(self.names[k])
            assert record is not None
            assert record.life is not None
            record.life.state = record.state = TrackState.LOST
            record.life.existence.log_odds = -1.0

    def odds(self, k: int) -> float:
        record = self.live._table.get(self.names[k])
        assert record is not None
        assert record.life is not None
        return record.life.existence.log_odds


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_a_member_is_asked_about_with_all_others_painted_over(stage: Stage) -> None:
    stage.show(SQUARES, 4)
    assert len(stage.model.shown) == 3, "each in its turn"
    for k, shown in enumerate(stage.model.shown):
        assert (red(shown) == stage.square(k)).all()
    stage.show(SQUARES, 5)
    assert len(stage.model.shown) == 6, "and again after `verify_period`"


def test_memory_of_a_confirmed_member_starts_anew_where_it_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, side = stage.live._members, stage.live._tracker._segmenter.config.mask_size
    ask = members._ask

    def see(record: Any, *rest: Any) -> None:  # nano weights' own masks are anywhere
        view = record.view(stage.k)
        assert view is not None
        record._views.clear()
        record.viewed(stage.k, low(stage.masks[record.id], side), 0.0)
        ask(record, *rest)

    monkeypatch.setattr(members, "_ask", see)
    stage.show(SQUARES, 2)
    [(name, mask)] = stage.followed[:1]
    assert name == stage.names[0]
    assert mask[26, 14]
    assert not mask[:, 60:].any()
    bank = stage.live._tracker._bank
    assert bank.conditioning(stage.live._tracker.row(name)) == 1, "not where it stood before"


def test_a_no_counts_against_a_member(stage: Stage) -> None:
    before = stage.odds(0)
    stage.show([], 2)
    assert stage.odds(0) < before - 1.0


def test_a_lost_member_is_found_by_words_and_keeps_its_id(stage: Stage) -> None:
    stage.lose(0, 2)
    moved = (90, 32, 12)  # the third has gone a little to the left; the first is away
    results = stage.show([SQUARES[1], moved], 25)  # two answers are needed
    told = [e for r in results for e in r.events if e.kind == EventKind.REACQUIRED]
    assert [(e.track_id, e.reason) for e in told] == [(stage.names[2], Reason.WORDS)]
    name, mask = stage.followed[0]
    assert name == stage.names[2], "of two that are lost the one that was nearer"
    assert mask[38, 96]


def test_memory_alone_does_not_bring_a_lost_member_back(stage: Stage) -> None:
    stage.lose(0)
    record = stage.live._table.get(stage.names[0])
    assert record is not None
    stage.show([SQUARES[1], SQUARES[2]], 6)
    assert record.lost
    assert stage.names[0] not in stage.live._frames.to_step(stage.live._ring.newest().features)  # type: ignore[union-attr]


def test_lost_members_are_not_looked_for_by_a_model_that_never_denies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(monkeypatch, denies=False)
    stage.lose(0, 1, 2)
    stage.live._table.get(stage.names[0]).search_at(0.0, 0.0)  # type: ignore[union-attr]
    monkeypatch.setattr(stage.live._frames, "to_step", lambda features: [])
    stage.show(SQUARES, 5)
    assert not stage.model.shown


def test_nothing_is_asked_without_a_period(stage: Stage) -> None:
    stage.live.reconfigure(replace(stage.config, verify_period=0.0))
    stage.show(SQUARES, 5)
    assert not stage.model.shown


def test_an_answer_on_an_unusable_frame_changes_nothing_and_the_next_check_comes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = stage.live._members
    monkeypatch.setattr(stage.live._grounding, "answers", list)
    stage.show(SQUARES, 2)
    [check] = members._open.values()
    answered = type("Late", (), {"question": check.question})()
    assert members.takes(answered)
    members.again(answered, Frame(picture(SQUARES), 1.0, 9))
    assert not members.takes(answered)
    assert not members._open


def test_a_question_that_nobody_answers_is_asked_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage.live._grounding, "answers", list)
    stage.live._members.reconfigure(replace(stage.config, answer_limit=1.0))
    stage.show(SQUARES, 10)
    assert len(stage.live._members._open) == 1
    [first] = stage.live._members._open.values()
    stage.show(SQUARES, 3)
    [second] = stage.live._members._open.values()
    assert second.question.stamp > first.question.stamp


def test_groups_tell_which_members_show_something() -> None:
    live = LiveTracker(nano_model(), LiveConfig(max_instances=2, merge_duplicates=False))
    live.track("every mug")
    rgb = picture(SQUARES)
    result = live.process(Frame(rgb, 0.0, 0))
    groups: InstanceGroups = live._instances
    shown = {t.id for t in result.tracks if t.state == TrackState.TRACKING}
    assert shown
    assert groups.in_view() == [shown]
