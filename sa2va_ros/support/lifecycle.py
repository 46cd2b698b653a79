# SPDX-License-Identifier: Apache-2.0
"""A managed node that answers during its transitions, and that no request for one can end.

rclpy runs a transition within the request for it: a node that loads a model in `on_configure` is deaf for minutes, one
that waits for a slow image in `on_deactivate` for seconds, and a transition that is not allowed now raises through the
executor. Here a transition is work on a thread: the state is `configuring`, `deactivating` … meanwhile, everything else
is answered, and so is the request when the work is done. What is not allowed is answered with False.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from sa2va_ros.support.background_work import BackgroundWork
from sa2va_ros.support.deferred import Later, let_wait

POLL = 0.05  # seconds between two looks at the work
TELL = 5.0  # seconds between two signs of life

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
SHUTDOWNS = (
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    Transition.TRANSITION_INACTIVE_SHUTDOWN,
    Transition.TRANSITION_ACTIVE_SHUTDOWN,
)

Done = Callable[[bool], None]


@dataclass(frozen=True)
class DeferredTransition:
    """One transition.

    Attributes:
        begin: what is done at once, on the executor's thread; returns what is done on a thread, or raises what `end`
            is to be told.
        end: takes over the outcome, on the executor's thread; told the error that the work ended with.
        doing: what a log says of it while it lasts.
    """

    begin: Callable[[], Callable[[], object]]
    end: Callable[[BaseException | None], TransitionCallbackReturn]
    doing: str


class DeferredLifecycleNode(LifecycleNode):
    """Its transitions are those of `transitions`; of rclpy's callbacks only `on_error` is used.

    Attributes:
        working: the work of the transition that goes on; None between transitions.

    Args:
        options: of rclpy's Node.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.working: BackgroundWork | None = None
        service = self._service_change_state
        service.callback = self._on_change_state
        let_wait(self, service)

    @abstractmethod
    def transitions(self) -> Mapping[int, DeferredTransition]:
        """Return all transitions by their numbers."""

    def begin_transition(self, number: int, done: Done) -> None:
        """Go through a transition; `done` is told whether that worked, on the executor's thread.

        Raises:
            RCLError: not allowed in this state.
        """
        transition, before = self.transitions()[number], self._state_machine.current_state
        self._state_machine.trigger_transition_by_id(number, True)

        def end(error: BaseException | None) -> None:
            done(self._end(transition, LifecycleState(state_id=before[0], label=before[1]), error))

        try:
            work = transition.begin()
        except Exception as error:  # noqa: BLE001 - told where it is taken over
            end(error)
            return
        self.working = BackgroundWork(work, name=transition.doing)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        timer: Any = None

        def poll() -> None:
            working = self.working
            if working is None or not working.ended:
                if working is not None and working.sign_of_life(TELL):
                    self.get_logger().info(f"still {transition.doing}")
                return
            self.destroy_timer(timer)
            self.working = None
            end(working.error)

        timer = self.create_timer(POLL, poll, clock=steady)

    def _end(
        self, transition: DeferredTransition, before: LifecycleState, error: BaseException | None
    ) -> bool:
        try:
            result = transition.end(error)
        except Exception as problem:  # noqa: BLE001 - as rclpy does with any transition
            name = type(problem).__name__
            self.get_logger().error(f"{transition.doing} failed: {name}: {problem}")
            result = TransitionCallbackReturn.ERROR
        self._state_machine.trigger_transition_by_label(result.to_label(), True)
        if result == TransitionCallbackReturn.ERROR:
            recovered = self.on_error(before)
            self._state_machine.trigger_transition_by_label(recovered.to_label(), True)
        return bool(result == TransitionCallbackReturn.SUCCESS)

    def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response | Later:
        response.success = False
        number = self._number(request.transition)
        if number is None:
            label = self._state_machine.current_state[1]
            wanted = request.transition.label or request.transition.id
            self.get_logger().warning(f"transition '{wanted}' is not allowed in state '{label}'")
            return response
        later = Later()

        def done(success: bool) -> None:
            response.success = success
            later.give(response)

        self.begin_transition(number, done)
        return later

    def _number(self, transition: Transition) -> int | None:
        """The id of a transition that may be asked for now; None if it may not."""
        if self.working is not None:
            return None
        known = self.transitions()
        allowed = {
            number: label
            for number, label, *_ in self._state_machine.available_transitions
            if number in known
        }
        if transition.label:
            named = (number for number, label in allowed.items() if label == transition.label)
            return next(named, None)
        return transition.id if transition.id in allowed else None
