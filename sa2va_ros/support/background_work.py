# SPDX-License-Identifier: Apache-2.0
"""Something that takes long, done on a thread and looked at now and then. No ROS."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable


class BackgroundWork:
    """Runs `work` on a thread of its own, which nobody has to wait for.

    Attributes:
        error: what the work raised; None if it did not, or is not done.
    """

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self._work = work
        self._done = threading.Event()
        self._last_sign = time.monotonic()
        self.error: BaseException | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def ended(self) -> bool:
        """Whether the work is done, or has failed."""
        return self._done.is_set()

    def sign_of_life(self, period: float) -> bool:
        """Whether it is time to say that it goes on: once in `period` seconds."""
        now = time.monotonic()
        due = now - self._last_sign >= period
        if due:
            self._last_sign = now
        return due

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - told to whoever looks
            self.error = error
        finally:
            self._done.set()


class WorkQueue:
    """Does one thing after the other on a thread of its own, which begins with the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, work: Callable[[], None]) -> None:
        """Have something done that raises nothing; never blocks."""
        self._waiting.put(work)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._waiting.get()()
