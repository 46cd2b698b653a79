# SPDX-License-Identifier: Apache-2.0
"""Asks the language model while tracking goes on: questions go in, answers come out, nothing queues up.

One thread works on one question at a time. With `background=False` the question is answered on the spot, which makes
a run a function of its input.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sa2va_model.sa2va import Reply, Sa2VA


@dataclass(frozen=True)
class Question:
    """What does `expression` mean on these frames?

    Attributes:
        frames: uint8 [H, W, 3] keyframes, the newest last.
        first_index, frame_index: of the oldest and the newest keyframe; `stamp`: of the newest.
        purpose: "find" a new object, "search" for a lost one, or "verify" a tracked one.
    """

    track_id: str
    expression: str
    frames: Sequence[np.ndarray]
    first_index: int
    frame_index: int
    stamp: float
    purpose: str


@dataclass(frozen=True)
class Answered:
    """The reply to a question, or the error that it ended with."""

    question: Question
    reply: Reply | None
    error: str
    milliseconds: float


class Questioner:
    """Answers questions with a model, on its own thread or at once."""

    def __init__(self, model: Sa2VA, *, background: bool) -> None:
        self._model = model
        self._answers: queue.SimpleQueue[Answered] = queue.SimpleQueue()
        self._waiting: dict[str, Question] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        if background:
            self._thread = threading.Thread(target=self._work, name="sa2va-questions", daemon=True)
            self._thread.start()

    def ask(self, question: Question) -> None:
        """Hands a question over. A newer one about the same track takes the place of one that waits."""
        if self._thread is None:
            self._answers.put(self._answer(question))
            return
        with self._changed:
            self._waiting[question.track_id] = question
            self._changed.notify()

    def forget(self, track_id: str | None = None) -> None:
        """Drops waiting questions of one track, or all."""
        with self._changed:
            if track_id is None:
                self._waiting.clear()
            else:
                self._waiting.pop(track_id, None)

    def answers(self) -> list[Answered]:
        """All answers since the last call."""
        out = []
        while True:
            try:
                out.append(self._answers.get_nowait())
            except queue.Empty:
                return out

    def close(self, timeout: float = 30.0) -> bool:
        """Ends the thread after the question it works on; False if that takes longer than `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._waiting))
                if self._closed:
                    return
                # A new object goes before a search, a search before a check.
                order = {"find": 0, "search": 1, "verify": 2}
                first = min(self._waiting.values(), key=lambda q: order[q.purpose])
                del self._waiting[first.track_id]
            self._answers.put(self._answer(first))

    def _answer(self, question: Question) -> Answered:
        start, reply, error = time.perf_counter(), None, ""
        try:
            reply = self._model.ground(question.frames, question.expression)
        except (
            ValueError,
            RuntimeError,
        ) as problem:  # the track fails, the thread and the others live on
            error = f"{type(problem).__name__}: {problem}"
        return Answered(question, reply, error, (time.perf_counter() - start) * 1e3)
