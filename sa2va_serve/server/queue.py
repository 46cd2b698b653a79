# SPDX-License-Identifier: Apache-2.0
"""FairQueue: who is answered next. Robots take turns, however much one of them asks; nothing waits for ever."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sa2va_serve.server.errors import BusyError

LONGEST_WAIT, SHORTEST_WAIT = 30.0, 0.05  # seconds that a refused robot is told to wait


@dataclass
class QueuedRequest:
    """One request that waits or is worked on.

    Attributes:
        picture: equal for equal keyframes shown in the same way; jobs of one robot and picture are answered together.
        sentences: of a grounding; `call`: anything else that is done with the model, alone.
        deadline: monotonic seconds after which nobody waits.
        result: of the engine's; `cancelled`: nobody waits any more.
    """

    robot: str
    adapter: str
    picture: tuple[object, ...]
    frames: list[Any]
    deadline: float
    sentences: tuple[str, ...] = ()
    call: Callable[[Callable[[], bool]], Any] | None = None
    arrived: float = field(default_factory=time.monotonic)
    waiting: int = 0
    result: Future[Any] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def dropped(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.cancelled.is_set() or self.result.cancelled()

    def joins(self, other: QueuedRequest) -> bool:
        """Whether both can be answered in one forward."""
        same = self.robot == other.robot and self.adapter == other.adapter
        return same and self.picture == other.picture and bool(self.sentences and other.sentences)


class FairQueue:
    """Jobs by robot; `take` goes round the robots, and within one the oldest comes first.

    Args:
        most: jobs that may wait; `most_of_one`: of one robot.
        run: so many jobs with the adapter in force may overtake a robot with another, since a change costs.
    """

    def __init__(self, most: int = 64, most_of_one: int = 4, run: int = 8) -> None:
        self.most, self.most_of_one, self._run = most, most_of_one, run
        self._jobs: OrderedDict[str, deque[QueuedRequest]] = OrderedDict()
        self._changed = threading.Condition()
        self._overtaken, self._open = 0, True
        self._seconds = 0.0  # that a job took lately

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def put(self, job: QueuedRequest) -> None:
        """Take a job.

        Raises:
            BusyError: too many wait, or it could not be answered before its deadline.
        """
        with self._changed:
            self._check(job.robot, job.deadline)
            job.waiting = len(self)
            self._jobs.setdefault(job.robot, deque()).append(job)
            self._changed.notify()

    def check(self, robot: str, deadline: float) -> None:
        """Refuse what `put` would refuse now, before anything is spent on it.

        Raises:
            BusyError: as `put`.
        """
        with self._changed:
            self._check(robot, deadline)

    def _check(self, robot: str, deadline: float) -> None:
        if not self._open:
            raise BusyError("the server ends; expected another one", 1.0, draining=True)
        waiting, own = len(self), len(self._jobs.get(robot, ()))
        if own >= self.most_of_one:
            raise BusyError(
                f"{own} requests of robot {robot!r} wait; expected fewer", self.wait(own)
            )
        if waiting >= self.most:
            raise BusyError(
                f"{waiting} requests wait; expected fewer than {self.most}", self.wait(waiting)
            )
        # A fair turn comes after one job of every robot that waits, and after one's own.
        ahead = self._seconds * (len(self._jobs) + own)
        if ahead > deadline - time.monotonic():
            raise BusyError(
                f"the wait is about {ahead:.1f} s, which is after the deadline", self.wait(waiting)
            )

    def wait(self, jobs: int) -> float:
        """Seconds after which `jobs` that wait are likely done."""
        return min(max(jobs * self._seconds, SHORTEST_WAIT), LONGEST_WAIT)

    def took(self, seconds: float) -> None:
        """Tell how long a job took, without its waiting."""
        with self._changed:
            self._seconds = 0.8 * self._seconds + 0.2 * seconds if self._seconds else seconds

    def take(
        self, adapter: str = "", robots: int = 1, kind: Callable[[QueuedRequest], Hashable] = id
    ) -> list[QueuedRequest]:
        """The next job and those that can be answered with it; waits for one. Empty = closed, and nothing is left.

        Args:
            adapter: in force.
            robots: of so many at most; the jobs of each stand together, and are about one picture.
            kind: jobs of different robots are answered together where it is equal.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or not self._open)
                if not self._jobs:
                    return []
                chosen = self._next_robot(adapter)
                wanted = kind(self._jobs[chosen][0])
                others = (
                    robot
                    for robot, jobs in self._jobs.items()
                    if robot != chosen and kind(jobs[0]) == wanted
                )
                taken = [chosen, *islice(others, robots - 1)]
                return [job for robot in taken for job in self._take_of(robot)]

    def _take_of(self, robot: str) -> list[QueuedRequest]:
        """A robot's oldest job, and its others about the same picture; what is left comes last in the round."""
        own = self._jobs.pop(robot)
        first = own.popleft()
        rest = deque(job for job in own if not job.joins(first))
        if rest:
            self._jobs[robot] = rest
        return [first, *(job for job in own if job.joins(first))]

    def _next_robot(self, adapter: str) -> str:
        first = next(iter(self._jobs))
        if self._jobs[first][0].adapter != adapter and self._overtaken < self._run:
            for robot, jobs in self._jobs.items():
                if jobs[0].adapter == adapter:
                    self._overtaken += 1
                    return robot
        self._overtaken = 0
        return first

    def close(self) -> None:
        """Take no more jobs; those that wait are still handed out."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
