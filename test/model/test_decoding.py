# SPDX-License-Identifier: Apache-2.0
"""Decoding with caches, with known answers and with shared prefixes = decoding token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from sa2va_model.nano import nano_model
from sa2va_model.readings import Generated
from sa2va_model.sa2va import Sa2VA

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
        return model.mllm.decoder.greedy(prompt, LIMIT)


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
            fast = model.mllm.decoder.guess(prompt, LIMIT, answers)
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
        fast = model.mllm.decoder.guess(prompt, LIMIT, [(7, 8, 9), guess, (9, 9)])
    same(fast, slow)
    assert fast.forwards <= slow.forwards - right + 1


def test_a_guess_longer_than_allowed_is_not_taken(
    model: Sa2VA, prompt: torch.Tensor, slow: Generated
) -> None:
    with torch.inference_mode():
        short = model.mllm.decoder.greedy(prompt, 3)
        fast = model.mllm.decoder.guess(prompt, 3, [slow.ids])
    same(fast, short)


def test_a_shared_prefix_changes_nothing() -> None:
    first, second = image(0), image(1)
    fresh = [nano_model().ground([first], words).generated for words in ("the mug", "a red ball")]
    model = nano_model()
    for words, expected in zip(
        ("the mug", "a red ball", "the mug"), [*fresh, fresh[0]], strict=True
    ):
        same(model.ground([first], words).generated, expected)
    assert model._reader.seen is not None
    prefix = model._reader.seen.prefix
    model.ground([first.copy()], "the box")
    assert model._reader.seen.prefix is prefix, "equal frames are not read again"
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
