# SPDX-License-Identifier: Apache-2.0
"""LiveTracker: commands, late answers, honest states, and frames that cannot be used."""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracking.config import LifecycleConfig
from sa2va_model.tracking.grounding_worker import Answered, GroundingWorker
from sa2va_model.tracking.judgement.lifecycle import Lifecycle
from sa2va_model.tracking.judgement.visibility_test import VisibilityTest
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracking.track_names import TrackNames
from sa2va_model.tracks import EventKind, FrameResult, Reason, TrackState

QUIET = LiveConfig(verify_period=0)


def kinds(results: Sequence[FrameResult]) -> list[str]:
    return [event.kind.name for result in results for event in result.events]


def test_a_sentence_becomes_a_track() -> None:
    live = LiveTracker(nano_model(), QUIET)
    name = live.track("the red mug")
    results = [live.process(frame) for frame in noisy_clip(5)]
    assert name == "red_mug"
    assert kinds(results) == ["STARTED", "FOUND"]
    for frame, result in zip(noisy_clip(5), results, strict=True):
        (track,) = result.tracks
        assert (result.stamp, result.index) == (frame.stamp, frame.index)
        assert track.state == TrackState.TRACKING
        assert track.mask is not None
        assert track.mask.shape == (30, 40)
        assert track.area == track.mask.sum()
        assert (result.labels() == track.mask_value).sum() == track.area


def test_what_is_not_there_is_not_found() -> None:
    live = LiveTracker(nano_model(answers=False), QUIET)
    live.track("the red mug")
    first, second = (live.process(frame) for frame in noisy_clip(2))
    assert kinds([first]) == ["STARTED", "NOT_FOUND"]
    assert first.tracks[0].state == TrackState.NOT_FOUND
    assert first.tracks[0].mask is None
    assert not second.tracks


