# SPDX-License-Identifier: Apache-2.0
"""The action TrackExpression: take what I describe, keep it, and tell me when it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rclpy.duration import Duration

from sa2va_model.errors import InputError
from sa2va_ros.action import TrackExpression
from sa2va_ros.interfaces.commands import Router, clean_name, clean_text, object_words
from sa2va_ros.interfaces.goal_state import ErrorCode, GoalLimits, GoalStage, GoalWatch, Outcome
from sa2va_ros.messages import tracks as conversions_tracks
from sa2va_ros.msg import Track
from sa2va_ros.support.deferred import DeferredActionServer
from sa2va_ros.support.ticker import Ticker

if TYPE_CHECKING:
    from rclpy.action.server import ServerGoalHandle
    from rclpy.node import Node

    from sa2va_ros.node.pipeline import PublishedFrame

TICK = 0.05  # seconds between two looks at the clock and at cancellations


@dataclass
class _Goal:
    """A goal in work."""

    handle: ServerGoalHandle
    watch: GoalWatch
    keep: bool
    track: Track


@dataclass(frozen=True)
class _Wanted:
    """What a goal asks for: words or a prompt, for a track that lives or a new one."""

    track_id: str
    expression: str
    lives: bool
    prompt: dict[str, Any] | None = None


class TrackAction:
    """Serves the action; goals follow the images that are published.

    Args:
        active: raises InputError with the reason while the node cannot work on goals.
    """

    def __init__(self, node: Node, router: Router, active: Callable[[], None]) -> None:
        self._node, self._router, self._active = node, router, active
        self._goals: dict[bytes, _Goal] = {}
        self._lock = threading.Lock()
        self._server = DeferredActionServer(
            node, TrackExpression, "~/track_expression", self._begin
        )
        # Wall time only wakes us; how long a goal took is told by the node's clock.
        self._ticker = Ticker(node, TICK, self._tick, wanted=self.busy)

    def busy(self) -> bool:
        """Whether a goal is in work."""
        return bool(self._goals)

    def observe(self, latest: PublishedFrame) -> None:
        """One published image, on the worker thread."""
        result, now = latest.result, self._now()
        for key, goal in self._snapshot():
            with self._lock:
                stages, outcome = goal.watch.frame(result.tracks, result.events, now)
            found = (t for t in latest.tracks.tracks if t.id == goal.watch.track_id)
            goal.track = next(found, goal.track)
            for stage in stages:
                self._feedback(goal, stage)
            if outcome is not None:
                self._end(key, outcome)

    def cancel_all(self, reason: str) -> None:
        """End every goal, as when the node is deactivated."""
        for key, _ in self._snapshot():
            self._end(key, Outcome(ErrorCode.CANCELED, reason))

    def _now(self) -> float:
        return float(self._node.get_clock().now().nanoseconds / 1e9)

    def _snapshot(self) -> list[tuple[bytes, _Goal]]:
        with self._lock:
            return list(self._goals.items())

    def _begin(self, handle: ServerGoalHandle) -> None:
        request, code = handle.request, ErrorCode.NOT_ACTIVE
        try:
            self._active()
            code = ErrorCode.BAD_GOAL
            limits = GoalLimits(
                acquire=_seconds(request.acquire_timeout)
                or self._node.get_parameter("acquire_timeout").value,
                duration=_seconds(request.max_duration),
                stop_when_found=request.stop_when_found,
            )
            wanted = self._understand(request)
            code = ErrorCode.FULL
            name, lives = self._start(request, wanted)
        except InputError as error:
            self._node.get_logger().warning(f"goal refused: {error}")
            self._server.finish(
                handle, _result(Outcome(code, str(error)), Track()), succeeded=False
            )
            return
        track = Track(id=name, expression=wanted.expression, state=Track.STATE_PENDING)
        watch = GoalWatch(name, limits, self._now(), started=lives)
        goal = _Goal(handle, watch, request.continue_after_goal, track)
        with self._lock:
            self._goals[bytes(handle.goal_id.uuid)] = goal
        self._ticker.wake()
        self._feedback(goal, GoalStage.WAITING_IMAGE)

    def _understand(self, request: Any) -> _Wanted:
        """What a goal wants.

        Raises:
            InputError: it is not one thing.
        """
        words = request.expression.strip()
        words = object_words(clean_text(words, "expression")) if words else ""
        name = clean_name(request.track_id)
        living = self._router.living(name) if name else None
        if words and living is not None and living.expression.casefold() != words.casefold():
            raise InputError(
                f"track '{name}' is '{living.expression}'; expected the same words, or another track_id"
            )
        if words:
            return _Wanted(name, words, living is not None)
        shown = request.prompt
        if shown.x or shown.box.width or shown.mask.data or shown.object:
            prompt = conversions_tracks.prompt_arguments(shown)
            refined = prompt["track_id"] is not None
            return _Wanted(name, prompt["label"], refined, prompt)
        if name and living is None:
            raise InputError(f"there is no track '{name}'; expected an expression, to begin one")
        if living is None:
            raise InputError("goal has neither an expression nor a prompt; expected one of them")
        return _Wanted(name, living.expression, lives=True)

    def _start(self, request: Any, wanted: _Wanted) -> tuple[str, bool]:
        """Begin the goal's track, or go on with one that lives; its id, and whether it lived before."""
        select, lives = not request.keep_target, wanted.lives
        if wanted.prompt is not None:
            name = self._router.prompt(**wanted.prompt)
        elif lives:
            name = wanted.track_id
        else:
            before = self._router.living_ids()
            name = self._router.track(
                wanted.expression, track_id=wanted.track_id, replace=request.replace
            )
            lives = name in before  # the words of a track that lives mean that track
        if request.replace:
            self._router.stop_others(name)
        if select:
            self._router.choose(name)
        return name, lives

    def _watched(self, track_id: str) -> bool:
        """Whether another goal is at this track."""
        return any(goal.watch.track_id == track_id for _, goal in self._snapshot())

    def _tick(self) -> None:
        for key, goal in self._snapshot():
            if goal.handle.is_cancel_requested:
                self._end(key, Outcome(ErrorCode.CANCELED, "cancelled by the client"))
            else:
                with self._lock:
                    outcome = goal.watch.tick(self._now())
                if outcome is not None:
                    self._end(key, outcome)

    def _feedback(self, goal: _Goal, stage: GoalStage) -> None:
        goal.handle.publish_feedback(
            TrackExpression.Feedback(
                stage=int(stage), track=goal.track, model_text=goal.watch.model_text
            )
        )

    def _end(self, key: bytes, outcome: Outcome) -> None:
        """Hand over the result, once, and stop the track unless it was to be kept."""
        with self._lock:
            goal = self._goals.pop(key, None)
        if goal is None:
            return
        success = outcome.code is ErrorCode.NONE
        keep = goal.keep and (goal.watch.shared or success or outcome.code is ErrorCode.CANCELED)
        if not keep and not self._watched(goal.watch.track_id):
            with suppress(InputError):  # it may have ended by itself
                self._router.stop(goal.watch.track_id)
        if outcome.reason:
            self._node.get_logger().info(f"goal '{goal.watch.track_id}': {outcome.reason}")
        self._server.finish(goal.handle, _result(outcome, goal.track), succeeded=success)


def _result(outcome: Outcome, track: Track) -> TrackExpression.Result:
    return TrackExpression.Result(
        error_code=int(outcome.code), error_msg=outcome.reason, track=track
    )


def _seconds(message: Any) -> float:
    """A `builtin_interfaces/Duration` in seconds.

    Raises:
        InputError: it is negative.
    """
    seconds = float(Duration.from_msg(message).nanoseconds / 1e9)
    if seconds < 0:
        raise InputError(f"duration is {seconds:g} s; expected 0 or more")
    return seconds
