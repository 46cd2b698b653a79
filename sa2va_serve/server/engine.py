# SPDX-License-Identifier: Apache-2.0
"""Engine: one thread with the model. Jobs in, futures out; what several transports have in common.

Sentences of one robot about the same keyframes become one forward. Prefixes of different robots are read one after the
other: a prefix of five frames fills a GPU by itself, and reading two together would make the first wait for the second
(docs/serving.md).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sa2va_model.device import finish, own_stream
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
    """

    def __init__(
        self, model: Sa2VA, adapters: AdapterSet, queue: FairQueue, prefix_bytes: int = 2 << 30
    ) -> None:
        self.model, self.adapters, self.queue = model, adapters, queue
        self.prefixes = PrefixCache(model, prefix_bytes)
        self.counts: Counter[str] = Counter()
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

    # The thread.

    def _work(self) -> None:
        with own_stream(self.model.device):
            while jobs := self.queue.take(self.adapters.active):
                now = time.monotonic()
                for job in jobs:
                    if job.dropped:
                        self._end(job, "cancelled", AbandonedError("nobody waits for it"))
                    elif job.deadline < now:
                        self._end(job, "late", LateError("its turn came after its deadline"))
                wanted = [job for job in jobs if not job.result.done()]
                if wanted:
                    self._answer(wanted)

    def _answer(self, jobs: list[QueuedRequest]) -> None:
        started = time.monotonic()
        self._running = jobs
        try:
            values = self._values(jobs)
        except CancelledError:
            for job in jobs:
                self._end(job, "cancelled", AbandonedError("nobody waits for it"))
            return
        except InputError as error:
            for job in jobs:
                self._end(job, "failed", BadRequestError(str(error)))
            return
        except Exception as error:  # noqa: BLE001  whatever a model throws, the next request may do better
            for job in jobs:
                self._end(job, "failed", ModelFailedError(f"{type(error).__name__}: {error}"))
            return
        finally:
            self._running = []
        seconds = time.monotonic() - started
        self.counts["forwards"] += 1
        self.queue.took(seconds)
        for job, value in zip(jobs, values, strict=True):
            worked = Worked(value, started - job.arrived, seconds, job.waiting, len(jobs))
            self._end(job, "answered", worked)

    def _values(self, jobs: list[QueuedRequest]) -> list[Any]:
        first = jobs[0]
        self.adapters.use(first.adapter)
        session = self.prefixes.of(first.robot, first.adapter)
        with self.model.reading(session):
            call = first.call
            values = [call(lambda: first.dropped)] if call is not None else self._ground(jobs)
            finish(self.model.device)
        self.prefixes.trim()
        return values

    def _ground(self, jobs: list[QueuedRequest]) -> list[Any]:
        asked: list[str] = []
        places: list[list[int | str]] = []
        for job in jobs:
            places.append([])
            for sentence in job.sentences:
                try:
                    clean_expression(sentence)
                except InputError as error:  # costs its own sentence, not those beside it
                    places[-1].append(str(error))
                    continue
                places[-1].append(len(asked))
                asked.append(sentence)
        replies = self.model.ground_many(jobs[0].frames, asked, keyframes=None) if asked else []
        said = [(reply, self._scores(reply)) for reply in replies]
        return [[p if isinstance(p, str) else said[p] for p in of_job] for of_job in places]

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


def _set(future: Future[Any], result: Worked | Exception) -> None:
    """Whoever waited may have gone; a future that was cancelled takes nothing."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