def test_what_is_pointed_at_must_pass_the_visibility_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A [SEG] embedding always gives some mask."""
    monkeypatch.setattr(VisibilityTest, "passes", lambda *_: False)
    live = LiveTracker(nano_model(), QUIET)
    live.track("the red mug")
    first = live.process(noisy_clip(1)[0])
    assert [(e.kind, e.reason) for e in first.events][1:] == [(EventKind.NOT_FOUND, Reason.NO_MASK)]
    assert first.events[-1].detail.startswith("The words point at something, but no mask")


@pytest.mark.parametrize(("visible", "taken"), [(True, "affirmed"), (False, "denied")])
def test_an_answer_about_a_lost_object_counts_if_it_shows_it(
    monkeypatch: pytest.MonkeyPatch, visible: bool, taken: str
) -> None:
    live = LiveTracker(nano_model(), replace(QUIET, background=False, search_period=0.01))
    name = live.track("the red mug")
    frames = noisy_clip(3)
    live.process(frames[0])
    record = live._table.get(name)
    assert record is not None
    assert record.life is not None
    told: list[str] = []
    for what in ("affirmed", "denied"):
        monkeypatch.setattr(record, what, lambda *_, what=what: told.append(what))
    monkeypatch.setattr(VisibilityTest, "passes", lambda *_: visible)
    record.life.state = TrackState.LOST
    record.search_at(0.0, 0.0)
    for frame in frames[1:]:
        live.process(frame)
    assert told[:1] == [taken]


def test_a_search_does_not_begin_with_more_than_its_longest_pause() -> None:
    with pytest.raises(InputError, match=r"search_period is 9\.0; expected at most search_limit"):
        LiveConfig(search_period=9.0, search_limit=4.0)


def test_an_unknown_word_is_a_reason_of_its_own() -> None:
    model = nano_model()
    words = frozenset({"mug"}), frozenset({"red"}), frozenset({"object"})
    model.vocabulary = Vocabulary(*words)
    live = LiveTracker(model, QUIET)
    live.track("the xylophone")
    result = live.process(noisy_clip(1)[0])
    told = result.events[-1]
    assert (told.kind, told.reason) == (EventKind.NOT_FOUND, Reason.UNKNOWN_WORD)
    assert told.detail == "I do not know the word 'xylophone'."
    live.track("the red sneakers")
    told = live.process(noisy_clip(2)[1]).events[-1]
    assert (told.kind, told.reason) == (EventKind.FOUND, Reason.WORDS)
    assert "I do not know the word 'sneakers'; I looked for 'the red object'." in told.detail


def test_plain_commands_replace_and_names_stay_unique() -> None:
    live = LiveTracker(nano_model(), QUIET)
    clip = noisy_clip(4)
    names = [live.track("the red mug"), live.track("the red mug there")]
    live.process(clip[0])
    assert names == ["red_mug", "red_mug_there"]
    names.append(live.track("the ball", replace=True))
    result = live.process(clip[1])
    assert [t.id for t in result.tracks if t.state == TrackState.TRACKING] == ["ball"]
    assert kinds([result]).count("STOPPED") == 2
    assert live.stop() == 1
    live.process(clip[2])
    assert live.process(clip[3]).tracks == ()


def test_a_name_is_given_once() -> None:
    live = LiveTracker(nano_model(), replace(QUIET, merge_duplicates=False))
    clip = noisy_clip(6)
    names = [live.track("the mug")]
    live.process(clip[0])
    live.stop("mug")
    names.append(live.track("the mug"))  # the first one has not been seen to end yet
    live.process(clip[1])
    live.stop()
    live.process(clip[2])
    names += [
        live.track("the mug", track_id="mug"),
        live.prompt(box=(2, 2, 20, 20), track_id="mug"),
    ]
    live.process(clip[3])
    live.reset("time went back")
    names += [live.track("mug"), live.track("mug 9"), live.track("mug")]
    assert names == ["mug", "mug_2", "mug_3", "mug_4", "mug_5", "mug_9", "mug_10"]
    live.process(clip[4])
    assert live.prompt(box=(2, 2, 20, 20), track_id="mug_5") == "mug_5"  # it lives: corrected
    assert [t.id for t in live.process(clip[5]).tracks] == ["mug_5", "mug_9", "mug_10"]


def test_a_tracker_that_takes_over_keeps_the_tracks_and_gives_other_names() -> None:
    names = TrackNames()
    first = LiveTracker(nano_model(), QUIET, names)
    kept, ended = first.track("the mug"), first.track("the ball")
    second = LiveTracker(nano_model(), QUIET, names)
    second.resume(kept, "the mug")
    other = second.track("the ball")
    result = second.process(noisy_clip(1)[0])
    assert [track.id for track in result.tracks] == [kept, other]
    assert other != ended
    assert second.stop(kept) == 1


def test_names_stay_different_when_old_words_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sa2va_model.tracking.track_names.REMEMBERED", 5)
    words = [
        "a",
        "a_2",
        "a 3",
        "b",
        "b 1",
        "b 2",
        "b_1_2",
        "c",
        "a_b",
        "x" * 60,
        "x" * 40 + " 2",
        "?",
    ]
    rng = np.random.default_rng(0)
    names = TrackNames()
    given = [names.give(words[i]) for i in rng.integers(0, len(words), 2000)]
    given += [names.give(name) for name in given]  # whoever asks for a name that was used
    assert len(set(given)) == len(given)
    assert all(re.fullmatch("[a-z0-9_]+", name) and len(name) < 50 for name in given)


def test_prompts_outside_the_image_fail_with_the_reason() -> None:
    live = LiveTracker(nano_model(), QUIET)
    live.prompt(box=(50, 2, 60, 9))
    live.prompt(points=np.array([[3, 40]]))
    live.prompt(mask=np.ones((5, 5), bool))
    live.prompt(box=(30, 20, 60, 60), label="half outside")
    result = live.process(noisy_clip(1)[0])
    failed = [event.detail for event in result.events if event.kind == EventKind.FAILED]
    assert len(failed) == 3
    assert "outside the image of 40x30" in failed[0]
    assert "outside the image of 40x30" in failed[1]
    assert "expected the image's 40x30" in failed[2]
    assert [t.id for t in result.tracks if t.state == TrackState.TRACKING] == ["half_outside"]


@pytest.mark.parametrize("arguments", [{}, {"box": (0, 0, 1, 1), "points": np.zeros((1, 2))}])
def test_a_prompt_is_one_thing(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="exactly one"):
        LiveTracker(nano_model(), QUIET).prompt(**arguments)


def test_too_many_tracks_fail_and_the_others_live() -> None:
    live = LiveTracker(nano_model(), LiveConfig(max_objects=1, verify_period=0))
    live.track("the mug")
    live.track("the ball")
    result = live.process(noisy_clip(1)[0])
    assert kinds([result]) == ["STARTED", "FAILED", "FOUND"]
    assert [track.id for track in result.tracks] == ["mug"]


def test_a_bad_frame_is_refused_and_the_tracks_live_on() -> None:
    live = LiveTracker(nano_model(), QUIET)
    live.track("the mug")
    clip = noisy_clip(3)
    live.process(clip[0])
    with pytest.raises(InputError, match="size is 20x10; expected 40x30"):
        live.process(Frame(np.zeros((10, 20, 3), np.uint8), 0.1, 1))
    with pytest.raises(InputError, match="expected a uint8 array"):
        live.process(Frame(np.zeros((30, 40, 3)), 0.1, 1))
    assert live.process(clip[2]).tracks[0].state == TrackState.TRACKING


def test_a_reset_forgets_and_says_so() -> None:
    live = LiveTracker(nano_model(), QUIET)
    live.track("the mug")
    clip = noisy_clip(2)
    live.process(clip[0])
    live.reset("time went back")
    result = live.process(clip[1])
    assert result.tracks == ()
    assert [(e.kind, e.detail) for e in result.events] == [
        (EventKind.MEMORY_RESET, "time went back")
    ]


class HeldModel(Sa2VA):
    """Answers only when it is let."""

    gate: threading.Event
    asked: threading.Event

    def ground(self, frames: Sequence[np.ndarray], expression: str) -> GroundingResult:
        """Waits at the gate."""
        self.asked.set()
        assert self.gate.wait(20)
        return super().ground(frames, expression)


def held_model() -> HeldModel:
    model = nano_model()
    model.__class__ = HeldModel
    assert isinstance(model, HeldModel)
    model.gate, model.asked = threading.Event(), threading.Event()
    return model


class LateAnswers(GroundingWorker):
    """Keeps its answers until it is told."""

    held = True

    def answers(self) -> list[Answered]:
        """None while they are held."""
        return [] if self.held else super().answers()


def test_a_late_answer_is_replayed_to_the_newest_frame() -> None:
    """Grounding that takes six frames ends with the same mask as grounding that takes none."""
    clip = noisy_clip(9)
    prompt_live = LiveTracker(nano_model(), QUIET)
    prompt_live.track("the red mug")
    expected = [prompt_live.process(frame) for frame in clip]

    model = nano_model()
    answers = LateAnswers(model, background=False)
    late = LiveTracker(model, QUIET, grounding=answers)
    late.track("the red mug")
    results = [late.process(frame) for frame in clip[:6]]
    assert all(result.tracks[0].state == TrackState.PENDING for result in results)
    answers.held = False
    results += [late.process(frame) for frame in clip[6:]]
    for t in range(6, 9):
        ours, theirs = results[t].tracks[0].mask, expected[t].tracks[0].mask
        assert ours is not None
        assert np.array_equal(ours, theirs)


def test_tracking_goes_on_while_the_model_thinks() -> None:
    model = held_model()
    live = LiveTracker(model, LiveConfig(background=True, verify_period=0))
    clip = noisy_clip(6)
    try:
        live.prompt(box=(5, 5, 25, 25), label="box")
        live.track("the mug")
        results = [live.process(frame) for frame in clip]
        states = {track.id: track.state for track in results[-1].tracks}
        assert states == {"box": TrackState.TRACKING, "mug": TrackState.PENDING}
        live.stop("mug")
        stopped = live.process(Frame(clip[0].rgb, 1.0, 6))
        assert "STOPPED" in kinds([stopped])
    finally:
        model.gate.set()
        live.close()


def run_life(
    visible: Sequence[bool], config: LifecycleConfig, *, log_odds: float = 2.5
) -> list[str]:
    """Events of a 10 Hz life."""
    life, out = Lifecycle(config, Calibration(), 0.0), []
    for i, seen in enumerate(visible):
        life.existence.log_odds = log_odds
        change = life.update((i + 1) / 10, visible=seen)
        assert seen or not life.shown
        out.append(change.kind.name if change else "")
    return out


def test_a_short_absence_is_an_occlusion() -> None:
    events = run_life([True] * 3 + [False] * 4 + [True], LifecycleConfig())
    assert [e for e in events if e] == ["OCCLUDED", "REACQUIRED"]


def test_flicker_is_not_news() -> None:
    assert not any(run_life([True, False, True, False, True], LifecycleConfig()))


def test_a_long_absence_is_a_loss() -> None:
    events = run_life([False] * 15 + [True], LifecycleConfig(lost_after=1.0))
    assert [e for e in events if e] == ["OCCLUDED", "LOST", "REACQUIRED"]
    assert events.index("LOST") == 9


@pytest.mark.parametrize(
    ("log_odds", "told"),
    [
        (-0.1, ["OCCLUDED", "LOST"]),  # below `hide`: unseen from the first frame on
        (
            0.1,
            ["OCCLUDED", "LOST"],
        ),  # from `hide` on a tracked object stays, an occluded one waits for `show`
        (0.6, ["OCCLUDED", "LOST"]),  # `show` brings back what is occluded, `regain` what is lost
        (2.5, ["OCCLUDED", "LOST", "REACQUIRED"]),
    ],
)
def test_a_lost_object_needs_more_than_a_mask(log_odds: float, told: list[str]) -> None:
    events = run_life([False] * 15 + [True] * 5, LifecycleConfig(), log_odds=log_odds)
    assert [e for e in events if e] == told


@pytest.mark.parametrize(("log_odds", "told"), [(0.1, []), (0.6, ["REACQUIRED"])])
def test_an_occluded_object_needs_less(log_odds: float, told: list[str]) -> None:
    events = run_life([False] * 5 + [True] * 3, LifecycleConfig(), log_odds=log_odds)
    assert [e for e in events if e] == ["OCCLUDED", *told]
    assert run_life([True] * 3, LifecycleConfig(), log_odds=0.1) == ["", "", ""]
    assert run_life([True] * 3, LifecycleConfig(), log_odds=-0.1) == ["", "OCCLUDED", ""]


def test_memory_that_drifts_starts_again_from_the_words() -> None:
    """A track that follows something else than the words mean is corrected, and says so."""
    live = LiveTracker(nano_model(), LiveConfig(verify_period=0.2, agreement=1.1))
    live.track("the mug")
    results = [live.process(frame) for frame in noisy_clip(20)]
    assert "REGROUNDED" in kinds(results)
    assert all(result.tracks[0].state == TrackState.TRACKING for result in results)


def test_agreement_refreshes_the_memory_quietly() -> None:
    live = LiveTracker(nano_model(), LiveConfig(verify_period=0.2, agreement=0.0))
    live.track("the mug")
    results = [live.process(frame) for frame in noisy_clip(20)]
    assert kinds(results) == ["STARTED", "FOUND"]
    keyframes = [result.tracks[0].last_keyframe for result in results]
    assert keyframes[-1] is not None
    assert keyframes[-1] > 1.0


class SlowModel(Sa2VA):
    """Takes as long for an answer as a busy machine may."""

    def ground(self, frames: Sequence[np.ndarray], expression: str) -> GroundingResult:
        """As ever, later."""
        time.sleep(0.15)
        return super().ground(frames, expression)


def test_a_slow_model_changes_nothing_about_a_file() -> None:
    """Checks are spaced by the stamps of the frames; only a robot's are made rarer by the clock."""
    runs = []
    for kind in (Sa2VA, SlowModel):
        model = nano_model()
        model.__class__ = kind
        live = LiveTracker(model, LiveConfig(verify_period=0.2, agreement=0.0))
        live.track("the mug")
        results = [live.process(frame) for frame in noisy_clip(12)]
        runs.append([result.tracks[0].last_keyframe for result in results])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 5


