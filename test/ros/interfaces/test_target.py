# SPDX-License-Identifier: Apache-2.0
"""The target is chosen and never guessed."""

from __future__ import annotations

import pytest

from sa2va_model.tracks import Event, EventKind, Track, TrackState
from sa2va_ros.interfaces.target import TargetChoice

SEEN, PENDING, LOST = TrackState.TRACKING, TrackState.PENDING, TrackState.LOST
GONE = TrackState.NOT_FOUND


def track(name: str, state: TrackState = SEEN) -> Track:
    seen = None if state in (PENDING, GONE) else 1.0
    return Track(name, f"the {name}", state, first_seen=seen)


def test_the_first_one_seen_is_the_target_and_stays_it() -> None:
    choice = TargetChoice()
    assert choice.observe([track("mug", PENDING), track("bowl")]) == track("bowl")
    assert choice.observe([track("mug"), track("bowl")]) == track("bowl")
    assert choice.observe([track("mug"), track("bowl", LOST)]) == track("bowl", LOST)
    assert choice.observe([track("mug"), track("bowl"), track("can")]) == track("bowl")
    assert choice.id == "bowl"


@pytest.mark.parametrize("end", [[], [track("mug", GONE)], [track("mug", TrackState.STOPPED)]])
def test_when_it_ends_there_is_none_until_somebody_chooses(end: list[Track]) -> None:
    choice = TargetChoice()
    choice.observe([track("mug")])
    assert choice.observe([*end, track("bowl")]) is None
    assert choice.observe([track("bowl"), track("can")]) is None
    assert choice.id == ""
    choice.choose("can")
    assert choice.observe([track("bowl"), track("can")]) == track("can")


def test_a_chosen_one_may_be_about_to_start() -> None:
    choice = TargetChoice()
    choice.observe([track("mug")])
    choice.choose("bowl")
    assert choice.id == "bowl"
    assert choice.observe([track("mug")]) is None  # and not the mug
    assert choice.observe([track("mug"), track("bowl", PENDING)]) == track("bowl", PENDING)
    assert choice.observe([track("mug"), track("bowl", GONE)]) is None
    assert choice.observe([track("mug")]) is None


def test_a_chosen_one_that_never_starts_is_not_waited_for() -> None:
    choice = TargetChoice()
    choice.choose("bowl")
    full = Event(EventKind.FAILED, "bowl", "the bowl", 0.0, 0)
    other = Event(EventKind.FAILED, "can", "the can", 0.0, 0)
    assert choice.observe([track("mug")], [other]) is None
    assert choice.id == "bowl"
    assert choice.observe([track("mug")], [full]) is None
    assert choice.id == ""
    choice.choose("bowl")
    assert choice.observe([track("bowl", GONE)]) is None  # on the first image that shows it
    assert choice.id == ""


def test_it_may_be_named_before_there_is_one() -> None:
    choice = TargetChoice()
    choice.choose_named("THE bowl")
    assert choice.observe([track("mug")]) is None
    assert choice.observe([track("mug"), track("bowl")]) == track("bowl")
    choice.choose_named("mug")
    assert choice.observe([track("mug"), track("bowl")]) == track("mug")


def test_somebody_may_want_the_first_one_or_none() -> None:
    choice = TargetChoice()
    choice.observe([track("mug")])
    choice.drop()
    assert choice.observe([track("mug")]) is None
    choice.choose_first()
    assert choice.observe([track("mug")]) == track("mug")
