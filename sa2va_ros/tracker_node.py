# SPDX-License-Identifier: Apache-2.0
"""The node: say what to track on `command`, get masks of it on `tracks` and `mask`. A managed
(lifecycle) node.

This file only wires. Callbacks hand over and return; one worker thread (`worker.py`) decodes the
newest image (`stream.py`), drives `sa2va_model.live.LiveTracker` and publishes (`outputs.py`). The
executor is single-threaded. Configure loads the model and fails early with one line; activate
subscribes; deactivate keeps the model loaded.
"""

from __future__ import annotations

import sys
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from sa2va_model.errors import InputError
from sa2va_model.tracks import FrameResult, TrackState
from sa2va_ros import conversions, parameters
from sa2va_ros.commands import Router, clean_text
from sa2va_ros.msg import TrackArray, TrackerStatus, VisualPrompt
from sa2va_ros.outputs import Outputs, reliable
from sa2va_ros.questions import QuestionWorker
from sa2va_ros.spinning import context, spin
from sa2va_ros.srv import ListTracks, RemoveTrack, SetTarget
from sa2va_ros.stream import Admitted, ImageStream
from sa2va_ros.worker import FrameWorker

NEWEST_IMAGE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_GONE = (TrackState.NOT_FOUND, TrackState.STOPPED)


