# SPDX-License-Identifier: Apache-2.0
"""The node: say what to track on `command`, get masks of it on `tracks` and `mask`. A managed
(lifecycle) node.

This file only wires. Callbacks hand over and return; one worker thread takes the newest image
through `pipeline.py`. The executor is single-threaded. Configure loads the model and fails early
with one line; activate subscribes; deactivate keeps the model loaded; cleanup frees it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from sa2va_model.errors import InputError
from sa2va_model.freed_memory import keep_freed_memory
from sa2va_model.tracks import Track
from sa2va_ros.interfaces.ask_action import SceneQuestions
from sa2va_ros.interfaces.command_topics import CommandTopics
from sa2va_ros.interfaces.commands import Router, clean_name
from sa2va_ros.interfaces.saved_objects import SavedObjects, objects_folder
from sa2va_ros.interfaces.services import Services
from sa2va_ros.interfaces.status import Health
from sa2va_ros.interfaces.track_action import TrackAction
from sa2va_ros.msg import TrackerStatus
from sa2va_ros.node import parameters, tracking_parameters
from sa2va_ros.node.adapter_change import AdapterChange
from sa2va_ros.node.model_session import EngineSettings, ModelSession
from sa2va_ros.node.pipeline import Pipeline, PublishedFrame
from sa2va_ros.node.publishing import vision_msgs as standard
from sa2va_ros.node.publishing.image_transport import topic_of
from sa2va_ros.node.publishing.predictions import Predictions
from sa2va_ros.node.subscriptions import CameraTopics
from sa2va_ros.space.tf import require_tf2
from sa2va_ros.support.bond import LifecycleBond
from sa2va_ros.support.lifecycle import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    SHUTDOWNS,
    DeferredLifecycleNode,
    DeferredTransition,
)
from sa2va_ros.support.qos import NEWEST_IMAGE, SENSOR_QUEUE
from sa2va_ros.support.spinning import context, spin

PAUSE_SECONDS = 1.0  # how long an image or an answer in work is waited for
SETTLE_SECONDS = 10.0  # the same before the node is active again


class TrackerNode(DeferredLifecycleNode):
    """Wires topics, services, actions and lifecycle to the live tracker.

    Args:
        stop_requested: set when the process is asked to end; a model that loads is not waited for then.
        name: of the node.
        session: what holds the model; None = one of its own.
        options: of rclpy's Node.
    """

    def __init__(
        self,
        stop_requested: threading.Event | None = None,
        name: str = "sa2va_tracker",
        session: ModelSession | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        self._stop_requested = stop_requested or threading.Event()
        parameters.declare(self)
        self._check_tf()
        self._bond = LifecycleBond(self, wanted=self._value("bond"))
        self.add_on_set_parameters_callback(self._may_change)
        self._session = session or self._make_engine()
        self._pipeline = Pipeline(
            self,
            self._session,
            observe=self._observe,
            busy=self._busy,
            forgotten=self._forgotten,
        )
        self._questions = SceneQuestions(self, self._session, self._pipeline, self._need_active)
        self._target = self._pipeline.target
        objects = SavedObjects(objects_folder(self._value("objects")))
        self._router = Router(
            self._session, self._tracks, self._questions.ask, self._target, objects
        )
        self._goals = TrackAction(self, self._router, self._need_active)
        self._adapters = AdapterChange(self._session, self._pipeline, self._quiet)
        Services(
            self, self._session, self._pipeline, self._router, self._adapters, self._need_active
        )
        self._choose_target(self._value("target"))
        self._predictions = Predictions(self, self._pipeline)
        self._health = Health(self, self._session, self._pipeline)
        self._active = False
        self._camera = CameraTopics(self)
        self._image_topic = ""
        self._commands = CommandTopics(self, self._router, self._pipeline)
        # Wall time, so that the status goes on while a bag or a simulator holds ROS time still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self._value("status_period"), self._publish_status, clock=steady)
        if missing := standard.missing():
            self.get_logger().info(missing)
        self._publish_status()

    def _make_engine(self) -> ModelSession:
        return ModelSession()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    # --- lifecycle --------------------------------------------------------------------------------

    def transitions(self) -> Mapping[int, DeferredTransition]:
        """Return those of a managed node; what takes its time is done beside the executor."""
        shutdown = DeferredTransition(self._begin_shutdown, self._on_freed, "shutting down")
        return {
            CONFIGURE: DeferredTransition(self._begin_load, self._on_loaded, "loading"),
            ACTIVATE: DeferredTransition(self._begin_activate, self._on_settled, "activating"),
            DEACTIVATE: DeferredTransition(
                self._begin_deactivate, self._on_deactivated, "deactivating"
            ),
            CLEANUP: DeferredTransition(self._begin_cleanup, self._on_freed, "cleaning up"),
            **dict.fromkeys(SHUTDOWNS, shutdown),
        }

    def _begin_load(self) -> Callable[[], object]:
        """Configure: load the model."""
        self._set_state(TrackerStatus.LOADING)
        folder = self._value("model")
        self.get_logger().info(f"loading {folder or 'the model that ships'}")
        settings = self._settings()
        return lambda: self._session.load(settings)

    def _on_loaded(self, error: BaseException | None) -> TransitionCallbackReturn:
        """Take the model into use, or say why there is none."""
        if error is None:
            self._track_default()
            self._set_state(TrackerStatus.READY)
            return TransitionCallbackReturn.SUCCESS
        self._session.unload()
        expected = isinstance(error, (InputError, OSError, RuntimeError, ImportError))
        name = "" if expected else f"{type(error).__name__}: "
        self._set_state(TrackerStatus.ERROR, name + " ".join(str(error).split()))
        self.get_logger().fatal(self._health.problem)
        return TransitionCallbackReturn.FAILURE

    def _begin_activate(self) -> Callable[[], object]:
        """Subscribe and start the worker, once an image of before a pause is done."""
        return lambda: self._pipeline.settle(SETTLE_SECONDS)

    def _on_settled(self, error: BaseException | None) -> TransitionCallbackReturn:
        try:
            if error is not None:
                raise error
            self._pipeline.start()
            self._subscribe()
        except InputError as problem:
            self._unsubscribe()
            self.get_logger().error(str(problem))
            return TransitionCallbackReturn.FAILURE
        self._active = True
        self._bond.form()
        self._set_state(TrackerStatus.ACTIVE)
        self.get_logger().info(f"ready: images from {self._image_topic}, commands on `command`")
        return TransitionCallbackReturn.SUCCESS

    def _begin_deactivate(self) -> Callable[[], object]:
        """Unsubscribe and stop the worker; model and tracks stay."""
        self._leave()
        return lambda: self._end_work("the node was deactivated")

    def _on_deactivated(self, error: BaseException | None) -> TransitionCallbackReturn:
        if error is not None:
            raise error
        self._set_state(TrackerStatus.READY)
        return TransitionCallbackReturn.SUCCESS

    def _begin_cleanup(self) -> Callable[[], object]:
        """Free the model."""
        if self._adapters.busy:
            raise InputError("not cleaned up: an adapter is being loaded")
        return self._unload

    def _begin_shutdown(self) -> Callable[[], object]:
        """Safe from every state."""
        self._leave()

        def end() -> None:
            self._end_work("the node was shut down")
            self._unload()

        return end

    def _on_freed(self, error: BaseException | None) -> TransitionCallbackReturn:
        if isinstance(error, InputError):
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        if error is not None:
            raise error
        self._set_state(TrackerStatus.UNCONFIGURED)
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, with everything freed."""
        self.get_logger().error(f"transition from '{state.label}' failed")
        self._begin_shutdown()()
        return self._on_freed(None)

    def autostart(self, failed: Callable[[], None]) -> None:
        """Configure and activate while the node is spun, as the `autostart` parameter asks."""

        def activated(success: bool) -> None:
            if not success:
                failed()

        def configured(success: bool) -> None:
            if success:
                self.begin_transition(ACTIVATE, activated)
            else:
                failed()

        if self._value("autostart"):
            self.begin_transition(CONFIGURE, configured)

    def on_stop(self) -> None:
        """End goals while they can still be told; called before the executor ends."""
        self._pause("the node ends")

    def close(self) -> bool:
        """Stop all threads and free the model; False if one of them is still at work."""
        ended = self._pause("the node ends")
        working = self.working is not None and not self.working.ended
        return self._session.close() and ended and not working and not self._adapters.busy

    def _pause(self, reason: str) -> bool:
        self._leave()
        return self._end_work(reason)

    def _leave(self) -> None:
        """No image and no command comes in any more."""
        self._active = False
        self._bond.end()
        self._unsubscribe()

    def _end_work(self, reason: str) -> bool:
        """End what is in work, from any thread; False if the model needs longer for that."""
        answered = self._quiet(PAUSE_SECONDS, reason)
        stopped = self._pipeline.stop(PAUSE_SECONDS)
        if not stopped:
            self.get_logger().warning("the image in work goes on for a moment")
        return answered and stopped

    def _quiet(self, seconds: float, reason: str = "the adapter is changed") -> bool:
        """End questions and goals, from any thread; False if the model needs longer for that."""
        answered = self._questions.stop(reason, seconds)
        self._goals.cancel_all(reason)
        return answered

    def _unload(self) -> None:
        self._router.forget()
        self._choose_target(self._value("target"))
        self._pipeline.forget()
        self._session.unload()

    def _settings(self) -> EngineSettings:
        return EngineSettings(
            model=self._value("model"),
            adapter=self._value("adapter"),
            device=self._value("device"),
            dtype=self._value("dtype"),
            threads=self._value("threads"),
            live=lambda: parameters.live_config(self._value),
            history_turns=self._value("history_turns"),
            max_tokens=self._value("answer_tokens"),
            remote=parameters.remote_config(self._value),
            fallback=self._value("fallback_model"),
            backend=parameters.chosen_backend(self._value),
        )

    def _subscribe(self) -> None:
        kind, topic = topic_of("image", self._value("image_transport"))
        self._image_topic = self._camera.subscribe(kind, topic, self._take_image, NEWEST_IMAGE)
        self._subscribe_depth()
        self._commands.subscribe(self._image_topic)

    def _take_image(self, message: Image | CompressedImage) -> None:
        self._camera.catch_up()
        self._pipeline.put(message)

    def _subscribe_depth(self) -> None:
        """As the parameter `use_depth` says now."""
        depth = self._pipeline.depth
        kind, topic = topic_of("depth", self._value("depth_transport"))
        for name in (topic, "camera_info"):
            self._camera.drop(name)
        if self._value("use_depth"):
            self._camera.subscribe(kind, topic, depth.add_depth, SENSOR_QUEUE)
            self._camera.subscribe(CameraInfo, "camera_info", depth.add_info, SENSOR_QUEUE)

    def _unsubscribe(self) -> None:
        self._camera.clear()
        self._commands.unsubscribe()

    # --- commands ---------------------------------------------------------------------------------

    def _tracks(self) -> tuple[Track, ...]:
        latest = self._pipeline.latest
        return latest.result.tracks if latest else ()

    def _observe(self, latest: PublishedFrame) -> None:
        self._router.observe(latest.result)
        self._goals.observe(latest)
        self._predictions.observe()

    def _busy(self) -> bool:
        return self._goals.busy() or self._questions.busy()

    def _forgotten(self, clock_jumped: bool) -> None:
        """All tracks are gone; a bag that starts over begins as the first time.

        Whoever asked for that begins anew. Who did not ask must not find another object behind `target_pose`.
        """
        self._router.forget()
        self._choose_target(self._value("target"))
        if clock_jumped:
            if not self._value("target"):
                self._target.drop()
            self._track_default()

    def _track_default(self) -> None:
        if expression := self._value("default_expression"):
            self._router.track(expression, select=not self._value("target"))

    def _choose_target(self, name: str) -> None:
        """As the parameter `target` says."""
        if name:
            self._target.choose_named(name)
        else:
            self._target.choose_first()

    def _need_active(self) -> None:
        self._session.need_live()
        if not self._active:
            raise InputError("the node is not active; expected an active node")

    def obey(self, text: str) -> None:
        """Do what a text on `command` says; a refusal is an event."""
        self._commands.obey(text)

    # --- parameters -------------------------------------------------------------------------------

    def _check_tf(self) -> None:
        if self._value("publish_tf"):
            require_tf2("parameter publish_tf")

    def _may_change(self, changes: list[Any]) -> Any:
        """Refuse what this machine cannot do; thresholds go on to the tracker at its next image."""
        from rcl_interfaces.msg import SetParametersResult

        changed = {change.name: change.value for change in changes}
        try:
            if changed.get("publish_tf"):
                require_tf2("parameter publish_tf")
            if changed.keys() & _LIVE and self._session.live is not None:
                parameters.live_config(lambda name: changed.get(name, self._value(name)))
            clean_name(changed.get("target", ""))
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self.executor is not None:
            self.executor.create_task(self._put_in_force, changed)
        return SetParametersResult(successful=True)

    def _put_in_force(self, changed: dict[str, Any]) -> None:
        """What was set, once it is; another callback may have refused it."""
        done = {name for name, value in changed.items() if self._value(name) == value}
        if (live := self._session.live) is not None and done & _LIVE:
            live.reconfigure(parameters.live_config(self._value))
        if "target" in done:
            self._choose_target(clean_name(self._value("target")))
        if "use_depth" in done and self._active:
            self._subscribe_depth()
        if changed.get("publish_track_poses") is False:
            self._pipeline.outputs_3d.keep_poses(set())

    # --- status -----------------------------------------------------------------------------------

    def _set_state(self, state: int, problem: str = "") -> None:
        self._health.state, self._health.problem = state, problem
        self._publish_status()

    def _publish_status(self) -> None:
        self._health.publish(self._router.expression)


