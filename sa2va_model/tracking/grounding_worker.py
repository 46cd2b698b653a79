# SPDX-License-Identifier: Apache-2.0
"""GroundingWorker: asks the language model while tracking goes on; questions go in, answers come out.

One thread works on one question at a time, on a CUDA stream of its own where there is one. For each track at most one
question waits; a newer one takes its place. A question that is forgotten while the model works on it is cancelled
between two layers. If the thread dies or the model hangs, that question fails and a new thread takes over.

With `background=False` the question is answered on the spot, which makes a run a function of its input.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import nn

from sa2va_model.device import finish, hand_over, own_stream
from sa2va_model.errors import CancelledError
from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.tracks import EventKind, Reason

if TYPE_CHECKING:
    from sa2va_model.tracking.by_example.finder import ExampleFinder, Sighting


class Purpose(IntEnum):
    """Why a question is asked; the lower goes first."""

    FIND = 0  # a new object
    SEARCH = 1  # for a lost one
    VERIFY = 2  # that a tracked one is still what was asked for


@dataclass(frozen=True)
class GroundingQuestion:
    """What does `expression` mean on these frames?

    Attributes:
        frames: uint8 [H, W, 3] keyframes, the newest last.
        example: what is looked for on the newest in place of the expression.
        first_index, frame_index: of the oldest and the newest keyframe; `stamp`: of the newest.
    """

    track_id: str
    expression: str
    frames: Sequence[np.ndarray]
    first_index: int
    frame_index: int
    stamp: float
    purpose: Purpose
    example: ExampleFinder | None = None


@dataclass(frozen=True)
class Answered:
    """The reply to a question, or the error that it ended with.

    Attributes:
        sighting: where the example of the question is seen; None = nowhere.
        again: there is neither: it waited until its frames were old, and is to be put again on the newest.
    """

    question: GroundingQuestion
    reply: GroundingResult | None
    error: str
    milliseconds: float
    again: bool = False
    sighting: Sighting | None = None


@dataclass(frozen=True)
class Notice:
    """Something that whoever answers has to tell, to all tracks."""

    kind: EventKind
    reason: Reason
    detail: str


@dataclass
class QuestionCounts:
    """What became of the questions so far.

    Attributes:
        superseded: a newer question about the same track took the place of one that waited.
        cancelled: forgotten, or put back for a more urgent one, while the model worked on it.
        restarts: threads that had to be replaced.
    """

    asked: int = 0
    answered: int = 0
    superseded: int = 0
    cancelled: int = 0
    restarts: int = 0


class GroundingService(Protocol):
    """Whoever answers questions; the worker below, or a test that knows the answers."""

    @property
    def counts(self) -> QuestionCounts:
        """What became of the questions so far."""

    @property
    def plurals(self) -> bool:
        """Whether whoever answers marks all red mugs when "every red mug" is asked for."""

    def ask(self, question: GroundingQuestion) -> None:
        """Take a question; a newer one about the same track takes the place of one that waits."""

    def forget(self, track_id: str | None = None) -> None:
        """Drop the questions about one track, or all."""

    def answers(self) -> list[Answered]:
        """Return the answers since the last call."""

    def notices(self) -> list[Notice]:
        """Return what is to be told since the last call."""

    def close(self, timeout: float = 30.0) -> bool:
        """End; False if that takes longer than `timeout` seconds."""


class Questioner(Protocol):
    """Whoever puts questions on the thread of the frames, and takes their answers there."""

    def takes(self, answered: Answered) -> bool:
        """Return whether the question was its own."""
        ...

    def take(self, answered: Answered, frame: Frame) -> None:
        """Take an answer."""
        ...

    def again(self, answered: Answered, frame: Frame) -> None:
        """An answer came on a frame that cannot be used: the question is put again."""
        ...


@dataclass
class _Job:
    """A question that is being worked on."""

    question: GroundingQuestion
    started: float
    cancelled: threading.Event = field(default_factory=threading.Event)
    put_back: bool = False


class GroundingWorker:
    """Answers questions with a model, on its own thread or at once.

    Args:
        limit: seconds after which a question that runs counts as failed and its thread as lost.
    """

    def __init__(self, model: Sa2VA, *, background: bool, limit: float = 120.0) -> None:
        self._model, self._limit = model, limit
        self._answers: queue.SimpleQueue[Answered] = queue.SimpleQueue()
        self._waiting: dict[str, GroundingQuestion] = {}
        self._job: _Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._hooks = between_layers(model.mllm, self._stop_if_cancelled) if background else []
        self._counts = QuestionCounts()
        if background:
            self._start_thread()

    @property
    def counts(self) -> QuestionCounts:
        """What became of the questions so far."""
        return self._counts

    @property
    def plurals(self) -> bool:
        """Whether the model was taught sentences that mean many."""
        words = self._model.vocabulary
        return words is not None and words.plurals

    def ask(self, question: GroundingQuestion) -> None:
        """Hand a question over. A newer one about the same track takes the place of one that waits."""
        self._counts.asked += 1
        if self._thread is None:
            self._answers.put(self._answer(_Job(question, time.monotonic())))
            return
        with self._changed:
            self._counts.superseded += question.track_id in self._waiting
            self._waiting[question.track_id] = question
            running = self._job
            if (
                running is not None
                and question.purpose == Purpose.FIND
                and running.question.purpose != Purpose.FIND
                and not running.cancelled.is_set()
            ):
                running.put_back = True
                running.cancelled.set()
            self._changed.notify()

    def forget(self, track_id: str | None = None) -> None:
        """Drop the waiting questions of one track, or all, and cancel the running one if it is among them."""
        with self._changed:
            for name in [n for n in self._waiting if track_id in (None, n)]:
                del self._waiting[name]
            running = self._job
            if running is not None and track_id in (None, running.question.track_id):
                running.put_back = False
                running.cancelled.set()

    def answers(self) -> list[Answered]:
        """Return all answers since the last call; replace a thread that died or hangs."""
        self._look_after_thread()
        out = []
        while True:
            try:
                out.append(self._answers.get_nowait())
            except queue.Empty:
                self._counts.answered += len(out)
                return out

    def notices(self) -> list[Notice]:
        """Nothing: the model is here."""
        return []

    def close(self, timeout: float = 30.0) -> bool:
        """End the thread and cancel its question; False if that takes longer than `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            if self._job is not None:
                self._job.cancelled.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        for hook in self._hooks:
            hook.remove()
        return self._thread is None or not self._thread.is_alive()

    # The thread.

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._work, name="sa2va-questions", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        this = threading.current_thread()
        with own_stream(self._model.device):
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._closed or self._thread is not this or bool(self._waiting)
                    )
                    if self._closed or self._thread is not this:
                        return
                    first = min(self._waiting.values(), key=lambda q: q.purpose)
                    del self._waiting[first.track_id]
                    job = self._job = _Job(first, time.monotonic())
                answered = self._answer(job)
                with self._changed:
                    if self._job is not job:  # given up meanwhile; another thread has taken over
                        return
                    self._job = None
                    if not job.cancelled.is_set():
                        self._answers.put(answered)
                        continue
                    self._counts.cancelled += 1
                    if job.put_back and not self._closed:
                        self._waiting.setdefault(first.track_id, first)

    def _answer(self, job: _Job) -> Answered:
        start, reply, error, seen = time.perf_counter(), None, "", None
        question = job.question
        try:
            if question.example is not None:
                seen = question.example.find(self._model, question.frames[-1])
                if seen is not None and seen.embedding is not None:
                    hand_over(seen.embedding)
            else:
                reply = self._model.ground(question.frames, question.expression)
                hand_over(reply.embeddings)
            finish(self._model.device)
        except Exception as problem:  # noqa: BLE001  the track fails, whatever it is; the others live on
            error = f"{type(problem).__name__}: {problem}"
        spent = (time.perf_counter() - start) * 1e3
        return Answered(question, reply, error, spent, sighting=seen)

    def _look_after_thread(self) -> None:
        """Fails the question of a thread that died or took too long, and starts another one."""
        with self._changed:
            if self._thread is None or self._closed:
                return
            job, dead = self._job, not self._thread.is_alive()
            late = job is not None and time.monotonic() - job.started > self._limit
            if not dead and not late:
                return
            self._job = None
            self._counts.restarts += 1
            if job is not None:
                job.cancelled.set()
                why = (
                    "the thread of the language model died; a new one was started"
                    if dead
                    else f"no answer within {self._limit:g} s; the question was given up"
                )
                spent = (time.monotonic() - job.started) * 1e3
                self._answers.put(Answered(job.question, None, why, spent))
            self._start_thread()

    def _stop_if_cancelled(self, module: nn.Module, inputs: Any) -> None:
        job = self._job
        mine = threading.current_thread() is self._thread
        if mine and job is not None and job.cancelled.is_set():
            raise CancelledError("the question was cancelled")


def between_layers(module: nn.Module, check: Any) -> list[Any]:
    """Runs `check` before every layer of every stack of layers."""
    stacks = [m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    return [layer.register_forward_pre_hook(check) for stack in stacks for layer in stack]
