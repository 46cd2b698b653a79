# SPDX-License-Identifier: Apache-2.0
"""The newest frame and the two threads that work on it; plain Python, no ROS.

The camera is faster than the model, so there is one slot: a newer frame takes the place of one that
still waits, and the loss is counted. A frame is prepared while the one before is processed
(`relay.py`). One that fails is counted with its reason, and the threads go on with the next.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from sa2va_ros.node.relay import Relay

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Result = TypeVar("Result")


class Mailbox(Generic[Item]):
    """One slot between a fast giver and a slow taker; the newest item wins."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._item: Item | None = None
        self.received = 0
        self.dropped = 0

    def put(self, item: Item) -> None:
        """Leave an item; one that still waited is dropped and counted."""
        with self._ready:
            self.received += 1
            self.dropped += self._item is not None
            self._item = item
            self._ready.notify()

    def take(self, timeout: float) -> Item | None:
        """The waiting item, or None if none came within `timeout` seconds."""
        with self._ready:
            if self._item is None:
                self._ready.wait(timeout)
            item, self._item = self._item, None
            return item

    def clear(self) -> None:
        """Forget an item that waits; it counts as dropped."""
        with self._ready:
            self.dropped += self._item is not None
            self._item = None


class RateMeter:
    """How often something happened lately: events per second over the last `window` seconds."""

    def __init__(self, window: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window, self._clock = window, clock
        self._times: deque[float] = deque(maxlen=1000)

    def tick(self) -> None:
        """It happened now."""
        self._times.append(self._clock())

    def silence(self) -> float:
        """Seconds since it happened last; NaN if it never did."""
        return self._clock() - self._times[-1] if self._times else float("nan")

    def rate(self) -> float:
        """Events per second; 0 with fewer than two in the window."""
        times = [t for t in tuple(self._times) if t > self._clock() - self._window]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


@dataclass(frozen=True)
class WorkerCounts:
    """What happened to the frames so far.

    Attributes:
        received, dropped, processed, rejected: frames; dropped = replaced by a newer one, rejected
            = failed.
        skipped: frames that nobody wanted.
        rejected_in_row: frames that failed since the last one that did not.
        reasons: how often frames failed, by reason.
        last_reason: why the latest failed frame failed ("" if none did).
    """

    received: int
    dropped: int
    processed: int
    rejected: int
    skipped: int
    rejected_in_row: int
    reasons: dict[str, int]
    last_reason: str


class FrameWorker(Generic[Item, Ready, Result]):
    """Two threads that take the newest frame, work on it and hand the result on.

    Args:
        prepare: what can be done for an item while the one before is processed.
        process: turns an item and what was prepared for it into a result.
        publish: takes the item and its result; runs on the thread of `process`.
        on_error: told about each failed item: the exception that one of these raised, which is counted, never fatal.
        wanted: asked before each item; one that is not wanted is left alone and counted as skipped.
    """

    def __init__(
        self,
        prepare: Callable[[Item], Ready],
        process: Callable[[Item, Ready], Result],
        publish: Callable[[Item, Result], None],
        on_error: Callable[[Exception], None],
        *,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self.mailbox: Mailbox[Item] = Mailbox()
        self.input_rate = RateMeter()
        self.output_rate = RateMeter()
        self._relay: Relay[tuple[Item, Ready]] = Relay()
        self._prepare, self._process, self._publish = prepare, process, publish
        self._on_error, self._wanted = on_error, wanted
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()  # around what both threads count
        self._processed = self._skipped = self._rejected = self._in_row = 0
        self._reasons: Counter[str] = Counter()
        self._last_reason = ""

    def put(self, item: Item) -> None:
        """Hand over the newest frame; never blocks."""
        self.input_rate.tick()
        self.mailbox.put(item)

    def start(self) -> None:
        """Start the threads; running ones are left alone."""
        if self._threads:
            return
        self._stop.clear()
        for name, run in (("frame-ahead", self._run_ahead), ("frame-worker", self._run)):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
            self._threads[-1].start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Stop after the frames in work; one that waits is dropped.

        Returns:
            True if the threads have ended; False if a frame takes longer than `timeout` seconds.
        """
        self._stop.set()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self.mailbox.clear()
        if not self._threads:
            self.mailbox.dropped += self._relay.clear()
        return not self._threads

    def counts(self) -> WorkerCounts:
        """The counters so far."""
        return WorkerCounts(
            received=self.mailbox.received,
            dropped=self.mailbox.dropped,
            processed=self._processed,
            rejected=self._rejected,
            skipped=self._skipped,
            rejected_in_row=self._in_row,
            reasons=dict(self._reasons),
            last_reason=self._last_reason,
        )

    def _run_ahead(self) -> None:
        while not self._stop.is_set():
            if not self._relay.due(timeout=0.1):
                continue
            item = self.mailbox.take(timeout=0.1)
            if item is None or self._stop.is_set():
                self.mailbox.dropped += item is not None
                continue
            try:
                if not self._wanted():
                    self._skipped += 1
                    continue
                self._relay.begin()
                self.mailbox.dropped += self._relay.put((item, self._prepare(item)))
            except Exception as error:  # noqa: BLE001 - reported, not lost; the next one may do better
                self._failed(error)

    def _run(self) -> None:
        while not self._stop.is_set():
            ready = self._relay.take(timeout=0.1)
            if ready is None or self._stop.is_set():
                self.mailbox.dropped += ready is not None
                continue
            try:
                self._publish(ready[0], self._process(*ready))
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(error)
            else:
                with self._lock:
                    self._processed += 1
                    self._in_row = 0
                self.output_rate.tick()

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._last_reason = f"{type(error).__name__}: {error}"
            self._rejected += 1
            self._in_row += 1
            self._reasons[self._last_reason if len(self._reasons) < 50 else "other"] += 1
        self._on_error(error)
