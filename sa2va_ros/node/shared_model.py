# SPDX-License-Identifier: Apache-2.0
"""SharedModel: one model in memory for all cameras of a process; one queue of questions, turns at the frames.

The first camera that is configured loads it, the others wait for that and take the same; it is freed with the last.
No ROS.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from sa2va_model.sa2va import Sa2VA
    from sa2va_model.tracking.grounding_worker import GroundingService
    from sa2va_model.tracking.live import LiveConfig
    from sa2va_model.tracking.shared_grounding import SharedGrounding


class SharedModel:
    """The model of several cameras."""

    def __init__(self) -> None:
        self._lock = threading.Condition()  # never held while a model loads: cameras end meanwhile
        self._loading = False
        self._model: Sa2VA | None = None
        self._key: tuple[Any, ...] = ()
        self._users: set[str] = set()
        self._grounding: SharedGrounding | None = None
        self._turns = FairLock()

    def take(self, user: str, key: tuple[Any, ...], load: Callable[[], Sa2VA]) -> Sa2VA:
        """The model, loaded if nobody holds it yet; whoever comes meanwhile waits.

        Args:
            key: what it is loaded from and how.

        Raises:
            InputError: another model is held; others as `load` raises them.
        """
        with self._lock:
            self._lock.wait_for(lambda: not self._loading)
            if self._model is not None and key != self._key:
                raise InputError(
                    f"{user}: asks for the model {key}, and the other cameras hold {self._key}; "
                    "expected the same model, adapter, device, dtype and threads for all"
                )
            if self._model is not None:
                self._users.add(user)
                return self._model
            self._loading = True
        model = None
        try:
            model = load()
            return model
        finally:
            with self._lock:
                self._loading = False
                if model is not None:
                    self._model, self._key = model, key
                    self._users.add(user)
                self._lock.notify_all()

    def put_back(self, user: str) -> None:
        """One user less; the model is let go with the last."""
        with self._lock:
            self._users.discard(user)
            if not self._users:
                self._model, self._grounding = None, None

    def grounding(self, user: str, config: LiveConfig) -> GroundingService:
        """The view of the one queue of questions, of a user who has taken the model."""
        from sa2va_model.tracking.grounding_worker import GroundingWorker
        from sa2va_model.tracking.shared_grounding import SharedGrounding

        with self._lock:
            model = self._model
            assert model is not None, "take() comes first"
            if self._grounding is None:
                self._grounding = SharedGrounding(
                    lambda: GroundingWorker(
                        model, background=config.background, limit=config.answer_limit
                    )
                )
            return self._grounding.view(user)

    @property
    def several(self) -> bool:
        """Whether more than one camera holds it."""
        return len(self._users) > 1

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Work on a frame while no other camera does; who has waited longest goes first."""
        with self._turns.held():
            yield


class FairLock:
    """A lock that is given in the order in which it was asked for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    def __len__(self) -> int:
        """How many hold it or wait for it."""
        return len(self._waiting)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for one's turn, and keep it."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket)
        try:
            yield
        finally:
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()
