# SPDX-License-Identifier: Apache-2.0
"""What a server counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sa2va_serve.server.errors import ServeError

if TYPE_CHECKING:
    from sa2va_serve.server.engine import Engine, Worked

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The numbers of one server; `registry` has them."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        kept = self.registry
        self._requests = Counter(
            "sa2va_requests",
            "Requests by kind and how they ended.",
            ["kind", "code"],
            registry=kept,
        )
        self._seconds = Histogram(
            "sa2va_request_seconds",
            "From arrival to answer.",
            ["kind"],
            buckets=SECONDS,
            registry=kept,
        )
        self._queued = Histogram(
            "sa2va_queue_seconds", "Waiting for its turn.", buckets=SECONDS, registry=kept
        )
        self._model = Histogram(
            "sa2va_model_seconds",
            "The language model, for one forward.",
            buckets=SECONDS,
            registry=kept,
        )
        self._together = Histogram(
            "sa2va_together", "Requests in one forward.", buckets=(1, 2, 4, 8), registry=kept
        )
        waiting = Gauge("sa2va_waiting", "Requests that wait.", registry=kept)
        waiting.set_function(lambda: len(engine.queue))
        robots = Gauge("sa2va_prefixes", "Robots whose last frames are kept.", registry=kept)
        robots.set_function(lambda: len(engine.prefixes))
        size = Gauge(
            "sa2va_prefix_bytes", "Bytes of what is kept of the last frames.", registry=kept
        )
        size.set_function(lambda: engine.prefixes.bytes)

    @contextmanager
    def request(self, kind: str) -> Iterator[Metrics]:
        """Count one request, and how it ended."""
        start, code = time.perf_counter(), "CANCELLED"
        try:
            yield self
            code = "OK"
        except ServeError as error:
            code = error.code
            raise
        except Exception:
            code = "INTERNAL"
            raise
        finally:
            self._requests.labels(kind, code).inc()
            self._seconds.labels(kind).observe(time.perf_counter() - start)

    def worked(self, worked: Worked) -> None:
        """Note what the engine did."""
        self._queued.observe(worked.queued)
        self._model.observe(worked.seconds)
        self._together.observe(worked.together)
