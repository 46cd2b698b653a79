# SPDX-License-Identifier: Apache-2.0
"""The life of one TrackExpression goal: which stage it is in, and when and how it ends. No ROS.

Times are seconds of the node's clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from sa2va_model.tracks import Event, EventKind, Reason, Track, TrackState


class GoalStage(IntEnum):
    """As in `TrackExpression.action`."""

    WAITING_IMAGE = 0
    GROUNDING = 1
    CATCHING_UP = 2
    TRACKING = 3
    SEARCHING = 4


class ErrorCode(IntEnum):
    """As in `TrackExpression.action` and `AskScene.action`."""

    NONE = 0
    NOT_FOUND = 1101
    LOST = 1102
    TIMEOUT = 1103
    NO_IMAGE = 1104
    MODEL_ERROR = 1105
    CANCELED = 1106
    FULL = 1107
    NOT_ACTIVE = 1108
    BAD_GOAL = 1109


# What a FAILED event means for a goal; everything else is the model's fault.
_FAILED = {Reason.LIMIT: ErrorCode.FULL, Reason.INPUT: ErrorCode.BAD_GOAL}


@dataclass(frozen=True)
class Outcome:
    """How a goal ended."""

    code: ErrorCode
    reason: str = ""


@dataclass(frozen=True)
class GoalLimits:
    """What the goal asked for.

    Attributes:
        acquire: seconds to the first mask, and to find a lost object again.
        duration: seconds of tracking; 0 = until cancelled.
        stop_when_found: end with the first mask.
    """

    acquire: float
    duration: float = 0.0
    stop_when_found: bool = False


class GoalWatch:
    """Follows one track for one goal.

    Times are seconds of the node's clock. 0 means that of a simulated clock nothing was heard yet: what happened so far
    happened when it is.

    Args:
        started: the track lived before the goal. Otherwise what happens before it has STARTED belongs to an
            older track of the same id.

    Attributes:
        stage: where it is now.
        shared: the track was there before the goal, for somebody else.
        model_text: the model's own words for the object.
    """

    def __init__(
        self, track_id: str, limits: GoalLimits, now: float, *, started: bool = False
    ) -> None:
        self.track_id, self._limits = track_id, limits
        self._started = self.shared = started
        self.stage = GoalStage.WAITING_IMAGE
        self.model_text = ""
        self._began = now
        self._found: float | None = None
        self._lost: float | None = None

    def frame(
        self, tracks: Iterable[Track], events: Iterable[Event], now: float
    ) -> tuple[list[GoalStage], Outcome | None]:
        """One processed image.

        Returns:
            The stages the goal went through on it, at least one; and how it ended, if it did.
        """
        stages: list[GoalStage] = []
        if self.stage is GoalStage.WAITING_IMAGE:
            stages.append(self._enter(GoalStage.GROUNDING))
        for event in events:
            outcome = self._happened(event, stages, now)
            if outcome is not None:
                return stages or [self.stage], outcome
        track = next((t for t in tracks if t.id == self.track_id), None)
        if track is not None and self._started:
            self._saw(track, stages, now)
            if self._limits.stop_when_found and self.stage is GoalStage.TRACKING:
                return stages, Outcome(ErrorCode.NONE, "found")
        return stages or [self.stage], self.tick(now)

    def tick(self, now: float) -> Outcome | None:
        """Whether the goal's time is over."""
        self._hear_clock(now)
        limits = self._limits
        if self._found is None:
            if now - self._began < limits.acquire:
                return None
            if self.stage is GoalStage.WAITING_IMAGE:
                reason = f"no camera image in {limits.acquire:g} s"
                return Outcome(ErrorCode.NO_IMAGE, reason)
            return Outcome(ErrorCode.TIMEOUT, f"not found in {limits.acquire:g} s")
        if self._lost is not None and now - self._lost >= limits.acquire:
            return Outcome(ErrorCode.LOST, f"lost, and not found again in {limits.acquire:g} s")
        if limits.duration and now - self._found >= limits.duration:
            return Outcome(ErrorCode.NONE, f"tracked for {limits.duration:g} s")
        return None

    def _hear_clock(self, now: float) -> None:
        if now and not self._began:
            self._began = now
            self._found = None if self._found is None else now
            self._lost = None if self._lost is None else now

    def _enter(self, stage: GoalStage) -> GoalStage:
        self.stage = stage
        return stage

    def _happened(self, event: Event, stages: list[GoalStage], now: float) -> Outcome | None:
        if event.kind is EventKind.MEMORY_RESET:
            return Outcome(ErrorCode.LOST, f"all tracks were reset: {event.detail}")
        if event.track_id != self.track_id:
            return None
        if event.kind is EventKind.FAILED:
            return Outcome(_FAILED.get(event.reason, ErrorCode.MODEL_ERROR), event.detail)
        self._started |= event.kind is EventKind.STARTED
        if not self._started:
            return None
        if event.kind is EventKind.NOT_FOUND:
            self.model_text = event.detail
            reason = event.detail or "the model sees no such object"
            return Outcome(ErrorCode.NOT_FOUND, reason)
        if event.kind is EventKind.STOPPED and event.reason is Reason.DUPLICATE:
            self.shared = True
            self.track_id = event.other_id  # the same object, which was tracked already
            return None
        if event.kind is EventKind.STOPPED:
            return Outcome(ErrorCode.CANCELED, f"the track was stopped: {event.detail}")
        if event.kind is EventKind.FOUND:
            self._found, self.model_text = now, event.detail
            stages.append(self._enter(GoalStage.CATCHING_UP))
            stages.append(self._enter(GoalStage.TRACKING))
            if self._limits.stop_when_found:
                return Outcome(ErrorCode.NONE, "found")
        return None

    def _saw(self, track: Track, stages: list[GoalStage], now: float) -> None:
        if track.state is TrackState.LOST:
            self._lost = now if self._lost is None else self._lost
        else:
            self._lost = None
        if track.state is TrackState.TRACKING and self._found is None:
            self._found, self.model_text = now, track.label  # it was tracked before the goal came
        seen = {
            TrackState.PENDING: GoalStage.GROUNDING,
            TrackState.TRACKING: GoalStage.TRACKING,
            TrackState.OCCLUDED: GoalStage.SEARCHING,
            TrackState.LOST: GoalStage.SEARCHING,
        }.get(track.state, self.stage)
        if seen is not self.stage:
            stages.append(self._enter(seen))
