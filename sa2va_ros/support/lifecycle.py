# SPDX-License-Identifier: Apache-2.0
"""A managed node that answers while it configures, and that no request for a transition can end.

rclpy runs a transition within the request for it: a node that loads a model in `on_configure` is deaf for minutes, and
a transition that is not allowed now raises through the executor. Here configuring is work on a thread: the state is
`configuring` meanwhile, everything else is answered, and so is the request when the work is done. What is not allowed
is answered with False.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy._rclpy_pybind11 import RCLError
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from sa2va_ros.support.background_work import BackgroundWork
from sa2va_ros.support.deferred import Later, let_wait

POLL = 0.05  # seconds between two looks at the work
TELL = 5.0  # seconds between two signs of life

Done = Callable[[bool], None]


class DeferredLifecycleNode(LifecycleNode):
    """`configure` does `load` on a thread, and then `on_loaded` on the executor's.

    `on_configure` is not used.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.loading: BackgroundWork | None = None
        service = self._service_change_state
        service.callback = self._on_change_state
        let_wait(self, service)
        self._shutdowns = {
            Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
            Transition.TRANSITION_INACTIVE_SHUTDOWN,
            Transition.TRANSITION_ACTIVE_SHUTDOWN,
        }

    @abstractmethod
    def begin_load(self) -> Callable[[], None]:
        """Return what is to be done on a thread; raise what `on_loaded` is to be told."""

    @abstractmethod
    def on_loaded(self, error: BaseException | None) -> TransitionCallbackReturn:
        """Take over what was loaded, or tell why it was not."""

    def begin_configure(self, done: Done) -> None:
        """Configure; `done` is told whether that worked, on the executor's thread.

        Raises:
            RCLError: not allowed in this state.
        """
        self._state_machine.trigger_transition_by_id(Transition.TRANSITION_CONFIGURE, True)
        try:
            work = self.begin_load()
        except Exception as error:  # noqa: BLE001 - told where it is taken over
            self._configured(error, done)
            return
        self.loading = BackgroundWork(work, name="loading")
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        timer: Any = None

        def poll() -> None:
            loading = self.loading
            if loading is None or not loading.ended:
                if loading is not None and loading.sign_of_life(TELL):
                    self.get_logger().info("still loading")
                return
            self.destroy_timer(timer)
            self.loading = None
            self._configured(loading.error, done)

        timer = self.create_timer(POLL, poll, clock=steady)

    def _configured(self, error: BaseException | None, done: Done) -> None:
        try:
            result = self.on_loaded(error)
        except Exception as problem:  # noqa: BLE001 - as rclpy does with any transition
            self.get_logger().error(f"configuring failed: {type(problem).__name__}: {problem}")
            result = TransitionCallbackReturn.FAILURE
        self._state_machine.trigger_transition_by_label(result.to_label(), True)
        done(result == TransitionCallbackReturn.SUCCESS)

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
        if number == Transition.TRANSITION_CONFIGURE:
            later = Later()

            def done(success: bool) -> None:
                response.success = success
                later.give(response)

            self.begin_configure(done)
            return later
        try:
            result = self._trigger(number)
        except RCLError as error:
            self.get_logger().error(f"transition failed: {' '.join(str(error).split())}")
            return response
        response.success = result == TransitionCallbackReturn.SUCCESS
        return response

    def _number(self, transition: Transition) -> int | None:
        """The id of a transition that may be asked for now; None if it may not."""
        if self.loading is not None:
            return None
        allowed = {number: label for number, label, *_ in self._state_machine.available_transitions}
        if transition.label:
            named = (number for number, label in allowed.items() if label == transition.label)
            return next(named, None)
        return transition.id if transition.id in allowed else None

    def _trigger(self, number: int) -> TransitionCallbackReturn:
        if number in self._shutdowns:
            return self.trigger_shutdown()
        triggers = {
            Transition.TRANSITION_CLEANUP: self.trigger_cleanup,
            Transition.TRANSITION_ACTIVATE: self.trigger_activate,
            Transition.TRANSITION_DEACTIVATE: self.trigger_deactivate,
        }
        trigger = triggers.get(number)
        return trigger() if trigger is not None else TransitionCallbackReturn.FAILURE
