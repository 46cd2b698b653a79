# SPDX-License-Identifier: Apache-2.0
"""GroundingWorker: the newest question wins, what nobody wants is cancelled, new sentences go first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.testing import nano_model
from sa2va_model.tracking.grounding_worker import (
    Answered,
    GroundingQuestion,
    GroundingWorker,
    Purpose,
)
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracks import TrackState

IMAGE = np.zeros((30, 40, 3), np.uint8)


class Held(Sa2VA):
    """Waits at a gate before the first layer, and counts the questions that came through to the end."""

    gate: threading.Event
    asked: list[str]
    done: list[str]

    def ground(
        self, frames: Sequence[np.ndarray], expression: str, **options: object
    ) -> GroundingResult:  # type: ignore[override]
        """Waits, then answers."""
        self.asked.append(expression)
        assert self.gate.wait(20)
        reply = super().ground(frames, expression)
        self.done.append(expression)
        return reply


def held() -> Held:
    model = nano_model()
    model.__class__ = Held
    assert isinstance(model, Held)
    model.gate, model.asked, model.done = threading.Event(), [], []
    return model


def question(track: str, words: str, purpose: Purpose = Purpose.FIND) -> GroundingQuestion:
    return GroundingQuestion(track, words, [IMAGE], 0, 0, 0.0, purpose)


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("timed out")


def answers(asker: GroundingWorker, count: int) -> list[Answered]:
    out: list[Answered] = []
    wait_for(lambda: out.extend(asker.answers()) or len(out) >= count)  # type: ignore[func-returns-value]
    return out


def test_the_newest_question_about_a_track_wins() -> None:
    model = held()
    asker = GroundingWorker(model, background=True)
    asker.ask(question("a", "the mug"))
    wait_for(lambda: model.asked == ["the mug"])
    for words in ("the ball", "the box", "the can"):
        asker.ask(question("b", words))
    model.gate.set()
    assert [a.question.expression for a in answers(asker, 2)] == ["the mug", "the can"]
    assert asker.counts.superseded == 2
    assert asker.close()


def test_what_is_forgotten_is_cancelled_between_layers() -> None:
    model = held()
    asker = GroundingWorker(model, background=True)
    asker.ask(question("a", "the mug"))
    wait_for(lambda: model.asked == ["the mug"])
    asker.forget("a")
    asker.ask(question("b", "the ball"))
    model.gate.set()
    (answer,) = answers(asker, 1)
    assert answer.question.track_id == "b"
    assert not answer.error
    assert model.done == ["the ball"], "the first was broken off inside the model"
    assert asker.counts.cancelled == 1
    assert asker.close()


def test_a_new_sentence_goes_before_a_check_that_runs() -> None:
    model = held()
    asker = GroundingWorker(model, background=True)
    asker.ask(question("a", "the mug", Purpose.VERIFY))
    wait_for(lambda: model.asked == ["the mug"])
    asker.ask(question("b", "the ball"))
    model.gate.set()
    order = [a.question.expression for a in answers(asker, 2)]
    assert order == ["the ball", "the mug"], "and the check is made afterwards"
    assert asker.close()


def test_a_cancelled_model_still_answers_others() -> None:
    """Hooks that cancel belong to the questioner's thread alone."""
    model = held()
    model.gate.set()
    asker = GroundingWorker(model, background=True)
    asker.ask(question("a", "the mug"))
    answers(asker, 1)
    assert model.ground([IMAGE], "the ball").found
    assert asker.close()
    assert model.ground([IMAGE], "the box").found


def test_stopping_a_track_frees_the_model_at_once() -> None:
    model = held()
    live = LiveTracker(model, LiveConfig(background=True, verify_period=0))
    try:
        live.track("the mug")
        live.process(Frame(IMAGE, 0.0, 0))
        wait_for(lambda: model.asked == ["the mug"])
        live.stop()
        live.track("the ball")
        live.process(Frame(IMAGE, 0.1, 1))
        model.gate.set()
        for number in range(2, 500):
            result = live.process(Frame(IMAGE, number / 10, number))
            if result.tracks and result.tracks[0].state != TrackState.PENDING:
                break
            threading.Event().wait(0.01)
        assert model.done == ["the ball"]
    finally:
        live.close()
