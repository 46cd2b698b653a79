# SPDX-License-Identifier: Apache-2.0
"""GroundingServer: the server itself, whatever transport brings the messages (gRPC, Ray Serve).

Requests are checked and their pictures unpacked on the event loop's helper threads; the engine has the model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.mllm.session import fingerprint
from sa2va_model.results import GroundingResult, Turn
from sa2va_model.sa2va import Sa2VA
from sa2va_serve.server.adapter_set import AdapterSet
from sa2va_serve.server.config import ServerLimits
from sa2va_serve.server.engine import Engine, Worked
from sa2va_serve.server.errors import BadRequestError, BusyError, WrongDecoderError
from sa2va_serve.server.metrics import Metrics
from sa2va_serve.server.pictures import PictureCache
from sa2va_serve.server.queue import FairQueue, QueuedRequest
from sa2va_serve.server.rates import Rates
from sa2va_serve.wire import codec
from sa2va_serve.wire import grounding_pb2 as pb

NAMES = 128  # characters of a robot's or a request's id
DECODERS = 2  # threads that unpack pictures
END = None  # of the words of an answer


class GroundingServer:
    """One model for many robots.

    Args:
        adapters: folders; each is asked for by its name.
        name: of the model, for people.
    """

    def __init__(
        self,
        model: Sa2VA,
        limits: ServerLimits | None = None,
        adapters: Sequence[str] = (),
        name: str = "tiny",
    ) -> None:
        self.limits, self.name = limits or ServerLimits(), name
        limits = self.limits
        self._adapters = AdapterSet(model, adapters)
        self._model, self._rates = model, Rates(limits.rate, limits.burst)
        words = model.vocabulary  # an adapter puts it aside while it is used
        self._plurals = words is not None and words.plurals
        queue = FairQueue(limits.waiting, limits.waiting_of_one)
        self.engine = Engine(
            model, self._adapters, queue, limits.prefix_bytes, together=limits.together
        )
        self.metrics = Metrics(self.engine)
        self._pictures = PictureCache(limits.picture_bytes)
        self._unpackers = ThreadPoolExecutor(DECODERS, "sa2va-pictures")
        self.draining = False

    @property
    def queue_length(self) -> int:
        """Requests that wait."""
        return len(self.engine.queue)

    async def drain(self, seconds: float) -> bool:
        """Take nothing more and finish what was begun; False if that takes longer."""
        self.draining = True
        loop = asyncio.get_running_loop()
        ended = await loop.run_in_executor(None, self.engine.close, seconds)
        self._unpackers.shutdown(wait=False)
        return ended

    async def add_adapter(self, folder: str, name: str) -> None:
        """Read one more adapter, unless it is there, between two requests.

        Raises:
            ServeError: it cannot be read, or does not fit.
        """
        if name in self._adapters.decoders:
            return

        def call(cancelled: Callable[[], bool]) -> None:
            if name not in self._adapters.decoders:
                self._adapters.add(folder, name)

        end = time.monotonic() + self.limits.deadline
        await self._wait(QueuedRequest(f"adapter {name}", "", (), [], end, call=call))

    # What can be asked.

    def describe(self) -> pb.DescribeReply:
        """Who serves, and what it takes."""
        limits = self.limits
        return pb.DescribeReply(
            model=self.name,
            decoders=self._adapters.decoders,
            embedding_width=self._model.config.sam2.hidden_dim,
            keyframes=self._model.config.keyframes,
            max_keyframes=limits.keyframes,
            max_sentences=limits.sentences,
            max_bytes=limits.bytes,
            queue_length=self.queue_length,
            draining=self.draining,
            plurals=self._plurals,
        )

    async def ground(self, request: pb.GroundRequest) -> pb.GroundReply:
        """What sentences mean on keyframes.

        Raises:
            ServeError: it is not answered, and why.
        """
        with self.metrics.request("ground") as seen:
            deadline = self._admit(request.header)
            count = len(request.sentences)
            if not 1 <= count <= self.limits.sentences:
                raise BadRequestError(
                    f"sentences: {count} of them; expected 1 to {self.limits.sentences}"
                )
            if not request.keyframes:
                raise BadRequestError("keyframes: none; expected at least one")
            frames, spent = await self._frames(request.keyframes)
            job = self._job(request.header, frames, deadline, sentences=tuple(request.sentences))
            worked = await self._wait(job)
            seen.worked(worked)
            return pb.GroundReply(
                request_id=request.header.request_id,
                stamp_ns=request.keyframes[-1].stamp_ns,
                meanings=[self._meaning(value) for value in worked.value],
                adapter=job.adapter,
                decoder=self._adapters.decoders[job.adapter],
                timings=_timings(worked, spent),
            )

    async def ask(self, request: pb.AskRequest) -> AsyncIterator[pb.AskReply]:
        """The answer to a question: its words as they are written, then all of it.

        Raises:
            ServeError: it is not answered, and why.
        """
        with self.metrics.request("ask") as seen:
            deadline = self._admit(request.header)
            frames, spent = await self._frames(request.keyframes)
            loop, words = asyncio.get_running_loop(), asyncio.Queue[str | None]()

            def tell(delta: str, text: str) -> None:
                loop.call_soon_threadsafe(words.put_nowait, delta)

            call = self._question(request, frames, tell)
            job = self._job(request.header, frames, deadline, call=call)
            waiting = asyncio.ensure_future(self._wait(job))
            waiting.add_done_callback(lambda _: words.put_nowait(END))
            try:
                while (delta := await words.get()) is not END:
                    yield pb.AskReply(request_id=request.header.request_id, delta=delta)
                worked = await waiting
            finally:
                job.cancelled.set()
                waiting.cancel()
            seen.worked(worked)
            reply, turn = worked.value
            yield pb.AskReply(
                request_id=request.header.request_id,
                whole=codec.to_meaning(reply, written=turn.answer),
                decoder=self._adapters.decoders[job.adapter],
                timings=_timings(worked, spent),
            )

    def _question(
        self, request: pb.AskRequest, frames: list[np.ndarray], tell: Callable[[str, str], None]
    ) -> Callable[[Callable[[], bool]], tuple[GroundingResult, Turn]]:
        most = self.limits.answer_tokens or self._model.config.max_new_tokens
        limit = min(request.max_tokens or most, most)
        history = tuple(Turn(turn.question, turn.written) for turn in request.history)

        def call(cancelled: Callable[[], bool]) -> tuple[GroundingResult, Turn]:
            return self._model.say(
                frames,
                request.question,
                history=history,
                max_new_tokens=limit,
                on_text=tell,
                cancelled=cancelled,
            )

        return call

    # On the way to the engine.

    def _admit(self, header: pb.Header) -> float:
        """When nobody waits any more, monotonic seconds; or a refusal."""
        if self.draining:
            raise BusyError("the server ends; expected another one", 1.0, draining=True)
        for field, value in (("robot_id", header.robot_id), ("request_id", header.request_id)):
            if not value or len(value) > NAMES or not value.isprintable():
                raise BadRequestError(f"{field} is {value!r:.40}; expected 1 to {NAMES} characters")
        self._rates.take(header.robot_id)
        known = self._adapters.decoders.get(header.adapter)
        if known is not None and header.decoder and header.decoder != known:
            raise WrongDecoderError(
                f"the robot's mask decoder is {header.decoder}, the server's embeddings"
                f"{f' with adapter {header.adapter!r}' if header.adapter else ''} are for {known}; "
                "expected the same checkpoint on both sides"
            )
        seconds = header.deadline_ms / 1e3 or self.limits.deadline
        deadline = time.monotonic() + min(seconds, self.limits.deadline)
        self.engine.queue.check(header.robot_id, deadline)  # before its pictures are unpacked
        return deadline

    async def _frames(self, keyframes: Sequence[pb.Keyframe]) -> tuple[list[np.ndarray], float]:
        most = self.limits.keyframes
        if len(keyframes) > most:
            raise BadRequestError(f"keyframes: {len(keyframes)} of them; expected at most {most}")
        start, loop = time.perf_counter(), asyncio.get_running_loop()
        frames = [self._pictures.known(keyframe.image) for keyframe in keyframes]
        new = {
            n: loop.run_in_executor(
                self._unpackers, self._pictures.unpack, keyframes[n].image, f"keyframe {n}"
            )
            for n, frame in enumerate(frames)
            if frame is None
        }
        try:
            unpacked = dict(zip(new, await asyncio.gather(*new.values()), strict=True))
        except InputError as error:
            raise BadRequestError(str(error)) from error
        spent = time.perf_counter() - start
        return [unpacked[n] if f is None else f for n, f in enumerate(frames)], spent

    def _job(
        self, header: pb.Header, frames: list[np.ndarray], deadline: float, **what: Any
    ) -> QueuedRequest:
        picture = tuple(fingerprint(frame) for frame in frames)
        return QueuedRequest(header.robot_id, header.adapter, picture, frames, deadline, **what)

    async def _wait(self, job: QueuedRequest) -> Worked:
        future: Future[Any] = self.engine.submit(job)
        try:
            worked: Worked = await asyncio.wrap_future(future)
            return worked
        except asyncio.CancelledError:
            job.cancelled.set()
            raise

    @staticmethod
    def _meaning(value: str | tuple[GroundingResult, list[float]]) -> pb.Meaning:
        if isinstance(value, str):
            return pb.Meaning(error=value)
        reply, scores = value
        return codec.to_meaning(reply, scores, reply.raw)


def _timings(worked: Worked, spent: float) -> pb.Timings:
    return pb.Timings(
        queue_ms=worked.queued * 1e3,
        decode_ms=spent * 1e3,
        model_ms=worked.seconds * 1e3,
        queue_length=worked.waiting,
        together=worked.together,
    )
