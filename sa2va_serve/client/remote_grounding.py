# SPDX-License-Identifier: Apache-2.0
"""RemoteGrounding: asks a server in place of the language model on board; questions go in, answers come out.

One thread prepares requests and takes answers; it never waits for the network, and nobody waits for it. While the
link is lost, a new sentence waits (or goes to a model on board), and checks and searches are left out: what is
followed needs neither. When the link is back, a sentence that waited is put again, on the newest frames.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import torch

from sa2va_model.errors import InputError
from sa2va_model.tracking.grounding_worker import (
    Answered,
    GroundingQuestion,
    GroundingService,
    Notice,
    Purpose,
    QuestionCounts,
)
from sa2va_model.tracks import EventKind, Reason
from sa2va_serve.client.channel import Channel, failure, pushback
from sa2va_serve.client.config import RemoteConfig
from sa2va_serve.client.link import Link
from sa2va_serve.wire import codec
from sa2va_serve.wire import grounding_pb2 as pb

FRESH = 1.0  # seconds after which a question that waited is put again on newer frames
TRIES = 3  # of one question on a link that is up
BUSY_SECONDS = 0.5  # where a busy server does not say when to come again
_ON_THE_WAY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,  # a replica of Ray Serve that died
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_NOT_SERVED = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
)


@dataclass
class _Open:
    """A question that is on its way."""

    question: GroundingQuestion
    asked: float
    tries: int
    call: Any = None
    forgotten: bool = False


class RemoteGrounding:
    """Answers questions with a server.

    Args:
        decoder: fingerprint of the mask decoder on board.
        device: where embeddings are put.
        background: False = `answers` waits for what is open, for a file: at most the configuration's deadline.
        fallback: answers while the link is lost; begun when that happens for the first time. It must be for the same
            mask decoder.
    """

    def __init__(
        self,
        config: RemoteConfig,
        decoder: str,
        device: torch.device | str = "cpu",
        *,
        background: bool = True,
        fallback: Callable[[], GroundingService] | None = None,
    ) -> None:
        self.config, self._decoder, self._device = config, decoder, device
        self._background, self._channel = background, Channel(config)
        self._link = Link(config, decoder, time.monotonic())
        self._fallback = _Fallback(fallback) if fallback is not None else None
        self._answers: queue.SimpleQueue[Answered] = queue.SimpleQueue()
        self._waiting: dict[str, tuple[GroundingQuestion, float, int]] = {}
        self._open: dict[int, _Open] = {}
        self._finished: list[tuple[int | None, Any]] = []  # of calls; None = the probe
        self._probing, self._hold_until, self._number = False, 0.0, 0
        self._unanswered = 0
        self._changed = threading.Condition()
        self._closed, self._counts = False, QuestionCounts()
        self._thread = threading.Thread(target=self._work, name="sa2va-link", daemon=True)
        self._thread.start()

    # GroundingService.

    @property
    def counts(self) -> QuestionCounts:
        """What became of the questions so far."""
        return self._counts

    @property
    def plurals(self) -> bool:
        """Whether the served model was taught sentences that mean many."""
        return self._link.plurals

    @property
    def problem(self) -> str:
        """Why the link is lost; "" if it is not, or nobody knows yet."""
        return self._link.why

    @property
    def connected(self) -> bool:
        """Whether the server can be asked."""
        return self._link.up

    @property
    def falls_back(self) -> bool:
        """Whether a model on board answers meanwhile."""
        return self._fallback is not None and not self._link.up and self._fallback.ready

    def ask(self, question: GroundingQuestion) -> None:
        """Hand a question over. A newer one about the same track takes the place of one that waits."""
        if question.example is not None:  # pictures of it are not sent
            why = "an example is looked for by a model on board; expected grounder local"
            self._answers.put(Answered(question, None, why, 0.0))
            return
        with self._changed:
            self._counts.asked += 1
            self._counts.superseded += question.track_id in self._waiting
            self._unanswered += question.track_id not in self._waiting
            self._waiting[question.track_id] = (question, time.monotonic(), 0)
            self._changed.notify()

    def forget(self, track_id: str | None = None) -> None:
        """Drop the questions of one track, or all, and cancel those that are on their way."""
        with self._changed:
            for name in [n for n in self._waiting if track_id in (None, n)]:
                del self._waiting[name]
                self._unanswered -= 1
            for item in self._open.values():
                if track_id in (None, item.question.track_id) and not item.forgotten:
                    item.forgotten = True
                    self._counts.cancelled += 1
                    self._unanswered -= 1
                    if item.call is not None:
                        item.call.cancel()
        if self._fallback is not None:
            self._fallback.forget(track_id)

    def answers(self) -> list[Answered]:
        """Return the answers since the last call."""
        if not self._background:
            self._await_answers()
        out = [] if self._fallback is None else self._fallback.answers()
        while True:
            try:
                out.append(self._answers.get_nowait())
            except queue.Empty:
                self._counts.answered += len(out)
                return out

    def notices(self) -> list[Notice]:
        """Return what happened to the link since the last call."""
        with self._changed:
            changes = self._link.changes()
        return [
            Notice(EventKind.RESTORED if c.up else EventKind.DEGRADED, Reason.LINK, c.why)
            for c in changes
        ]

    def close(self, timeout: float = 30.0) -> bool:
        """End the thread and cancel what is on its way; False if that takes longer than `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(timeout)
        self._channel.close()
        ended = self._fallback is None or self._fallback.close(timeout)
        return ended and not self._thread.is_alive()

    def _await_answers(self) -> None:
        end = time.monotonic() + self.config.deadline
        with self._changed:
            while self._unanswered and time.monotonic() < end:
                self._changed.wait(0.05)
            for name in list(self._waiting):
                question, since, _ = self._waiting.pop(name)
                self._answer(question, since, error=self._link.why or "the server did not answer")

    # The thread.

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._finished and not self._closed:
                    self._changed.wait(self._until_next())
                if self._closed:
                    return
                finished, self._finished = self._finished, []
            for number, call in finished:
                if number is None:
                    self._take_probe(call)
                else:
                    self._take_answer(number, call)
            self._probe()
            if self._link.up:
                self._send()
            else:
                self._serve_without()

    def _until_next(self) -> float:
        now = time.monotonic()
        due = [] if self._probing else [self._link.next_probe - now]
        if self._waiting and self._link.up and len(self._open) < self.config.in_flight:
            due.append(self._hold_until - now)
        if self._waiting and self._fallback is not None and not self._link.up:
            due.append(0.05)
        return min(max(min(due, default=1.0), 0.0), 1.0)

    def _done(self, number: int | None, call: Any) -> None:
        """Called by gRPC, on one of its threads."""
        with self._changed:
            self._finished.append((number, call))
            self._changed.notify_all()

    def _probe(self) -> None:
        if self._probing or time.monotonic() < self._link.next_probe:
            return
        self._probing = True
        self._channel.describe(self.config.probe_limit, partial(self._done, None))

    def _take_probe(self, call: Any) -> None:
        self._probing, now = False, time.monotonic()
        if call.code() is grpc.StatusCode.OK:
            reply: pb.DescribeReply = call.result()
            with self._changed:
                was = self._link.up
                decoders = dict(reply.decoders)
                self._link.answered(decoders, reply.max_bytes, now, plurals=reply.plurals)
                if self._link.up and not was:
                    self._put_again(now)
            return
        code, detail = failure(call)
        with self._changed:
            self._link.lost(f"{self.config.address}: {detail}", now)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._channel.reopen()

    def _put_again(self, now: float) -> None:
        for name in list(self._waiting):
            question, since, _ = self._waiting[name]
            if now - since > FRESH and self._background:
                del self._waiting[name]
                self._answer(question, since, again=True)

    def _serve_without(self) -> None:
        """While the link is lost."""
        fallback = self._fallback
        with self._changed:
            if not self._link.why:
                return  # nobody knows yet
            for name in list(self._waiting):
                question, since, _ = self._waiting[name]
                if fallback is not None and fallback.begin():
                    del self._waiting[name]
                    self._unanswered -= 1
                    fallback.ask(question)
                elif question.purpose != Purpose.FIND:
                    del self._waiting[name]
                    self._answer(question, since, error=self._link.why)

    def _send(self) -> None:
        while True:
            with self._changed:
                free = len(self._open) < self.config.in_flight
                if not self._waiting or not free or time.monotonic() < self._hold_until:
                    return
                name = min(self._waiting, key=lambda n: self._waiting[n][0].purpose)
                question, since, tries = self._waiting.pop(name)
                self._number += 1
                number = self._number
                item = self._open[number] = _Open(question, since, tries + 1)
            try:
                request = self._request(number, question)
            except InputError as error:
                with self._changed:
                    del self._open[number]
                    if not item.forgotten:
                        self._answer(question, since, error=str(error))
                continue
            call = self._channel.ground(request, self.config.deadline, partial(self._done, number))
            with self._changed:
                item.call = call
                if item.forgotten:
                    call.cancel()

    def _request(self, number: int, question: GroundingQuestion) -> pb.GroundRequest:
        most = int((self._link.most_bytes or codec.MAX_PIXELS) * 0.98)
        images = [codec.encode_image(rgb, self.config.encoding) for rgb in question.frames]
        if sum(map(len, images)) > most and self.config.encoding == "png":
            images = [codec.encode_image(rgb, "jpeg") for rgb in question.frames]
        while len(images) > 1 and sum(map(len, images)) > most:
            images.pop(0)  # the newest says most
        header = pb.Header(
            robot_id=self.config.name,
            request_id=str(number),
            adapter=self.config.adapter,
            decoder=self._decoder,
            deadline_ms=int(self.config.deadline * 1e3),
        )
        keyframes = [pb.Keyframe(image=image) for image in images]
        keyframes[-1].stamp_ns = round(question.stamp * 1e9)
        return pb.GroundRequest(header=header, keyframes=keyframes, sentences=[question.expression])

    def _take_answer(self, number: int, call: Any) -> None:
        now = time.monotonic()
        with self._changed:
            item = self._open.pop(number)
            if item.forgotten:
                return
        question, since = item.question, item.asked
        if call.code() is grpc.StatusCode.OK:
            self._take_reply(number, item, call.result())
            return
        code, detail = failure(call)
        wait = pushback(call)
        with self._changed:
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait is not None:
                self._hold_until = now + (wait or BUSY_SECONDS)
                self._put_back(item, item.tries - 1)
            elif code in _NOT_SERVED:
                self._link.lost(f"{self.config.address}: {detail}", now)
                self._put_back(item, item.tries - 1)
            elif code in _ON_THE_WAY and item.tries < TRIES:
                self._link.doubted(now)
                self._put_back(item, item.tries)
                # Not before it is known whether the link is up.
                self._hold_until = now + (wait or self.config.shortest_pause)
            else:
                self._link.doubted(now)
                self._answer(question, since, error=f"{self.config.address}: {detail}")

    def _put_back(self, item: _Open, tries: int) -> None:
        """A question waits again, unless a newer one about the same track does."""
        name = item.question.track_id
        if name in self._waiting:
            self._unanswered -= 1
        else:
            self._waiting[name] = (item.question, item.asked, tries)

    def _take_reply(self, number: int, item: _Open, reply: pb.GroundReply) -> None:
        error, result = "", None
        if reply.request_id != str(number) or len(reply.meanings) != 1:
            error = f"{self.config.address}: the answer is to another question"
        elif reply.decoder != self._decoder:
            error = f"{self.config.address}: the embeddings are for another mask decoder"
        else:
            error = reply.meanings[0].error
        if not error:
            try:
                result = codec.from_meaning(reply.meanings[0], self._device)
            except InputError as problem:
                error = str(problem)
        with self._changed:
            self._answer(item.question, item.asked, result, error=error)

    def _answer(
        self,
        question: GroundingQuestion,
        since: float,
        reply: Any = None,
        *,
        error: str = "",
        again: bool = False,
    ) -> None:
        self._unanswered -= 1
        spent = (time.monotonic() - since) * 1e3
        self._answers.put(Answered(question, reply, error, spent, again))
        self._changed.notify_all()


class _Fallback:
    """A grounding on board, made on a thread of its own when it is first needed."""

    def __init__(self, make: Callable[[], GroundingService]) -> None:
        self._make = make
        self._service: GroundingService | None = None
        self._thread: threading.Thread | None = None
        self.problem = ""

    @property
    def ready(self) -> bool:
        return self._service is not None

    def begin(self) -> bool:
        """Whether it can be asked; it is made if it is not there."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sa2va-fallback", daemon=True)
            self._thread.start()
        return self.ready

    def _run(self) -> None:
        try:
            self._service = self._make()
        except Exception as error:  # noqa: BLE001 - sentences then wait, as without it
            self.problem = f"{type(error).__name__}: {error}"

    def ask(self, question: GroundingQuestion) -> None:
        assert self._service is not None
        self._service.ask(question)

    def forget(self, track_id: str | None) -> None:
        if self._service is not None:
            self._service.forget(track_id)

    def answers(self) -> list[Answered]:
        return [] if self._service is None else self._service.answers()

    def close(self, timeout: float) -> bool:
        return self._service is None or self._service.close(timeout)
