# SPDX-License-Identifier: Apache-2.0
"""SharedGrounding: one queue of questions for several trackers on one model.

Each tracker has a view of its own, under which its tracks' ids are its own. Questions of all of them wait in one queue:
new objects first, then lost ones, then checks, in the order in which they came.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from sa2va_model.tracking.grounding_worker import (
    Answered,
    GroundingQuestion,
    GroundingService,
    Notice,
    QuestionCounts,
)

Item = TypeVar("Item")
_BETWEEN = "\n"  # of a view's name and a track's id; in neither of them


class SharedGrounding:
    """Lends views of one service; it ends with the last of them.

    Args:
        begin: makes the service when the first view is taken, and again after the last one was closed.
    """

    def __init__(self, begin: Callable[[], GroundingService]) -> None:
        self._begin = begin
        self._lock = threading.Lock()
        self._service: GroundingService | None = None
        self._views: dict[str, GroundingView] = {}

    def view(self, name: str) -> GroundingView:
        """The service as one tracker sees it.

        Raises:
            ValueError: another tracker of that name uses it.
        """
        with self._lock:
            if name in self._views:
                raise ValueError(f"grounding view {name!r} is in use")
            self._service = self._service or self._begin()
            view = self._views[name] = GroundingView(name, self, self._service)
            return view

    def distribute(self) -> None:
        """Hand all answers to the views that asked."""
        with self._lock:
            if self._service is None:
                return
            for answered in self._service.answers():
                name, _, track_id = answered.question.track_id.partition(_BETWEEN)
                if (view := self._views.get(name)) is not None:
                    own = replace(answered.question, track_id=track_id)
                    view.deliver(replace(answered, question=own))
            for notice in self._service.notices():
                for view in self._views.values():
                    view.tell(notice)

    def give_back(self, view: GroundingView, timeout: float) -> bool:
        """Close a view; the service ends with the last one, False if that takes longer than `timeout` seconds."""
        with self._lock:
            if self._views.pop(view.name, None) is None or self._views:
                return True
            service, self._service = self._service, None
        return service is None or service.close(timeout)


class GroundingView:
    """A `GroundingService` for one of several trackers."""

    def __init__(self, name: str, shared: SharedGrounding, service: GroundingService) -> None:
        self.name = name
        self._shared, self._service = shared, service
        self._answers: queue.SimpleQueue[Answered] = queue.SimpleQueue()
        self._notices: queue.SimpleQueue[Notice] = queue.SimpleQueue()
        self._open: set[str] = set()  # full ids of tracks that were asked about
        self._asked = self._answered = 0

    @property
    def counts(self) -> QuestionCounts:
        """Own questions and answers; what was superseded, cancelled or restarted, of all views together."""
        return replace(self._service.counts, asked=self._asked, answered=self._answered)

    @property
    def plurals(self) -> bool:
        """Whether the model was taught sentences that mean many."""
        return self._service.plurals

    def ask(self, question: GroundingQuestion) -> None:
        """Take a question; a newer one about the same track takes the place of one that waits."""
        self._asked += 1
        full = f"{self.name}{_BETWEEN}{question.track_id}"
        self._open.add(full)
        self._service.ask(replace(question, track_id=full))

    def forget(self, track_id: str | None = None) -> None:
        """Drop the questions about one track, or all of this view."""
        own = f"{self.name}{_BETWEEN}{track_id}"
        for full in [o for o in self._open if track_id is None or o == own]:
            self._open.discard(full)
            self._service.forget(full)

    def answers(self) -> list[Answered]:
        """Return the answers to own questions since the last call."""
        self._shared.distribute()
        out = _drain(self._answers)
        self._answered += len(out)
        return out

    def notices(self) -> list[Notice]:
        """Return what all views are to be told since the last call."""
        self._shared.distribute()
        return _drain(self._notices)

    def deliver(self, answered: Answered) -> None:
        """Keep an answer until it is asked for."""
        self._open.discard(f"{self.name}{_BETWEEN}{answered.question.track_id}")
        self._answers.put(answered)

    def tell(self, notice: Notice) -> None:
        """Keep a notice until it is asked for."""
        self._notices.put(notice)

    def close(self, timeout: float = 30.0) -> bool:
        """End; False if the model works on something that takes longer than `timeout` seconds."""
        self.forget()
        return self._shared.give_back(self, timeout)


def _drain(items: queue.SimpleQueue[Item]) -> list[Item]:
    out = []
    while not items.empty():
        out.append(items.get())
    return out
