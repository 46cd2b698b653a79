# SPDX-License-Identifier: Apache-2.0
"""Decoding with caches, with known answers and with shared prefixes = decoding token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sa2va_model.errors import CancelledError
from sa2va_model.mllm.decoding.draft_answers import DraftAnswers
from sa2va_model.mllm.decoding.generation import Generator
from sa2va_model.mllm.decoding.token_tree import tree_attention
from sa2va_model.mllm.registry import nano_names
from sa2va_model.mllm.types import Generated, Inputs, UnreadPrefix
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model

LIMIT = 8
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model() -> Sa2VA:
    """Writes what its random weights say."""
    model = nano_model(answers=False)
    outputs = model.mllm.language_model.get_output_embeddings().weight
    with torch.no_grad():
        outputs.copy_(torch.randn(outputs.shape, generator=torch.Generator().manual_seed(9)))
    return model


@pytest.fixture(scope="module")
def prompt(model: Sa2VA) -> torch.Tensor:
    ids = torch.tensor([model.mllm.prompt_ids("where is the red mug?")])
    with torch.inference_mode():
        return model.mllm.embed(ids, None)


@pytest.fixture(scope="module")
def slow(model: Sa2VA, prompt: torch.Tensor) -> Generated:
    with torch.inference_mode():
        return model.mllm.generator.greedy(prompt, LIMIT)


def same(one: Generated, other: Generated) -> None:
    assert one.ids == other.ids
    assert torch.allclose(one.logits, other.logits, atol=TOLERANCE)
    assert torch.allclose(one.states, other.states, atol=TOLERANCE)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def test_decoding_with_a_cache_equals_one_forward(
    model: Sa2VA, prompt: torch.Tensor, slow: Generated
) -> None:
    with torch.inference_mode():
        answer = model.mllm.language_model.get_input_embeddings()(torch.tensor([slow.ids[:-1]]))
        whole = model.mllm.language_model.model(inputs_embeds=torch.cat([prompt, answer], 1))
    assert len(slow.ids) == LIMIT
    assert len(set(slow.ids)) > 3, "the random model must write different tokens"
    assert torch.allclose(slow.states, whole.last_hidden_state[0], atol=TOLERANCE)


def test_a_right_guess_is_one_forward(model: Sa2VA, prompt: torch.Tensor, slow: Generated) -> None:
    wrong = [(1, 2, 3), (slow.ids[0], 5, 6), tuple(reversed(slow.ids))]
    for place in range(4):
        answers: list[Sequence[int]] = [*wrong[:place], slow.ids, *wrong[place:]]
        with torch.inference_mode():
            fast = model.mllm.generator.guess(prompt, LIMIT, answers)
        same(fast, slow)
        assert fast.forwards == 1


@pytest.mark.parametrize("right", range(LIMIT))
def test_a_wrong_guess_goes_on_from_the_mismatch(
    model: Sa2VA, prompt: torch.Tensor, slow: Generated, right: int
) -> None:
    """The first `right` tokens of a guess are right."""
    other = (slow.ids[right] + 1) % 200
    guess = (*slow.ids[:right], other, *slow.ids[right + 1 :])
    with torch.inference_mode():
        fast = model.mllm.generator.guess(prompt, LIMIT, [(7, 8, 9), guess, (9, 9)])
    same(fast, slow)
    assert fast.forwards <= slow.forwards - right + 1


def test_a_guess_longer_than_allowed_is_not_taken(
    model: Sa2VA, prompt: torch.Tensor, slow: Generated
) -> None:
    with torch.inference_mode():
        short = model.mllm.generator.greedy(prompt, 3)
        fast = model.mllm.generator.guess(prompt, 3, [slow.ids])
    same(fast, short)


def test_a_shared_prefix_changes_nothing() -> None:
    first, second = image(0), image(1)
    fresh = [nano_model().ground([first], words).generated for words in ("the mug", "a red ball")]
    model = nano_model()
    for words, expected in zip(
        ("the mug", "a red ball", "the mug"), [*fresh, fresh[0]], strict=True
    ):
        same(model.ground([first], words).generated, expected)
    assert model._session.seen is not None
    prefix = model._session.seen.prefix
    model.ground([first.copy()], "the box")
    assert model._session.seen.prefix is prefix, "equal frames are not read again"
    same(
        model.ground([second], "the mug").generated,
        nano_model().ground([second], "the mug").generated,
    )


def test_a_reused_buffer_is_a_new_picture() -> None:
    """Cameras may write every frame into the same array."""
    model, buffer = nano_model(), image(0)
    model.ground([buffer], "the mug")
    buffer[:] = image(1)
    same(
        model.ground([buffer], "the mug").generated,
        nano_model().ground([image(1)], "the mug").generated,
    )


def test_the_expected_answers_are_those_that_are_written() -> None:
    """With known answers and without: the same reply for a model that answers with one of them."""
    model = nano_model()
    text = "<image>\nPlease segment the mug."
    with_them = model.reply(
        text, [image()], expected=[(model.mllm.seg_id, next(iter(model.mllm.stop_ids)))]
    )
    without = nano_model().reply(text, [image()])
    assert with_them.embeddings.shape == (1, model.config.sam2.hidden_dim)
    assert torch.allclose(with_them.embeddings, without.embeddings, atol=TOLERANCE)


# Several questions in one sequence.


def questions(model: Sa2VA, texts: Sequence[str]) -> list[Inputs]:
    with torch.inference_mode():
        ids = [model.mllm.prompt_ids(text) for text in texts]
        return [replace(model.mllm.inputs(i, None), ids=tuple(i)) for i in ids]


def opening(model: Sa2VA, text: str) -> UnreadPrefix:
    ids = tuple(model.mllm.tokenizer.encode(text))
    with torch.inference_mode():
        return UnreadPrefix(ids, model.mllm.inputs(ids, None))


TEXTS = ("where is the red mug?", "where is the ball?", "what?", "where is the red mug?")


@pytest.mark.parametrize("guesses", ["none", "right", "half", "wrong"])
def test_questions_together_are_questions_alone(model: Sa2VA, guesses: str) -> None:
    """Whatever is guessed, and whether the beginning was read before or is read on the way."""
    decoder, start = model.mllm.generator, opening(model, "A long beginning that is shared. ")
    asked = questions(model, TEXTS)
    with torch.inference_mode():
        whole = [torch.cat([start.inputs.embeddings, q.embeddings], 1) for q in asked]
        alone = [decoder.greedy(embeddings, LIMIT) for embeddings in whole]
        assert len({one.ids for one in alone}) > 1, "other questions must have other answers"
        answers = {
            "none": [],
            "right": [one.ids for one in alone],
            "half": [(*one.ids[: i + 2], 7, 8) for i, one in enumerate(alone)],
            "wrong": [(7, 8, 9), (7, 9)],
        }[guesses]
        together, prefix = decoder.answer(start, asked, LIMIT, answers)
        assert prefix is not None
        again, same_prefix = decoder.answer(prefix, asked, LIMIT, answers)
    assert same_prefix is prefix
    for one, first, second in zip(alone, together, again, strict=True):
        same(first, one)
        same(second, one)
    most = max(one.forwards for one in together)
    assert most == {"right": 1, "none": LIMIT, "wrong": LIMIT}.get(guesses, most) <= LIMIT
    assert (most < LIMIT) == (guesses in ("right", "half"))


def test_the_language_model_runs_once_for_all(model: Sa2VA) -> None:
    """Counted at the model itself, the shared beginning included."""
    calls: list[int] = []
    hook = model.mllm.language_model.model.register_forward_hook(lambda *_: calls.append(1))
    decoder, start = model.mllm.generator, opening(model, "A beginning. ")
    asked = questions(model, TEXTS)
    try:
        with torch.inference_mode():
            right = [one.ids for one in decoder.answer(start, asked, LIMIT)[0]]
            assert len(calls) == LIMIT
            calls.clear()
            decoder.answer(start, asked, LIMIT, right)
            assert len(calls) == 1
    finally:
        hook.remove()


def test_inexact_answers_are_the_likeliest_known_ones(
    model: Sa2VA, prompt: torch.Tensor, slow: Generated
) -> None:
    """Neither of the two is what the model would write; the one that follows it longer is likelier."""
    stop = next(iter(model.mllm.stop_ids))
    known = [(7, 8, stop), (*slow.ids[:4], stop)]
    with torch.inference_mode():
        [taken], _ = model.mllm.generator.answer(None, [Inputs(prompt)], LIMIT, known, exact=False)
        forced = model.mllm.generator.greedy(
            prompt, LIMIT, choose=lambda step, logits: known[1][step]
        )
    assert taken.ids == known[1]
    assert taken.forwards == 1
    same(taken, forced)


@pytest.mark.parametrize("family", [None, *nano_names()])
def test_several_who_ask_share_their_forwards_and_are_answered_as_alone(family: str | None) -> None:
    model = nano_model(family=family, answers=False)
    outputs = model.mllm.language_model.get_output_embeddings().weight
    with torch.no_grad():  # writes answers that are none of those expected
        outputs.copy_(torch.randn(outputs.shape, generator=torch.Generator().manual_seed(9)))
    model.config = replace(model.config, max_new_tokens=LIMIT)
    clips = [[image(1)], [image(2), image(3)], [image(4)]]
    words = [["the mug"], ["the can", "the block"], ["a longer name of a thing"]]
    alone = [model.ground_many(clip, said) for clip, said in zip(clips, words, strict=True)]
    forwards = []
    hook = model.mllm.generator._body.register_forward_pre_hook(lambda *_: forwards.append(1))
    sessions = [model.new_session() for _ in clips]
    model._book = DraftAnswers(())  # one question and no known answer is no tree
    model.ground_together([(sessions[n], clips[n], ["the cup"]) for n in (0, 1)])  # read before
    first = len(forwards)
    together = model.ground_together(list(zip(sessions, clips, words, strict=True)))
    hook.remove()
    for mine, ours in zip(alone, together, strict=True):
        for one, other in zip(mine, ours, strict=True):
            same(one.generated, other.generated)
            assert (one.text, one.unknown) == (other.text, other.unknown)
            assert torch.allclose(one.embeddings, other.embeddings, atol=TOLERANCE)
    if model.mllm.generator.span is None:
        assert len(forwards) - first == max(r.generated.forwards for rs in together for r in rs)
    assert all(session.read for session in sessions)


def test_long_sequences_are_answered_one_by_one(model: Sa2VA) -> None:
    """Where a model must read in one piece, nothing is packed beyond its span."""
    asked = questions(model, TEXTS)
    start = opening(model, "A beginning. ")
    with torch.inference_mode():
        expected, _ = model.mllm.generator.answer(start, asked, LIMIT)
        decoder = Generator(
            model.mllm.language_model,
            model.mllm.stop_ids,
            span=len(start.ids) + max(map(len, asked)) + LIMIT,
        )
        got, _ = decoder.answer(start, asked, LIMIT, [one.ids for one in expected])
    for one, other in zip(got, expected, strict=True):
        same(one, other)


def test_logits_need_not_be_kept(model: Sa2VA, prompt: torch.Tensor, slow: Generated) -> None:
    with torch.inference_mode():
        [taken], _ = model.mllm.generator.answer(None, [Inputs(prompt)], LIMIT, keep_logits=False)
    assert taken.ids == slow.ids
    assert taken.logits.numel() == 0
    assert torch.allclose(taken.states, slow.states, atol=TOLERANCE)


def test_the_tree_attends_as_separate_sequences_do() -> None:
    """The split of attention into a causal part and a part with a mask changes nothing."""
    torch.manual_seed(0)
    module = torch.nn.Module()
    query, key, value = (torch.randn(1, 2, 9, 4) for _ in range(3))
    mask = torch.zeros(1, 1, 3, 9)
    mask[..., 0, 7:], mask[..., 1, 6], mask[..., 1, 8:], mask[..., 2, 7] = (-1e9,) * 4
    whole = torch.full((1, 1, 9, 9), -1e9).triu(1)
    whole[:, :, 6:] = mask
    expected, _ = sdpa_attention_forward(module, query, key, value, whole)
    got, _ = tree_attention(module, query, key, value, mask)
    assert torch.allclose(got, expected, atol=1e-6)


# Which answers are checked.


def test_the_book_keeps_what_is_given() -> None:
    known = ((1, 2, 9), (1, 3, 9), (4, 9))
    book = DraftAnswers(known, patience=2, retry=3, window=8)
    assert set(book.candidates()) == set(known)
    book.note([(1, 3, 9), (1, 3, 9)])
    assert book.candidates() == ((1, 3, 9),)
    book.note([(4, 9)])
    assert book.candidates() == ((1, 3, 9), (4, 9))
    book.note([(5, 6, 9)])
    assert (5, 6, 9) not in book.candidates(), "once may be chance"
    book.note([(5, 6, 9)])
    assert (5, 6, 9) in book.candidates()
    book.note([tuple(range(10, 40))] * 2)
    assert all(len(ids) < 20 for ids in book.candidates()), "long answers are not learnt"


def test_the_book_tries_all_again_after_misses() -> None:
    known = ((1, 9), (2, 9))
    book = DraftAnswers(known, patience=1, retry=2, window=4)
    book.note([(1, 9)])
    assert book.candidates() == ((1, 9),)
    book.note([(5, 9), (6, 9)])
    assert set(book.candidates()) == set(known)


# The same forwards through CUDA graphs, with a store that computes instead of replaying.


class Store:
    """Runs what a graph would replay; `wrong` spoils the first output."""

    keys: list[object] = []  # noqa: RUF012 - of all stores of a test

    def __init__(self, wrong: float = 0.0, error: bool = False) -> None:
        self.wrong, self.error = wrong, error

    def run(self, key, stage, inputs):
        Store.keys.append(key)
        if self.error:
            raise RuntimeError("operation not permitted when stream is capturing")
        states, *rest = (tensor.clone() for tensor in stage(*inputs))
        return (states + self.wrong, *rest)


@pytest.mark.parametrize("guesses", ["right", "half", "wrong"])
def test_padded_forwards_change_nothing(model: Sa2VA, guesses: str) -> None:
    decoder, start = model.mllm.generator, opening(model, "A long beginning that is shared. ")
    asked = questions(model, TEXTS[:2])
    with torch.inference_mode():
        alone, _ = decoder.answer(start, asked, LIMIT)
        answers = {
            "right": [one.ids for one in alone],
            "half": [(*one.ids[: i + 2], 7, 8) for i, one in enumerate(alone)],
            "wrong": [(7, 8, 9), (7, 9)],
        }[guesses]
        Store.keys.clear()
        decoder.use_graphs(Store)
        try:
            together, prefix = decoder.answer(start, asked, LIMIT, answers)
            again, _ = decoder.answer(prefix, asked, LIMIT, answers)
        finally:
            decoder.use_graphs(None)
    assert len(Store.keys) == 2, "one replay a call; further tokens are decoded without graphs"
    for one, first, second in zip(alone, together, again, strict=True):
        same(first, one)
        same(second, one)


@pytest.mark.parametrize("store", [lambda: Store(wrong=9.0), lambda: Store(error=True)])
def test_a_graph_that_fails_is_not_used(model: Sa2VA, store) -> None:
    decoder, start = model.mllm.generator, opening(model, "A beginning. ")
    asked = questions(model, TEXTS[:1])
    with torch.inference_mode():
        [expected], _ = decoder.answer(start, asked, LIMIT)
        decoder.use_graphs(store)
        try:
            with pytest.warns(UserWarning, match="CUDA graphs are not used"):
                [got], _ = decoder.answer(start, asked, LIMIT, [expected.ids, (7, 8)])
            Store.keys.clear()
            decoder.answer(start, asked, LIMIT, [expected.ids, (7, 8)])
        finally:
            decoder.use_graphs(None)
    same(got, expected)
    assert not Store.keys


@pytest.mark.parametrize("family", [None, *nano_names()])
def test_every_family_is_replayed_in_steady_state(family: str | None) -> None:
    """On known and new frames; when one known answer is left; where codes depend on positions; with DeepStack."""
    model = nano_model(family=family)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (60, 80, 3), np.uint8) for _ in range(2)]
    asked = ["the cup", "the cup", "a dog", "a dog", "the red cup", "the cup", "a dog"]
    plain = [model.ground(frames, words) for words in asked]
    model.forget()
    model.ground(frames, asked[0])
    model.forget_frames()
    Store.keys.clear()
    model.mllm.generator.use_graphs(Store)
    for words, wanted in zip(asked, plain, strict=True):
        got = model.ground(frames, words)
        assert got.generated.ids == wanted.generated.ids
        assert torch.allclose(got.embeddings, wanted.embeddings, atol=1e-5)
    assert len(Store.keys) == len(asked)
    assert model.mllm.generator.graphs_serve(10, 10), "no failure"


def test_a_cancelled_question_does_not_put_an_end_to_graphs(model: Sa2VA) -> None:
    class Cancelling(Store):
        def run(self, key, stage, inputs):
            raise CancelledError("not wanted any more")

    decoder, start = model.mllm.generator, opening(model, "A beginning. ")
    decoder.use_graphs(Cancelling)
    try:
        with pytest.raises(CancelledError):
            decoder.answer(start, questions(model, TEXTS[:1]), LIMIT)
        assert decoder.graphs_serve(10, 10)
    finally:
        decoder.use_graphs(None)


@pytest.mark.parametrize("family", [None, "qwen3_vl"])
def test_a_frame_of_a_clip_is_seen_once(
    family: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nano_model(family=family)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (60, 80, 3), np.uint8) for _ in range(4)]
    clips = [frames[:2], frames[:3], frames[1:4], [frames[3], frames[3]]]
    wanted = []
    for clip in clips:
        model.forget_frames()
        wanted.append(model.reply("<image>\nthe cup", clip, clip=True))
    look, seen = model.mllm.look, []

    def counted(shown, *, clip: bool):
        seen.append(len(shown))
        return look(shown, clip=clip)

    model.forget_frames()
    monkeypatch.setattr(model.mllm, "look", counted)
    for clip, one in zip(clips, wanted, strict=True):
        got = model.reply("<image>\nthe cup", clip, clip=True)
        assert got.generated.ids == one.generated.ids
        assert torch.allclose(got.generated.states, one.generated.states, atol=1e-5)
    assert seen == [2, 1, 1], "the last clip is all known"


def test_the_vision_model_is_replayed_for_shapes_that_come_again() -> None:
    model = nano_model()
    rng = np.random.default_rng(0)
    model.ground([rng.integers(0, 255, (60, 80, 3), np.uint8)], "a cup")
    Store.keys.clear()
    model.mllm.use_graphs(Store)
    for _ in range(3):
        frame = rng.integers(0, 255, (60, 80, 3), np.uint8)
        got = model.ground([frame], "a cup").embeddings
    assert [key[0] for key in Store.keys].count("look") == 2  # type: ignore[index]
    model.forget()
    assert torch.allclose(model.ground([frame], "a cup").embeddings, got, atol=1e-5)