class ForgetfulModel(Sa2VA):
    """Finds the object once, then denies it."""

    asked: int

    def ground(self, frames: Sequence[np.ndarray], expression: str) -> GroundingResult:
        """The first answer has a mask, no later one has."""
        self.asked += 1
        reply = super().ground(frames, expression)
        if self.asked == 1:
            return reply
        return GroundingResult("no", "no", (), reply.embeddings[:0], reply.generated)


def test_a_denied_object_loses_its_mask() -> None:
    """Memory alone would go on with a mask of something."""
    model = nano_model()
    model.__class__ = ForgetfulModel
    assert isinstance(model, ForgetfulModel)
    model.asked = 0
    live = LiveTracker(model, LiveConfig(verify_period=0.5, search_period=0.5))
    live.track("the mug")
    results = [live.process(frame) for frame in noisy_clip(50)]
    told = kinds(results)
    assert told[:2] == ["STARTED", "FOUND"]
    assert told[2:] == ["OCCLUDED", "LOST"]
    assert results[-1].tracks[0].mask is None
    assert 3 <= model.asked <= 10, "the pauses between searches grow"


def test_a_stopped_track_does_not_come_back_with_a_late_answer() -> None:
    model = nano_model()
    answers = LateAnswers(model, background=False)
    live = LiveTracker(model, QUIET, grounding=answers)
    clip = noisy_clip(3)
    live.track("the mug")
    live.process(clip[0])
    live.stop()
    answers.held = False
    assert kinds([live.process(clip[1])]) == ["STOPPED"]
    assert live.process(clip[2]).tracks == ()


def test_a_stream_that_nobody_asks_about_costs_nothing() -> None:
    live = LiveTracker(nano_model(), QUIET)
    idle, busy = noisy_clip(2)
    assert "encode" not in live.process(idle).milliseconds
    live.track("the mug")
    assert "encode" in live.process(busy).milliseconds


class Companion:
    """What a node pins to its frame; unlike plain objects it can be watched."""


def test_what_belongs_to_a_frame_comes_back_with_its_result_and_lives_as_long_as_the_frame() -> (
    None
):
    live = LiveTracker(nano_model(), LiveConfig(verify_period=0, ring=8))
    live.track("the mug")
    watched = []
    for frame in noisy_clip(20):
        companion = Companion()
        watched.append(weakref.ref(companion))
        result = live.process(replace(frame, companion=companion))
        assert result.companion is companion
    del companion, result
    alive = [index for index, seen in enumerate(watched) if seen() is not None]
    assert alive == list(range(12, 20)), "as many as the ring keeps"
    live.reset("time went back")
    assert not any(seen() for seen in watched)