class TrackerNode(LifecycleNode):
    """Wires topics, services and lifecycle to the live tracker."""

    def __init__(self) -> None:
        super().__init__("sa2va_tracker")
        parameters.declare(self)
        self._outputs = Outputs(self)
        self._state, self._problem = TrackerStatus.UNCONFIGURED, ""
        self._live: Any = None
        self._model: Any = None
        self._enabled = True
        self._reset_asked = ""
        self._latest: tuple[Admitted, FrameResult, TrackArray] | None = None
        self._subscriptions_made: list[Any] = []
        self._expression = ""
        self._stream = ImageStream()
        self._worker = self._new_worker()
        self._questions = QuestionWorker(self._answer, self._unanswered)
        # Wall time, so that the status goes on while a bag or a simulator holds ROS time still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self._value("status_period"), self._publish_status, clock=steady)
        self.create_service(SetTarget, "~/set_target", self._set_target)
        self.create_service(RemoveTrack, "~/remove_track", self._remove_track)
        self.create_service(ListTracks, "~/list_tracks", self._list_tracks)
        self.create_service(Trigger, "~/reset", self._reset)
        self.create_service(SetBool, "~/enable", self._enable)
        self._publish_status()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    # --- lifecycle --------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model."""
        self._set_state(TrackerStatus.LOADING)
        try:
            self._load()
        except (InputError, OSError, RuntimeError, ImportError) as error:
            self._set_state(TrackerStatus.ERROR, " ".join(str(error).split()))
            self.get_logger().fatal(self._problem)
            return TransitionCallbackReturn.FAILURE
        self._set_state(TrackerStatus.READY)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker; its counters start at zero."""
        if not self._worker.stop(10.0):  # two threads must not drive one tracker
            self.get_logger().error("the last image before the pause is still in work")
            return TransitionCallbackReturn.FAILURE
        self._worker = self._new_worker()
        self._worker.start()
        compressed = self._value("image_transport") == "compressed"
        kind, topic = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        options = QoSOverridingOptions.with_default_policies()
        self._subscriptions_made = [
            self.create_subscription(
                kind, topic, self._on_image, NEWEST_IMAGE, qos_overriding_options=options
            ),
            self.create_subscription(String, "command", self._on_command, reliable(10)),
            self.create_subscription(VisualPrompt, "prompt", self._on_prompt, reliable(10)),
        ]
        self._set_state(TrackerStatus.ACTIVE)
        topic = self._subscriptions_made[0].topic_name
        self.get_logger().info(f"ready: images from {topic}, commands on `command`")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker; model and tracks stay."""
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made = []
        self._questions.stop()
        if not self._worker.stop():
            self.get_logger().warning("the image in work goes on for a moment")
        self._set_state(TrackerStatus.READY)
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self._unload()
        self._set_state(TrackerStatus.UNCONFIGURED)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Safe from every state."""
        self.on_deactivate(state)
        self._unload()
        self._set_state(TrackerStatus.UNCONFIGURED)
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, with everything freed."""
        self.get_logger().error(f"transition from '{state.label}' failed")
        return self.on_shutdown(state)

    def autostart(self) -> bool:
        """Configure and activate, as the `autostart` parameter asks; False if that failed."""
        if not self._value("autostart"):
            return True
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def close(self) -> None:
        """Stop all threads; the node can be destroyed then."""
        self._questions.stop()
        self._worker.stop()
        self._unload()

    def _load(self) -> None:
        # Here and not at the top: torch takes seconds, and without it the node can still say what
        # is missing.
        import torch

        from sa2va_model.checkpoints import load_model, suit_threads
        from sa2va_model.live import LiveConfig, LiveTracker

        folder, device = self._value("model"), self._value("device")
        self.get_logger().info(f"loading {folder or 'the model that ships'}")
        self._model = load_model(folder or None, device=device)
        if threads := self._value("threads"):
            torch.set_num_threads(threads)
        else:
            suit_threads(self._model)
        config = LiveConfig(background=True, max_objects=self._value("max_objects"))
        self._live = LiveTracker(self._model, config)
        self._stream = ImageStream()
        self._router = Router(self._live, self._tracks, self._questions.ask)
        if expression := self._value("default_expression"):
            self._router.track(expression)
            self._expression = expression

    def _unload(self) -> None:
        live, self._live = self._live, None
        self._model, self._latest, self._expression = None, None, ""
        if live is not None:
            live.close()

    def _new_worker(self) -> FrameWorker[Any, tuple[Admitted, FrameResult]]:
        return FrameWorker(self._process, self._publish, self._bad_image)

    # --- images, on the worker thread -------------------------------------------------------------

    def _on_image(self, message: Image | CompressedImage) -> None:
        if self._enabled:
            self._worker.put(message)

    def _process(self, message: Image | CompressedImage) -> tuple[Admitted, FrameResult]:
        now = self.get_clock().now().nanoseconds
        admitted = self._stream.admit(message, now=now, max_age=self._value("max_age"))
        reason, self._reset_asked = admitted.reset or self._reset_asked, ""
        if reason:
            self.get_logger().warning(f"tracks are reset: {reason}")
            self._live.reset(reason)
        return admitted, self._live.process(admitted.frame)

    def _publish(self, message: Any, done: tuple[Admitted, FrameResult]) -> None:
        admitted, result = done
        mask, overlay = self._value("publish_mask"), self._value("publish_overlay")
        published = self._outputs.result(
            admitted, result, clock=self._stream.clock, mask=mask, overlay=overlay
        )
        self._latest = (admitted, result, published)
        for event in result.events:
            words = f"'{event.expression}'" if event.expression else "all tracks"
            detail = f": {event.detail}" if event.detail else ""
            self.get_logger().info(f"{event.kind.name} {event.track_id} {words}{detail}")

    def _bad_image(self, error: Exception) -> None:
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        self.get_logger().warning(f"image not used: {text}", throttle_duration_sec=1.0)

    # --- commands ---------------------------------------------------------------------------------

    def _tracks(self) -> tuple[Any, ...]:
        return self._latest[1].tracks if self._latest else ()

    def _header(self) -> Header | None:
        return self._latest[0].header if self._latest else None

    def _on_command(self, message: String) -> None:
        try:
            command = self._router.run(message.data)
        except InputError as error:
            self._refuse(error)
        else:
            if command.kind.value in ("track", "add"):
                self._expression = command.text
            self.get_logger().info(f"command: {command.kind.value} {command.text!r}")
            if not self._worker.input_rate.rate():
                topic = self._subscriptions_made[0].topic_name
                self.get_logger().warning(f"no images arrive on {topic}; it waits for them")

    def _on_prompt(self, message: VisualPrompt) -> None:
        try:
            arguments = conversions.prompt_arguments(message)
            if arguments["label"]:
                arguments["label"] = clean_text(arguments["label"], "prompt label")
            self._live.prompt(**arguments)
        except InputError as error:
            self._refuse(error)

    def _refuse(self, error: InputError) -> None:
        self.get_logger().warning(f"refused: {error}")
        self._outputs.failed(self._header(), "", str(error))

    def _answer(self, question: str) -> None:
        latest, model = self._latest, self._model
        if latest is None or model is None:
            raise InputError("there is no image yet; expected one on the image topic")
        answer = model.ask([latest[0].frame.rgb], question)
        self._outputs.caption(latest[0].header, question, answer)

    def _unanswered(self, question: str, error: Exception) -> None:
        self.get_logger().warning(f"no answer to {question!r}: {error}")
        self._outputs.failed(self._header(), question, f"no answer: {error}")

    # --- services ---------------------------------------------------------------------------------

    def _set_target(
        self, request: SetTarget.Request, response: SetTarget.Response
    ) -> SetTarget.Response:
        try:
            self._need_model()
            response.track_id = self._router.track(
                request.expression, track_id=request.track_id, replace=request.replace
            )
            response.accepted, self._expression = True, request.expression
        except InputError as error:
            response.message = str(error)
        return response

    def _remove_track(
        self, request: RemoveTrack.Request, response: RemoveTrack.Response
    ) -> RemoveTrack.Response:
        before = sum(track.state not in _GONE for track in self._tracks())
        stopped = 0
        try:
            self._need_model()
            stopped = self._router.stop(request.track_id)
            response.success = stopped > 0 or not request.track_id
        except InputError as error:
            response.message = str(error)
        response.remaining = max(before - stopped, 0)
        return response

    def _list_tracks(
        self, request: ListTracks.Request, response: ListTracks.Response
    ) -> ListTracks.Response:
        if self._latest is not None:
            response.tracks = self._latest[2]
        return response

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self._need_model()
            self._reset_asked = "asked for by the service ~/reset"  # done at the next image
            response.success = True
        except InputError as error:
            response.message = str(error)
        return response

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled, response.success = request.data, True
        response.message = "images are processed" if request.data else "images are ignored"
        return response

    def _need_model(self) -> None:
        if self._live is None:
            raise InputError("the node is not configured; expected a configured node")

    # --- status -----------------------------------------------------------------------------------

    def _set_state(self, state: int, problem: str = "") -> None:
        self._state, self._problem = state, problem
        self._publish_status()

    def _publish_status(self) -> None:
        counts = self._worker.counts()
        message = TrackerStatus(state=self._state, model=self._value("model") or "tiny")
        if self._latest is not None:
            message.header.frame_id = self._latest[0].header.frame_id
        message.device = str(getattr(self._model, "device", self._value("device")))
        message.active_expression = self._expression
        message.num_tracks = sum(track.state not in _GONE for track in self._tracks())
        message.input_fps = self._worker.input_rate.rate()
        message.tracker_fps = self._worker.output_rate.rate()
        message.received, message.processed = counts.received, counts.processed
        message.dropped, message.rejected = counts.dropped, counts.rejected
        message.message = self._problem
        if not self._problem and counts.rejected:
            message.message = f"{counts.rejected} images not used; the last: {counts.last_reason}"
        self._outputs.status(message)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop; the exit status is 2 if it could not start."""
    with context(args) as told:
        try:
            node = TrackerNode()
        except (InputError, rclpy.exceptions.ParameterException) as error:
            print(f"tracker_node: {error}", file=sys.stderr)  # noqa: T201 - there is no node that could log
            return 2
        try:
            if not node.autostart():
                return 2
            spin(node, told)
        finally:
            node.close()
            node.destroy_node()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
