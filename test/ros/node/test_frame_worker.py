# SPDX-License-Identifier: Apache-2.0
"""The newest-frame mailbox and its thread, without ROS."""

from __future__ import annotations

import threading
import time

from sa2va_ros.node.frame_worker import FrameWorker, Mailbox, RateMeter
from sa2va_ros.node.relay import Relay


def wait_for(condition: object, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.005)
    return False


def as_it_is(item: int) -> int:
    return item


def test_the_newest_item_wins_and_the_loss_is_counted() -> None:
    box: Mailbox[int] = Mailbox()
    for item in (1, 2, 3):
        box.put(item)
    assert box.take(0.0) == 3
    assert box.take(0.0) is None
    assert (box.received, box.dropped) == (3, 2)
    box.put(4)
    box.clear()
    assert box.take(0.0) is None
    assert (box.received, box.dropped) == (4, 3)


def test_a_slow_worker_sees_the_newest_and_every_frame_is_accounted_for() -> None:
    started, gate, seen = threading.Event(), threading.Event(), []
    prepared: list[int] = []

    def process(item: int, ready: int) -> int:
        started.set()
        gate.wait(5)
        return item * 10

    worker = FrameWorker(
        lambda item: prepared.append(item) or item,
        process,
        lambda item, result: seen.append((item, result)),
        print,
    )
    worker.start()
    worker.put(0)
    assert started.wait(5)
    worker.put(1)  # is prepared meanwhile
    assert wait_for(lambda: len(prepared) == 2)
    for item in range(2, 7):
        worker.put(item)
    gate.set()
    assert wait_for(lambda: seen[-1:] == [(6, 60)])
    assert seen[0] == (0, 0)
    assert wait_for(lambda: worker.counts().processed == len(seen))
    counts = worker.counts()
    assert counts.received == 7
    assert counts.processed + counts.dropped == 7
    assert worker.stop()


def test_a_failing_frame_is_counted_by_reason_and_the_next_one_works() -> None:
    seen, errors = [], []

    def process(item: int, ready: int) -> int:
        if item % 2:
            raise ValueError("odd frame")
        return item

    worker = FrameWorker(as_it_is, process, lambda item, result: seen.append(result), errors.append)
    worker.start()
    for item in range(6):
        worker.put(item)
        assert wait_for(lambda n=item: len(seen) + len(errors) == n + 1)
    assert seen == [0, 2, 4]
    counts = worker.counts()
    assert counts.reasons == {"ValueError: odd frame": 3}
    assert (counts.rejected, counts.processed) == (3, 3)
    assert counts.last_reason == "ValueError: odd frame"
    assert worker.stop()


def test_what_publish_raises_is_survived_too() -> None:
    errors: list[Exception] = []

    def publish(item: int, result: int) -> None:
        raise RuntimeError("nobody there")

    worker = FrameWorker(as_it_is, lambda item, ready: ready, publish, errors.append)
    worker.start()
    worker.put(1)
    assert wait_for(lambda: worker.counts().rejected == 1)
    worker.put(2)
    assert wait_for(lambda: worker.counts().rejected == 2)
    assert worker.stop()


def test_it_stops_within_a_second_and_starts_again() -> None:
    seen: list[int] = []
    worker = FrameWorker(
        as_it_is, lambda item, ready: ready, lambda item, result: seen.append(result), print
    )
    for round_ in range(2):
        worker.start()
        worker.start()  # a second start changes nothing
        worker.put(round_)
        assert wait_for(lambda n=round_: len(seen) == n + 1)
        began = time.monotonic()
        assert worker.stop()
        assert time.monotonic() - began < 1.0
    before = threading.active_count()
    worker.put(9)
    time.sleep(0.05)
    assert seen == [0, 1]  # nothing is worked on after the stop
    assert threading.active_count() == before


def test_rates_count_the_recent_past_only() -> None:
    now = [0.0]
    meter = RateMeter(window=5.0, clock=lambda: now[0])
    assert meter.rate() == 0.0
    for i in range(100):
        now[0] = i / 10
        meter.tick()
    assert abs(meter.rate() - 10.0) < 1e-6
    now[0] = 60.0
    assert meter.rate() == 0.0


def test_a_frame_that_takes_long_is_waited_for_later() -> None:
    started, gate = threading.Event(), threading.Event()

    def process(item: int, ready: int) -> int:
        started.set()
        gate.wait(10)
        return item

    worker = FrameWorker(as_it_is, process, lambda item, result: None, print)
    worker.start()
    worker.put(1)
    assert started.wait(5)
    assert not worker.stop(0.05)
    gate.set()
    assert worker.stop(5.0)


def test_a_frame_is_prepared_while_the_one_before_is_processed_and_anew_when_it_is_stale() -> None:
    prepared: list[int] = []
    processed: list[int] = []
    meet = threading.Barrier(2, timeout=10)

    def prepare(item: int) -> int:
        if item == 1:
            meet.wait()  # nobody comes unless both go on at once
        prepared.append(item)
        return item

    def process(item: int, ready: int) -> int:
        if item == 0:
            meet.wait()
            assert wait_for(lambda: prepared == [0, 1])
            worker.put(2)
            worker.put(3)
            assert wait_for(lambda: 3 in prepared)
        return ready

    errors: list[Exception] = []
    worker = FrameWorker(
        prepare, process, lambda item, result: processed.append(result), errors.append
    )
    worker.start()
    worker.put(0)
    assert wait_for(lambda: prepared == [0])
    worker.put(1)
    assert wait_for(lambda: processed[-1:] == [3])
    assert worker.stop()
    assert errors == []
    assert processed == [0, 3]
    counts = worker.counts()
    assert counts.received == counts.processed + counts.dropped == 4


def test_what_prepare_raises_is_counted_and_the_next_frame_works() -> None:
    seen: list[int] = []
    errors: list[Exception] = []

    def prepare(item: int) -> int:
        if item == 0:
            raise ValueError("no image")
        return item

    worker = FrameWorker(
        prepare, lambda item, ready: ready, lambda item, result: seen.append(result), errors.append
    )
    worker.start()
    worker.put(0)
    assert wait_for(lambda: worker.counts().rejected == 1)
    assert worker.counts().rejected_in_row == 1
    worker.put(1)
    assert wait_for(lambda: seen == [1])
    assert worker.counts().rejected_in_row == 0
    assert worker.stop()
    assert [str(error) for error in errors] == ["no image"]


def test_the_first_stage_begins_so_late_that_it_is_done_in_time() -> None:
    now = [0.0]
    relay: Relay[int] = Relay(clock=lambda: now[0])
    for _ in range(40):  # the first takes 20 ms, the second 100
        assert relay.due(0.0)
        relay.begin()
        now[0] += 0.02
        relay.put(1)
        assert not relay.due(0.0)  # one waits
        now[0] += 0.03
        assert not relay.due(0.0)
        assert relay.take(0.0) == 1
        now[0] += 0.1
        assert relay.take(0.0) is None
    assert relay.due(0.0)  # the second waits: at once
    relay.begin()
    now[0] += 0.02
    assert not relay.put(2)
    now[0] += 0.041  # the second takes longer than ever
    assert relay.due(0.0)
    relay.begin()
    now[0] += 0.02
    assert relay.put(3)
    assert relay.take(0.0) == 3
    now[0] += 0.059
    assert not relay.due(0.0)
    now[0] += 0.002
    assert relay.due(0.0)
