# SPDX-License-Identifier: Apache-2.0
"""Engine: one thread with the model. Jobs in, futures out; what several transports have in common.

Sentences of one robot about the same keyframes become one forward, and so do sentences of several robots (`together`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn

from sa2va_model.device import finish, own_stream, traits_of
from sa2va_model.errors import CancelledError, InputError
from sa2va_model.mllm.chat import clean_expression
from sa2va_model.results import GroundingResult
from sa2va_model.sa2va import Sa2VA
from sa2va_model.tracking.grounding_worker import between_layers
from sa2va_serve.server.adapter_set import AdapterSet
from sa2va_serve.server.errors import (
    AbandonedError,
    BadRequestError,
    LateError,
    ModelFailedError,
    NoAdapterError,
)
from sa2va_serve.server.prefixes import PrefixCache
from sa2va_serve.server.queue import FairQueue, QueuedRequest

TOGETHER = 8


def suited(model: Sa2VA) -> int:
    """Robots whose sentences are answered in one forward.

    A small model on a CPU answers eight in less than half of the time. On CUDA single sentences are graphs that are
    replayed, and several are not; what is quicker has not been measured.
    """
    return 1 if traits_of(model.device).captures else TOGETHER


@dataclass(frozen=True)
class Worked:
    """What became of a job.

    Attributes:
        value: one (reply, scores of its [SEG]) or an error in words for each sentence; or what the job's call returned.
        queued, seconds: waiting, and the model.
        waiting: jobs that waited when it came; `together`: that were answered in the same forward.
    """

    value: Any
    queued: float
    seconds: float
    waiting: int
    together: int


class Engine:
    """Answers jobs with a model.

    Attributes:
        counts: what became of the jobs: answered, failed, late, cancelled; and `forwards`.

    Args:
        prefix_bytes: of the robots' kept prefixes, on the model's device.
        together: robots whose sentences share a forward; 0 = as the device suits.
    """

    def __init__(
        self,
        model: Sa2VA,
        adapters: AdapterSet,
        queue: FairQueue,
        prefix_bytes: int = 2 << 30,
        together: int = 0,
    ) -> None:
        self.model, self.adapters, self.queue = model, adapters, queue
        self.prefixes = PrefixCache(model, prefix_bytes)
        self.counts: Counter[str] = Counter()
        self._together = together or suited(model)
        self._running: list[QueuedRequest] = []
        self._hooks = between_layers(model.mllm, self._stop_if_dropped)
        self._thread = threading.Thread(target=self._work, name="sa2va-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether there is a thread that answers."""
        return self._thread.is_alive()

    def submit(self, job: QueuedRequest) -> Future[Any]:
        """Hand a job over; its future becomes a `Worked`, or a `ServeError`.

        Raises:
            BusyError: it was refused at once.
            NoAdapterError: its adapter is not loaded.
        """
        if job.adapter not in self.adapters.decoders:
            known = sorted(name for name in self.adapters.decoders if name)
            raise NoAdapterError(f"adapter is {job.adapter!r}; loaded are {known or 'none'}")
        self.queue.put(job)
        return job.result

    def close(self, timeout: float = 30.0) -> bool:
        """Take nothing more, finish what waits, and end; False if that takes longer than `timeout` seconds."""
        self.queue.close()
        self._thread.join(timeout)
        for hook in self._hooks:
            hook.remove()
        return not self._thread.is_alive()

    # Its thread.

    def _work(self) -> None:
        with own_stream(self.model.device):
            while jobs := self.queue.take(self.adapters.active, self._together, self._kind):
                now = time.monotonic()
                for job in jobs:
                    if job.dropped:
                        self._end(job, "cancelled", AbandonedError("nobody waits for it"))
                    elif job.deadline < now:
                        self._end(job, "late", LateError("its turn came after its deadline"))
                wanted = [job for job in jobs if not job.result.done()]
                if wanted:
                    self._answer(wanted)

    def _kind(self, job: QueuedRequest) -> Hashable:
        """Sentences about pictures that were read share a forward if they are of the same adapter.

        Reading pictures together is no quicker, and the first would wait for the second.
        """
        shown = job.picture[-self.model.config.keyframes :]
        known = job.call is None and self.prefixes.read(job.robot, job.adapter) == shown
        return job.adapter if known else id(job)

    def _answer(self, jobs: list[QueuedRequest]) -> None:
        started = time.monotonic()
        robots = [list(of_one) for _, of_one in groupby(jobs, lambda job: job.robot)]
        self._running = jobs
        try:
            values = self._values(robots)
        except CancelledError:
            for job in jobs:
                self._end(job, "cancelled", AbandonedError("nobody waits for it"))
            return
        except Exception as error:  # noqa: BLE001  whatever a model throws, the next request may do better
            if len(robots) > 1:  # one robot's request costs no other's
                for of_one in robots:
                    self._answer(of_one)
                return
            for job in jobs:
                self._end(job, "failed", _reason(error))
            return
        finally:
            self._running = []
        seconds = time.monotonic() - started
        self.counts["forwards"] += 1
        self.queue.took(seconds / len(robots))
        for job, value in zip(jobs, values, strict=True):
            worked = Worked(value, started - job.arrived, seconds, job.waiting, len(jobs))
            self._end(job, "answered", worked)

    def _values(self, robots: list[list[QueuedRequest]]) -> list[Any]:
        first = robots[0][0]
        self.adapters.use(first.adapter)
        if first.call is not None:
            with self.model.reading(self.prefixes.of(first.robot, first.adapter)):
                values = [first.call(lambda: first.dropped)]
        else:
            values = self._ground(robots)
        finish(self.model.device)
        self.prefixes.trim()
        return values

    def _ground(self, robots: list[list[QueuedRequest]]) -> list[Any]:
        """What each sentence of each job means, or why it cannot be asked."""
        asked, places = [], []
        for jobs in robots:
            sentences: list[str] = []
            places += [[_place(sentence, sentences) for sentence in job.sentences] for job in jobs]
            session = self.prefixes.of(jobs[0].robot, jobs[0].adapter)
            asked.append((session, jobs[0].frames, sentences))
        answered = self.model.ground_together(asked)
        said = [
            [(reply, self._scores(reply)) for reply in replies]
            for jobs, replies in zip(robots, answered, strict=True)
            for _ in jobs
        ]
        return [
            [place if isinstance(place, str) else of_robot[place] for place in of_job]
            for of_job, of_robot in zip(places, said, strict=True)
        ]

    def _scores(self, reply: GroundingResult) -> list[float]:
        """The probability of each [SEG] when it was written; none where logits were not kept."""
        generated, seg = reply.generated, self.model.mllm.seg_id
        steps = [n for n, token in enumerate(generated.ids) if token == seg]
        if not steps or len(generated.logits) <= max(steps):
            return []
        rows = generated.logits[steps].float()
        return [float(p) for p in torch.softmax(rows, -1)[:, seg]][: len(reply.embeddings)]

    def _stop_if_dropped(self, module: nn.Module, inputs: Any) -> None:
        running = self._running
        mine = threading.current_thread() is self._thread
        if mine and running and all(job.dropped for job in running):
            raise CancelledError("nobody waits for it")

    def _end(self, job: QueuedRequest, what: str, result: Worked | Exception) -> None:
        self.counts[what] += 1
        _set(job.result, result)


def _place(sentence: str, asked: list[str]) -> int | str:
    """Where a sentence stands among those that are asked; one that cannot be costs itself, not those beside it."""
    try:
        clean_expression(sentence)
    except InputError as error:
        return str(error)
    asked.append(sentence)
    return len(asked) - 1


def _reason(error: Exception) -> Exception:
    if isinstance(error, InputError):
        return BadRequestError(str(error))
    return ModelFailedError(f"{type(error).__name__}: {error}")


def _set(future: Future[Any], result: Worked | Exception) -> None:
    """Whoever waited may have gone; a future that was cancelled takes nothing."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
