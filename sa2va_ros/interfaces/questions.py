# SPDX-License-Identifier: Apache-2.0
"""Questions about the scene, answered one after the other on a thread of their own. No ROS."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from sa2va_model.errors import InputError
from sa2va_ros.interfaces.conversation import QuestionRequest

WAITING = 4  # questions; more are refused, so that an answer never belongs to a scene long gone


class QuestionWorker:
    """Calls `answer(request)` for each question, in order.

    Args:
        answer: does the work and hands the answer on.
        on_error: told about a question whose answer failed.
    """

    def __init__(
        self,
        answer: Callable[[QuestionRequest], None],
        on_error: Callable[[QuestionRequest, Exception], None],
    ) -> None:
        self._answer, self._on_error = answer, on_error
        self._questions: queue.Queue[QuestionRequest | None] = queue.Queue(WAITING + 1)
        self._thread: threading.Thread | None = None
        self._current: QuestionRequest | None = None

    def ask(self, request: QuestionRequest) -> None:
        """Hand over a question; never blocks.

        Raises:
            InputError: too many questions wait already.
        """
        if self._questions.qsize() >= WAITING:
            raise InputError(f"question: {WAITING} wait for an answer already; expected fewer")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="questions", daemon=True)
            self._thread.start()
        self._questions.put(request)

    def stop(self, timeout: float = 1.0) -> bool:
        """Drop waiting questions, cancel the one in work and end the thread.

        Returns:
            Whether the thread has ended; False if the model takes longer than `timeout` seconds.
        """
        while not self._questions.empty():
            self._questions.get_nowait()
        if (current := self._current) is not None:
            current.cancelled.set()
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._questions.put(None)
        thread.join(timeout)
        return not thread.is_alive()

    def _run(self) -> None:
        while (request := self._questions.get()) is not None:
            self._current = request
            try:
                self._answer(request)
            except Exception as error:  # noqa: BLE001 - reported, not lost; the next one may do better
                self._on_error(request, error)
            finally:
                self._current = None
