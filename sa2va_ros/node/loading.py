# SPDX-License-Identifier: Apache-2.0
"""Something that takes long, done on a thread so that a request to end can be heard meanwhile. No ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sa2va_model.errors import InputError

TELL_EVERY = 5.0  # seconds between two signs of life


class Loading:
    """Runs `work` on a thread of its own.

    Args:
        told: set when the process is asked to end.
    """

    def __init__(self, work: Callable[[], None], told: threading.Event) -> None:
        self._work, self._told = work, told
        self._done = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="loading", daemon=True).start()

    @property
    def ended(self) -> bool:
        """Whether the work is done, or has failed."""
        return self._done.is_set()

    def wait(self, tell: Callable[[], None]) -> None:
        """Return when the work is done; `tell` is called now and then until it is.

        Raises:
            InputError: the process was asked to end; the thread goes on, and must not be waited for.
            BaseException: what the work raised.
        """
        next_sign = time.monotonic() + TELL_EVERY
        while not self._done.wait(0.05):
            if self._told.is_set():
                raise InputError("the node was asked to end while it loaded")
            if time.monotonic() > next_sign:
                tell()
                next_sign += TELL_EVERY
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        finally:
            self._done.set()
