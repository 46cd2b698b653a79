# SPDX-License-Identifier: Apache-2.0
"""The action TrackExpression: take what I describe, keep it, and tell me when it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration

from sa2va_model.errors import InputError
from sa2va_ros.action import TrackExpression
from sa2va_ros.interfaces.commands import Router
from sa2va_ros.interfaces.goal_state import ErrorCode, GoalLimits, GoalWatch, Outcome, Stage
from sa2va_ros.messages import tracks as conversions_tracks
from sa2va_ros.msg import Track
from sa2va_ros.support.deferred import DeferredActionServer

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
        node.create_timer(TICK, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

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
        request = handle.request
        try:
            self._active()
            limits = GoalLimits(
                acquire=_seconds(request.acquire_timeout)
                or self._node.get_parameter("acquire_timeout").value,
                duration=_seconds(request.max_duration),
                stop_when_found=request.stop_when_found,
            )
            name, refined = self._start(request)
        except InputError as error:
            self._node.get_logger().warning(f"goal refused: {error}")
            result = _result(Outcome(ErrorCode.MODEL_ERROR, str(error)), Track())
            self._server.finish(handle, result, succeeded=False)
            return
        track = Track(id=name, expression=request.expression, state=Track.STATE_PENDING)
        watch = GoalWatch(name, limits, self._now(), started=refined)
        goal = _Goal(handle, watch, request.continue_after_goal, track)
        with self._lock:
            self._goals[bytes(handle.goal_id.uuid)] = goal
        self._feedback(goal, Stage.WAITING_IMAGE)

    def _start(self, request: Any) -> tuple[str, bool]:
        """The goal's track, and whether it was there before."""
        if request.expression.strip():
            return self._router.track(request.expression), False
        if not (request.prompt.x or request.prompt.box.width or request.prompt.mask.data):
            raise InputError("goal has neither an expression nor a prompt; expected one of them")
        name = self._router.prompt(**conversions_tracks.prompt_arguments(request.prompt))
        return name, bool(request.prompt.track_id)

    def _tick(self) -> None:
        for key, goal in self._snapshot():
            if goal.handle.is_cancel_requested:
                self._end(key, Outcome(ErrorCode.CANCELED, "cancelled by the client"))
            else:
                with self._lock:
                    outcome = goal.watch.tick(self._now())
                if outcome is not None:
                    self._end(key, outcome)

    def _feedback(self, goal: _Goal, stage: Stage) -> None:
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
        if not (goal.keep and (success or outcome.code is ErrorCode.CANCELED)):
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
