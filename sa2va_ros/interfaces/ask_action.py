# SPDX-License-Identifier: Apache-2.0
"""Questions about the scene, by the action AskScene and by the topic `command`; one queue for both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sa2va_model.errors import CancelledError, InputError
from sa2va_ros.action import AskScene
from sa2va_ros.interfaces.commands import clean_text
from sa2va_ros.interfaces.conversation import QuestionRequest
from sa2va_ros.interfaces.goal_state import ErrorCode
from sa2va_ros.interfaces.questions import QuestionWorker
from sa2va_ros.msg import GroundedCaption
from sa2va_ros.node.model_session import ModelSession
from sa2va_ros.node.pipeline import Pipeline, PublishedFrame
from sa2va_ros.support.deferred import DeferredActionServer
from sa2va_ros.support.ticker import Ticker

if TYPE_CHECKING:
    from rclpy.action.server import ServerGoalHandle
    from rclpy.node import Node

TICK = 0.05  # seconds between two looks for cancellations
IMAGE_SECONDS = 2.0  # how long a question waits for a camera that just started


class NoImageError(InputError):
    """No camera image arrived."""


class SceneQuestions:
    """Answers on a thread of its own, on the newest image; every answer also goes to `caption`.

    Args:
        active: raises InputError with the reason while the node cannot work on goals.
    """

    def __init__(
        self, node: Node, session: ModelSession, pipeline: Pipeline, active: Callable[[], None]
    ) -> None:
        self._node, self._session, self._pipeline = node, session, pipeline
        self._active = active
        self._goals: dict[str, tuple[ServerGoalHandle, QuestionRequest]] = {}
        self._lock = threading.Lock()
        self._worker = QuestionWorker(self._answer, self._failed)
        self._server = DeferredActionServer(node, AskScene, "~/ask_scene", self._begin)
        self._ticker = Ticker(node, TICK, self._tick, wanted=self.busy)

    def ask(self, question: str) -> None:
        """A question without a goal, as from a topic; raises InputError if too many wait."""
        self._worker.ask(QuestionRequest(question))

    def busy(self) -> bool:
        """Whether a goal waits for its answer."""
        return bool(self._goals)

    def stop(self, reason: str, timeout: float = 1.0) -> bool:
        """Drop and cancel all questions; False if the model takes longer than `timeout` seconds."""
        with self._lock:
            names = list(self._goals)
        ended = self._worker.stop(timeout)
        for name in names:
            self._end(name, ErrorCode.CANCELED, reason)
        return ended

    # --- goals ------------------------------------------------------------------------------------

    def _begin(self, handle: ServerGoalHandle) -> None:
        name, asked = bytes(handle.goal_id.uuid).hex(), handle.request
        request = QuestionRequest(
            asked.question,
            id=name,
            grounded=asked.grounded,
            use_history=asked.use_history,
            max_tokens=asked.max_tokens,
            on_text=lambda delta, text: handle.publish_feedback(
                AskScene.Feedback(delta=delta, text=text)
            ),
        )
        with self._lock:
            self._goals[name] = (handle, request)
        self._ticker.wake()
        code = ErrorCode.NOT_ACTIVE
        try:
            self._active()
            code = ErrorCode.BAD_GOAL
            request.question = clean_text(asked.question, "question")
            code = ErrorCode.FULL
            self._worker.ask(request)
        except InputError as error:
            self._end(name, code, str(error))

    def _tick(self) -> None:
        with self._lock:
            goals = list(self._goals.items())
        for name, (handle, request) in goals:
            if handle.is_cancel_requested:
                request.cancelled.set()
                self._end(name, ErrorCode.CANCELED, "cancelled by the client")

    def _end(
        self, name: str, code: ErrorCode, reason: str = "", answer: GroundedCaption | None = None
    ) -> None:
        with self._lock:
            goal = self._goals.pop(name, None)
        if goal is None:
            return
        result = AskScene.Result(
            answer=answer or GroundedCaption(request_id=name, question=goal[1].question),
            error_code=int(code),
            error_msg=reason,
        )
        self._server.finish(goal[0], result, succeeded=code is ErrorCode.NONE)

    # --- on the thread of the questions -----------------------------------------------------------

    def _answer(self, request: QuestionRequest) -> None:
        if request.cancelled.is_set():
            raise CancelledError
        latest = self._image(request)
        conversation = self._session.need_conversation()
        answer: Any = conversation.ask(latest.admitted.frame.rgb, request)
        header = latest.admitted.header
        message = self._pipeline.outputs.caption(header, request.question, answer, request.id)
        self._end(request.id, ErrorCode.NONE, answer=message)

    def _image(self, request: QuestionRequest) -> PublishedFrame:
        end = time.monotonic() + IMAGE_SECONDS
        while (latest := self._pipeline.latest) is None:
            if time.monotonic() > end or request.cancelled.is_set():
                raise NoImageError("there is no image yet; expected one on the image topic")
            time.sleep(0.02)
        return latest

    def _failed(self, request: QuestionRequest, error: Exception) -> None:
        if isinstance(error, CancelledError):
            self._end(request.id, ErrorCode.CANCELED, "cancelled")
            return
        self._node.get_logger().warning(f"no answer to {request.question!r}: {error}")
        latest = self._pipeline.latest
        header = latest.admitted.header if latest else None
        self._pipeline.outputs.failed(header, request.question, f"no answer: {error}")
        missing = isinstance(error, NoImageError)
        self._end(request.id, ErrorCode.NO_IMAGE if missing else ErrorCode.MODEL_ERROR, str(error))