_LIVE = {row.name for row in tracking_parameters.DYNAMIC}


def main(args: list[str] | None = None) -> int:
    """Run the node until it is asked to stop; the exit status is 2 if it could not start."""
    keep_freed_memory()
    try:
        with context(args) as stop_requested:
            status = run(TrackerNode(stop_requested), stop_requested)
    except (InputError, rclpy.exceptions.ParameterException) as error:
        print(f"tracker_node: {error}", file=sys.stderr)  # noqa: T201 - there is no node that could log
        return 2
    return leave(status)


def run(node: TrackerNode, stop_requested: threading.Event) -> int:
    """Serve the node until it is asked to end; the exit status is 2 if it could not start."""
    problems: list[str] = []

    def failed() -> None:
        problems.append("it did not start")
        stop_requested.set()

    try:
        node.autostart(failed)
        spin(node, stop_requested, node.on_stop)
    finally:
        if not node.close():
            print("tracker_node: the model is at work; it is not waited for", file=sys.stderr)  # noqa: T201
        node.destroy_node()
    return 2 if problems else 0


def leave(status: int) -> int:
    """End the process without taking the interpreter apart, if torch is loaded; else return `status`.

    With torch loaded that takes seconds, and it crashes if a thread is still deep in the model. All
    that is ours is closed by now.
    """
    if "torch" not in sys.modules:
        return status
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    raise SystemExit(main())
