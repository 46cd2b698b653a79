# SPDX-License-Identifier: Apache-2.0
"""Actions and services that other threads work on, beside a single-threaded executor.

rclpy runs a goal, and what answers a service, as a task of the executor. A blocking one would stop the node, and a
waiting one (`await`) has Jazzy's executor turn without pause until it is done. Here a goal that begins is only marked
as executing, and the task that hands over its result is made when there is one; a service's request is answered by
a task that is made when the answer is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.qos import QoSProfile, ReliabilityPolicy

# The usual depth of 10 loses requests without a word when more come than the executor has turns for; and answers at a
# client, because the answers to all clients of a service are one topic: those to others push its own out.
REQUESTS = QoSProfile(depth=512, reliability=ReliabilityPolicy.RELIABLE)


class DeferredActionServer(ActionServer):
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
            goal_service_qos_profile=REQUESTS,
            cancel_service_qos_profile=REQUESTS,
            result_service_qos_profile=REQUESTS,
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
    raise RuntimeError("a goal is ended by DeferredActionServer.finish")


class Later:
    """Returned by a service's callback in place of an answer that another thread will `give`, once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answer: Any = None
        self._send: Callable[[Any], None] | None = None

    def give(self, answer: Any) -> None:
        """The answer, from any thread."""
        with self._lock:
            self._answer = answer
            send = self._send
        if send is not None:
            send(answer)

    def _sent_by(self, send: Callable[[Any], None]) -> None:
        with self._lock:
            self._send = send
            answer = self._answer
        if answer is not None:
            send(answer)


def create_deferred_service(
    node: Any, kind: Any, name: str, callback: Callable[[Any, Any], Any]
) -> Any:
    """A service whose callback may return a `Later` in place of the answer."""
    service = node.create_service(kind, name, callback, qos_profile=REQUESTS)
    let_wait(node, service)
    return service


def let_wait(node: Any, service: Any) -> None:
    """Have a service send a `Later` when it is given, and anything else at once."""
    send_now = service.send_response

    def send(response: Any, header: Any) -> None:
        if not isinstance(response, Later):
            send_now(response, header)
            return

        def on_executor(answer: Any) -> None:
            executor = node.executor
            if executor is not None:  # None: the node ends, nobody waits for the answer any more
                executor.create_task(send_now, answer, header)

        response._sent_by(on_executor)

    service.send_response = send
