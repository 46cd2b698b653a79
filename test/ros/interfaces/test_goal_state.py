# SPDX-License-Identifier: Apache-2.0
"""When a TrackExpression goal ends, and with which code; without ROS."""

from __future__ import annotations

import pytest

from sa2va_model.tracks import Event, EventKind, Reason, Track, TrackState
from sa2va_ros.interfaces.goal_state import ErrorCode, GoalLimits, GoalStage, GoalWatch


def event(
    kind: EventKind, detail: str = "", track_id: str = "mug", reason: Reason = Reason.NONE
) -> Event:
    return Event(kind, track_id, "the mug", 0.0, 0, detail=detail, reason=reason)


def track(state: TrackState) -> Track:
    return Track("mug", "the mug", state)


def started(limits: GoalLimits) -> GoalWatch:
    watch = GoalWatch("mug", limits, 0.0)
    stages, outcome = watch.frame([track(TrackState.PENDING)], [event(EventKind.STARTED)], 0.1)
    assert (stages, outcome) == ([GoalStage.GROUNDING], None)
    return watch


def test_from_waiting_to_tracking_and_back_from_a_loss() -> None:
    watch = started(GoalLimits(acquire=2.0))
    found = [event(EventKind.FOUND, "It is there.")]
    stages, outcome = watch.frame([track(TrackState.TRACKING)], found, 0.2)
    assert (stages, outcome) == ([GoalStage.CATCHING_UP, GoalStage.TRACKING], None)
    assert watch.model_text == "It is there."
    for state, stage in (
        (TrackState.OCCLUDED, GoalStage.SEARCHING),
        (TrackState.LOST, GoalStage.SEARCHING),
        (TrackState.TRACKING, GoalStage.TRACKING),
    ):
        assert watch.frame([track(state)], [], 1.0) == ([stage], None)
    assert watch.tick(100.0) is None  # no limit of time


@pytest.mark.parametrize(
    ("happened", "code"),
    [
        (event(EventKind.NOT_FOUND, "no"), ErrorCode.NOT_FOUND),
        (event(EventKind.FAILED, "no"), ErrorCode.MODEL_ERROR),
        (event(EventKind.FAILED, "no", reason=Reason.LIMIT), ErrorCode.FULL),
        (event(EventKind.FAILED, "no", reason=Reason.INPUT), ErrorCode.BAD_GOAL),
        (event(EventKind.STOPPED, "no"), ErrorCode.CANCELED),
        (event(EventKind.MEMORY_RESET, "no", ""), ErrorCode.LOST),
        (event(EventKind.STOPPED, "no", "another"), None),
    ],
)
def test_events_end_it(happened: Event, code: ErrorCode | None) -> None:
    watch = started(GoalLimits(acquire=2.0))
    _, outcome = watch.frame([track(TrackState.PENDING)], [happened], 0.2)
    assert (outcome.code if outcome else None) == code
    assert outcome is None or "no" in outcome.reason


def test_the_end_of_an_older_track_of_the_same_name_is_not_its_own() -> None:
    watch = GoalWatch("mug", GoalLimits(acquire=2.0), 0.0)
    old, new = event(EventKind.STOPPED), event(EventKind.STARTED)
    stages, outcome = watch.frame([track(TrackState.PENDING)], [old, new], 0.1)
    assert (stages, outcome) == ([GoalStage.GROUNDING], None)


def test_time_begins_with_a_simulated_clock() -> None:
    watch = GoalWatch("mug", GoalLimits(acquire=2.0), 0.0)
    assert watch.tick(0.0) is None
    assert watch.tick(1.7e9) is None
    assert watch.tick(1.7e9 + 1.9) is None
    assert watch.tick(1.7e9 + 2.0) is not None
    tracked = GoalWatch("mug", GoalLimits(acquire=2.0, duration=5.0), 0.0)
    happened = [event(EventKind.STARTED), event(EventKind.FOUND)]
    tracked.frame([track(TrackState.TRACKING)], happened, 0.0)
    assert tracked.tick(1.7e9) is None
    assert tracked.tick(1.7e9 + 5.0) is not None


def test_time_limits() -> None:
    watch = GoalWatch("mug", GoalLimits(acquire=2.0), 10.0)
    assert watch.tick(11.9) is None
    outcome = watch.tick(12.0)
    assert outcome is not None
    assert outcome.code is ErrorCode.NO_IMAGE

    watch = started(GoalLimits(acquire=2.0))
    outcome = watch.tick(2.1)
    assert outcome is not None
    assert outcome.code is ErrorCode.TIMEOUT

    watch = started(GoalLimits(acquire=2.0, duration=5.0))
    watch.frame([track(TrackState.TRACKING)], [event(EventKind.FOUND)], 1.0)
    assert watch.frame([track(TrackState.LOST)], [], 3.0)[1] is None
    assert watch.frame([track(TrackState.LOST)], [], 4.9)[1] is None
    lost = watch.frame([track(TrackState.LOST)], [], 5.0)[1]
    assert lost is not None
    assert lost.code is ErrorCode.LOST
    watch.frame([track(TrackState.TRACKING)], [], 5.5)
    done = watch.tick(6.0)
    assert done is not None
    assert done.code is ErrorCode.NONE


def test_one_shot_ends_with_the_first_mask() -> None:
    watch = started(GoalLimits(acquire=2.0, stop_when_found=True))
    found = [event(EventKind.FOUND)]
    stages, outcome = watch.frame([track(TrackState.TRACKING)], found, 0.2)
    assert stages == [GoalStage.CATCHING_UP, GoalStage.TRACKING]
    assert outcome is not None
    assert outcome.code is ErrorCode.NONE


def test_a_goal_on_a_track_that_lives_ends_with_the_next_mask() -> None:
    limits = GoalLimits(acquire=2.0, stop_when_found=True)
    watch = GoalWatch("mug", limits, 0.0, started=True)
    assert watch.shared
    assert watch.frame([track(TrackState.LOST)], [], 0.1)[1] is None
    stages, outcome = watch.frame([track(TrackState.TRACKING)], [], 0.2)
    assert stages == [GoalStage.TRACKING]
    assert outcome is not None
    assert outcome.code is ErrorCode.NONE


def test_codes_and_stages_are_those_of_the_action_files() -> None:
    from sa2va_ros.action import AskScene, TrackExpression

    for code in ErrorCode:
        assert getattr(TrackExpression.Result, code.name) == code
        assert getattr(AskScene.Result, code.name, code) == code
    for stage in GoalStage:
        assert getattr(TrackExpression.Feedback, stage.name) == stage
