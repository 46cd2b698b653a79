# SPDX-License-Identifier: Apache-2.0
"""When two commands mean one track, and what a track is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.mllm.chat import Phrase
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracking.track_table import same_words
from sa2va_model.tracks import Event, EventKind, FrameResult, Reason, TrackState

QUIET = LiveConfig(verify_period=0)
APART = replace(QUIET, merge_duplicates=False)
LEFT, RIGHT = (2, 2, 18, 28), (22, 2, 38, 28)


frames = partial(noisy_clip, change=4.0)


def events(results: Sequence[FrameResult], kind: EventKind) -> list[Event]:
    return [event for result in results for event in result.events if event.kind == kind]


class Asked(Sa2VA):
    """Counts what it is asked, and names the object as it is told."""

    expressions: list[str]
    phrase: str

    def ground(self, frames: Sequence[np.ndarray], expression: str) -> GroundingResult:  # type: ignore[override]
        """The answer, with a phrase if there is one."""
        self.expressions.append(expression)
        reply = super().ground(frames, expression)
        named = (Phrase(self.phrase, 0, len(self.phrase), 0),) if self.phrase else ()
        return replace(reply, phrases=named)


def asked_model(phrase: str = "") -> Asked:
    model = nano_model()
    model.__class__ = Asked
    assert isinstance(model, Asked)
    model.expressions, model.phrase = [], phrase
    return model


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("The red  mug.", True),
        ("a red mug", True),
        ("red mug", True),
        ("the red mugs", False),
        ("the mug", False),
    ],
)
def test_words_that_mean_the_same_track(other: str, same: bool) -> None:
    assert same_words("the red mug", other) == same


def test_words_of_other_scripts_are_told_apart() -> None:
    assert not same_words("红色的杯子", "蓝色的杯子")


def test_a_command_said_a_hundred_times_is_one_track() -> None:
    model = asked_model()
    live = LiveTracker(model, QUIET)
    clip = frames(100)
    results, names = [], set()
    for frame in clip:
        names |= {live.track("the mug"), live.track("The mug."), live.track("mug", track_id="mug")}
        results.append(live.process(frame))
    assert names == {"mug"}
    assert {track.id for track in results[-1].tracks} == {"mug"}
    assert len(events(results, EventKind.STARTED)) == 1
    assert len(model.expressions) == 1, "nobody waits for a check, as verify_period is 0"


def test_words_said_again_are_looked_up_again_at_once() -> None:
    model = asked_model()
    live = LiveTracker(model, LiveConfig(verify_period=1000.0))
    clip = frames(6)
    live.track("the mug")
    for frame in clip[:4]:
        live.process(frame)
    assert len(model.expressions) == 1
    live.track("the mug")
    live.process(clip[4])
    assert len(model.expressions) == 2


def test_an_ended_track_begins_anew() -> None:
    live = LiveTracker(nano_model(answers=False), QUIET)
    clip = frames(4)
    live.track("the mug")
    first = live.process(clip[0])
    assert first.tracks[0].state == TrackState.NOT_FOUND
    assert live.track("the mug") == "mug_2"


class Impatient(Sa2VA):
    """Somebody says the words again while they are looked up; the first time there is nothing."""

    live: LiveTracker
    asked: int

    def ground(self, frames: Sequence[np.ndarray], expression: str) -> GroundingResult:  # type: ignore[override]
        """Nothing, then something."""
        self.asked += 1
        reply = super().ground(frames, expression)
        if self.asked > 1:
            return reply
        assert self.live.track(expression) == "mug"
        return replace(reply, embeddings=reply.embeddings[:0])


def test_words_said_again_while_their_track_ends_start_it_again() -> None:
    model = nano_model()
    model.__class__ = Impatient
    assert isinstance(model, Impatient)
    model.live, model.asked = LiveTracker(model, QUIET), 0
    clip = frames(2)
    model.live.track("the mug")
    results = [model.live.process(frame) for frame in clip]
    told = [event.kind for result in results for event in result.events]
    assert told == [
        EventKind.STARTED,
        EventKind.NOT_FOUND,
        EventKind.STARTED,
        EventKind.FOUND,
    ]
    assert [track.id for track in results[-1].tracks] == ["mug"]


def test_replace_keeps_the_track_that_is_meant() -> None:
    live = LiveTracker(nano_model(), QUIET)
    clip = frames(3)
    live.prompt(box=LEFT, label="box")
    live.track("the mug")
    live.process(clip[0])
    assert live.track("the mug", replace=True) == "mug"
    result = live.process(clip[1])
    (stopped,) = events([result], EventKind.STOPPED)
    assert (stopped.track_id, stopped.reason, stopped.other_id) == ("box", Reason.REPLACED, "mug")
    assert [t.id for t in result.tracks if t.state == TrackState.TRACKING] == ["mug"]


def test_another_id_on_the_same_pixels_ends_as_a_duplicate() -> None:
    live = LiveTracker(nano_model(), QUIET)
    clip = frames(4)
    live.track("the mug")
    live.process(clip[0])
    assert live.track("the mug", track_id="goal 7") == "goal_7"
    result = live.process(clip[1])
    (stopped,) = events([result], EventKind.STOPPED)
    assert (stopped.track_id, stopped.reason, stopped.other_id) == (
        "goal_7",
        Reason.DUPLICATE,
        "mug",
    )
    assert [track.id for track in live.process(clip[2]).tracks] == ["mug"]


def test_a_second_click_on_the_same_object_is_the_same_track() -> None:
    live = LiveTracker(nano_model(), QUIET)
    clip = frames(3)
    live.prompt(box=LEFT)
    live.process(clip[0])
    live.prompt(box=LEFT)
    live.prompt(mask=np.arange(40)[None].repeat(30, 0) > 25)
    result = live.process(clip[1])
    (stopped,) = events([result], EventKind.STOPPED)
    assert (stopped.track_id, stopped.reason) == ("object_2", Reason.DUPLICATE)
    assert [track.id for track in live.process(clip[2]).tracks] == ["object", "object_3"]


def test_other_words_on_the_same_pixels_are_another_track() -> None:
    live = LiveTracker(nano_model(), QUIET)
    live.prompt(box=LEFT, label="cup")
    live.prompt(box=LEFT, label="vessel")
    result = live.process(frames(1)[0])
    assert [track.state for track in result.tracks] == [TrackState.TRACKING] * 2


def test_duplicates_may_be_wanted() -> None:
    live = LiveTracker(nano_model(), APART)
    names = [live.track("the mug"), live.track("the mug")]
    result = live.process(frames(1)[0])
    assert names == ["mug", "mug_2"]
    assert [track.state for track in result.tracks] == [TrackState.TRACKING] * 2


def test_an_overlap_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="duplicate_overlap is 0; expected above 0, at most 1"):
        LiveConfig(duplicate_overlap=0)


@pytest.mark.parametrize(("phrase", "label"), [("a white mug", "a white mug"), ("", "the mug")])
def test_a_track_is_called_what_was_named(phrase: str, label: str) -> None:
    """The answer to a referring question is "Sure, it is [SEG].", which names nothing."""
    live = LiveTracker(asked_model(phrase), QUIET)
    live.track("the mug")
    result = live.process(frames(1)[0])
    (found,) = events([result], EventKind.FOUND)
    assert (found.detail, result.tracks[0].label) == (label, label)


@pytest.mark.parametrize("from_text", [True, False])
def test_found_carries_the_score_of_the_first_mask(from_text: bool) -> None:
    live = LiveTracker(nano_model(), QUIET)
    if from_text:
        live.track("the mug")
    else:
        live.prompt(box=LEFT)
    result = live.process(frames(1)[0])
    (found,) = events([result], EventKind.FOUND)
    assert found.score == result.tracks[0].score > 0
    assert found.reason == (Reason.WORDS if from_text else Reason.POINTED)


class Taught(Sa2VA):
    """Knows no zorblax, and answers so without asking its language model."""

    def ground(self, frames: Sequence[np.ndarray], expression: str) -> GroundingResult:  # type: ignore[override]
        """Nothing, and why."""
        reply = super().ground(frames, expression)
        none = reply.embeddings[:0]
        return replace(
            reply, text="I do not know 'zorblax'.", embeddings=none, unknown=("zorblax",)
        )


def test_a_word_that_the_model_cannot_know_is_the_reason() -> None:
    model = nano_model()
    model.__class__ = Taught
    live = LiveTracker(model, QUIET)
    live.track("the zorblax")
    (event,) = events([live.process(frames(1)[0])], EventKind.NOT_FOUND)
    assert (event.reason, event.detail) == (Reason.UNKNOWN_WORD, "I do not know 'zorblax'.")
