"""Robots take turns; what cannot be answered in time is refused at once."""

from __future__ import annotations

import time

import pytest

from sa2va_serve.server.errors import BusyError
from sa2va_serve.server.queue import FairQueue, QueuedRequest
from sa2va_serve.server.rates import Rates


def job(robot: str, picture: int = 0, adapter: str = "", seconds: float = 60.0) -> QueuedRequest:
    return QueuedRequest(robot, adapter, (picture,), [], time.monotonic() + seconds, ("the mug",))


def order(queue: FairQueue) -> list[str]:
    out = []
    while len(queue):
        out.append(queue.take()[0].robot)
    return out


def test_a_robot_that_asks_much_does_not_hold_up_the_others() -> None:
    queue = FairQueue()
    for picture in range(4):
        queue.put(job("greedy", picture))
    queue.put(job("late"))
    queue.put(job("later"))
    assert order(queue) == ["greedy", "late", "later", "greedy", "greedy", "greedy"]


def test_sentences_about_one_picture_are_answered_together() -> None:
    queue = FairQueue()
    for picture in (0, 1, 0):
        queue.put(job("a", picture))
    queue.put(job("b", 0))
    assert [len(queue.take()) for _ in range(3)] == [2, 1, 1]


def test_robots_of_one_kind_are_taken_together_and_each_waits_its_turn_again() -> None:
    queue = FairQueue()
    for robot, picture in (("a", 0), ("b", 9), ("c", 0), ("a", 0), ("c", 1), ("d", 0)):
        queue.put(job(robot, picture))
    taken = [queue.take("", 2, lambda job: job.picture) for _ in range(4)]
    assert [[j.robot for j in jobs] for jobs in taken] == [["a", "a", "c"], ["b"], ["d"], ["c"]]


def test_a_full_queue_refuses_with_the_time_to_wait() -> None:
    queue = FairQueue(most=2, most_of_one=1)
    queue.took(0.5)
    queue.put(job("a"))
    with pytest.raises(BusyError, match="of robot 'a' wait") as own:
        queue.put(job("a"))
    queue.put(job("b"))
    with pytest.raises(BusyError, match="2 requests wait") as full:
        queue.put(job("c"))
    assert own.value.retry_after == pytest.approx(0.5)
    assert full.value.retry_after == pytest.approx(1.0)


def test_what_would_come_too_late_is_refused_at_once() -> None:
    queue = FairQueue()
    queue.took(2.0)
    queue.put(job("a"))
    with pytest.raises(BusyError, match="after the deadline"):
        queue.put(job("b", seconds=1.0))
    queue.put(job("b", seconds=3.0))


def test_a_change_of_adapter_is_put_off_but_not_for_ever() -> None:
    queue = FairQueue(run=2)
    queue.put(job("other", adapter="garden"))
    for name in "abc":
        queue.put(job(name))
    assert order(queue) == ["a", "b", "other", "c"]


def test_a_closed_queue_hands_out_what_waits_and_takes_nothing() -> None:
    queue = FairQueue()
    queue.put(job("a"))
    queue.close()
    with pytest.raises(BusyError, match="ends") as ending:
        queue.put(job("b"))
    assert ending.value.code == "UNAVAILABLE"
    assert [len(queue.take()), queue.take()] == [1, []]


def test_rates_are_those_of_one_robot() -> None:
    rates = Rates(2.0, burst=2)
    rates.take("a", now=0.0)
    rates.take("a", now=0.0)
    with pytest.raises(BusyError) as refused:
        rates.take("a", now=0.1)
    assert refused.value.retry_after == pytest.approx(0.4)
    rates.take("b", now=0.1)
    rates.take("a", now=0.6)
