# SPDX-License-Identifier: Apache-2.0
"""The node's conversation is the library's: the same prompts, answers and scores."""

from __future__ import annotations

import numpy as np
import pytest

from sa2va_model.errors import CancelledError
from sa2va_model.mllm.chat import Phrase
from sa2va_model.results import Answer, Target, Turn
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_ros.interfaces.conversation import Conversation, QuestionRequest

QUESTIONS = ("what colour is the mug?", "and what is beside it?", "is it full?")


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def sent_prompts(model: Sa2VA, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The token ids of every prompt from now on."""
    sent: list[list[int]] = []
    write = model.mllm.prompt_ids

    def spy(*args: str) -> list[int]:
        sent.append(write(*args))
        return sent[-1]

    monkeypatch.setattr(model.mllm, "prompt_ids", spy)
    return sent


def test_prompts_and_answers_equal_the_librarys(
    rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nano_model()
    sent = sent_prompts(model, monkeypatch)
    history: list[Turn] = []
    expected = []
    for question in QUESTIONS:
        expected.append(model.ask([rgb], question, history=history[-2:]))
        history.append(expected[-1].turn)
    library = list(sent)
    sent.clear()
    conversation = Conversation(model, turns=2)
    ours = [
        conversation.ask(rgb, QuestionRequest(question, use_history=True)) for question in QUESTIONS
    ]
    assert sent == library
    assert len({tuple(ids) for ids in sent}) == 3, "each knows the turns before"
    for one, other in zip(ours, expected, strict=True):
        assert (one.text, one.turn) == (other.text, other.turn)
        assert np.array_equal(one.masks, other.masks)
        assert np.array_equal(one.scores, other.scores)
        assert np.isfinite(one.scores).all()


def test_words_are_told_as_they_come_and_masks_only_if_wanted(rgb: np.ndarray) -> None:
    model = nano_model(answers=False)
    # Greedy decoding of these weights writes nothing but the end: words are put into its mouth.
    told: list[tuple[str, str]] = []
    words = list(model.mllm.tokenizer("A red mug", add_special_tokens=False)["input_ids"])
    end = int(model.mllm.tokenizer.eos_token_id)
    logits = model.mllm.generator.logits
    written = iter([*words, end])

    def dictated(states):  # type: ignore[no-untyped-def]
        out = logits(states)
        out[-1] = -1e9
        out[-1, next(written, end)] = 0.0
        return out

    model.mllm.generator.logits = dictated  # type: ignore[method-assign]
    request = QuestionRequest(
        "what is it?", grounded=False, on_text=lambda *text: told.append(text)
    )
    answer = Conversation(model).ask(rgb, request)
    assert answer.text == "A red mug"
    assert not answer.found
    assert told[-1][1] == "A red mug"
    assert "".join(delta for delta, _ in told) == "A red mug"


def test_a_cancelled_question_ends_at_the_next_token(rgb: np.ndarray) -> None:
    request = QuestionRequest("what is it?", grounded=False)
    request.cancelled.set()
    with pytest.raises(CancelledError):
        Conversation(nano_model()).ask(rgb, request)


def test_a_phrase_has_the_score_of_its_mask() -> None:
    messages = pytest.importorskip("sa2va_ros.msg", exc_type=ImportError)
    import torch
    from std_msgs.msg import Header

    from sa2va_ros.messages.tracks import fill_caption

    masks = np.zeros((2, 1, 4, 5), bool)
    masks[0, 0, 1:3, 2:4] = True
    phrase = Phrase("mug", 0, 3, 0)
    targets = tuple(
        Target(named, torch.zeros(3), tuple(masks[k]), np.array([score], np.float32))
        for k, (named, score) in enumerate([(phrase, 0.75), (None, 0.25)])
    )
    answer = Answer("mug", (phrase,), masks, targets)
    message = fill_caption(
        messages.GroundedCaption(), answer, "?", Header(), new_phrase=messages.GroundedPhrase
    )
    assert [p.score for p in message.phrases] == [0.75, 0.25]
    assert [(p.phrase, p.mask_value) for p in message.phrases] == [("mug", 1), ("", 0)]
