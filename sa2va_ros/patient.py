# SPDX-License-Identifier: Apache-2.0
"""An action server for goals that other threads work on, beside a single-threaded executor.

rclpy runs a goal as a task of the executor. A blocking one would stop the node, and a waiting one
(`await`) has Jazzy's executor turn without pause until it is done. Here a goal that begins is only
marked as executing, and the task that hands over its result is made when there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle


class PatientServer(ActionServer):
    """Calls `begin(goal)` for each accepted goal; `finish` ends it later, from any thread."""

    def __init__(
        self, node: Any, kind: Any, name: str, begin: Callable[[ServerGoalHandle], None]
    ) -> None:
        self._begin = begin
        super().__init__(
            node,
            kind,
            name,
            execute_callback=_never,
            handle_accepted_callback=self._accepted,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def _accepted(self, goal: ServerGoalHandle) -> None:
        goal.execute()
        self._begin(goal)

    def notify_execute(self, goal_handle: ServerGoalHandle, execute_callback: Any) -> None:
        """A goal executes: nothing to do before its end."""
        if execute_callback is not None:
            super().notify_execute(goal_handle, execute_callback)

    def finish(self, goal: ServerGoalHandle, result: Any, *, succeeded: bool) -> None:
        """End a goal: cancelled if that was asked for, else succeeded or aborted."""

        def hand_over(handle: ServerGoalHandle) -> Any:
            if handle.is_cancel_requested:
                handle.canceled()
            elif succeeded:
                handle.succeed()
            else:
                handle.abort()
            return result

        self.notify_execute(goal, hand_over)


def _never(goal: ServerGoalHandle) -> Any:
    raise RuntimeError("a goal is ended by PatientServer.finish")
