# SPDX-License-Identifier: Apache-2.0
"""SaSaSa2VA: ten clips of ten frames, and the picture of nine as a choice of keyframes.

No answers of the official code are recorded; what its `predict_forward` and `reverse_index` do is held fact by fact.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_model import ten_clips
from sa2va_model.checkpoints.config_json import config_to_json
from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.errors import InputError
from sa2va_model.keyframes import KeyframeChoice, mosaics
from sa2va_model.mllm.families.internvl import InternVLConfig
from sa2va_model.sa2va import Sa2VA
from sa2va_model.ten_clips import Sampling, sample, segment_clip, ten
from sa2va_model.testing import nano_model
from sa2va_training.evaluation.predictor import Asking, ModelPredictor

TENS = tuple(i // 10 for i in range(100))


@pytest.fixture(scope="module")
def model() -> Sa2VA:
    return nano_model(seed=1)


def clip(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("kind", ["uniform", "uniform_plus", "wrap_around", "wrap_around_plus"])
def test_a_hundred_frames_are_ten_clips_whatever_the_sampling(kind: str) -> None:
    assert sample(100, kind) == Sampling(tuple(range(100)), tuple(range(100)), TENS)


def test_short_clips() -> None:
    """25 frames: shown four times each; decoded once, or as often as they are shown."""
    four = tuple(i // 4 for i in range(100))
    every, in_time = tuple(range(25)), tuple(i * 10 // 25 for i in range(25))
    first = tuple(4 * i // 10 for i in range(25))
    assert sample(25, "uniform") == Sampling(four, every, in_time)
    assert sample(25, "uniform_plus") == Sampling(four, four, TENS)
    assert sample(25, "wrap_around") == Sampling(four, every, first)
    assert sample(25, "wrap_around_plus") == Sampling(four, every, first)
    # Where a hundred is no multiple, wrapping repeats the first frames once more, and even steps do not.
    assert sample(30, "wrap_around").shown[:5] == (0, 0, 0, 0, 1)
    assert sample(30, "uniform").shown[:5] == (0, 0, 0, 0, 1)
    assert sample(30, "wrap_around").shown[36:43] == (9, 9, 9, 9, 10, 10, 10)
    assert sample(30, "uniform").shown[36:43] == (10, 11, 11, 11, 12, 12, 12)


def test_long_clips() -> None:
    two, first = tuple(range(0, 200, 2)), tuple(range(100))
    in_time = tuple(i // 20 for i in range(200))
    for kind in ("uniform", "uniform_plus", "wrap_around_plus"):
        assert sample(200, kind) == Sampling(two, tuple(range(200)), in_time), kind
    assert sample(200, "wrap_around") == Sampling(first, first, TENS, tracked=True)
    chosen = list(range(50, 150))
    assert sample(200, "q_frame", chosen) == Sampling(tuple(chosen), first, TENS, tracked=True)


def test_ten_embeddings_of_any_answer() -> None:
    given = torch.arange(12.0)[:, None]
    assert ten(given)[:, 0].tolist() == list(range(10))
    assert ten(given[:3])[:, 0].tolist() == [0, 1, *[2] * 8]


def test_of_every_ten_frames_two_pictures() -> None:
    frames = [np.full((2, 4, 3), i, np.uint8) for i in range(20)]
    frames[12] = np.full((4, 8, 3), 12, np.uint8)
    first, grid, other, more = mosaics(frames)
    assert np.array_equal(first, frames[0])
    assert np.array_equal(other, frames[10])
    assert grid.shape == more.shape == (6, 12, 3)
    assert grid[::2, ::4, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert more[::2, ::4, 0].tolist() == [[11, 12, 13], [14, 15, 16], [17, 18, 19]]


def test_every_frame_has_the_embedding_of_its_clip(
    model: Sa2VA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty pictures are asked about once; a frame's mask is that of its clip's embedding alone."""
    frames, seen = clip(12), []
    embeddings = torch.randn(10, model.config.sam2.hidden_dim) * 4
    reply = model.reply

    def ten_of_them(text: str, pictures: list[np.ndarray], *, clip: bool) -> object:
        seen.append((text, len(pictures), clip))
        return replace(reply(text, pictures, clip=clip), embeddings=embeddings)

    monkeypatch.setattr(model, "reply", ten_of_them)
    _, masks = segment_clip(model, frames, "the cup", "uniform")
    assert seen == [("<image>\nPlease segment the cup.", 20, True)]
    for t in (0, 1, 7, 11):
        alone = model.propagate([frames[t]], embeddings[t * 10 // 12][None], 1)[0, 0]
        assert np.array_equal(masks[t], alone)
    assert any((masks[t] != masks[0]).any() for t in range(12))
    _, averaged = segment_clip(model, frames, "the cup", "uniform_plus")
    assert averaged.shape == masks.shape


def test_long_clips_are_tracked_behind_their_prompts(
    model: Sa2VA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two prompted frames in place of a hundred: both have masks of their own prompts, memory makes the third."""
    frames = clip(3)
    plan = Sampling((0, 1), (0, 1), (0, 9), tracked=True)
    monkeypatch.setattr(ten_clips, "sample", lambda *_: plan)
    embeddings = torch.randn(10, model.config.sam2.hidden_dim) * 4
    reply = model.reply("<image>\nx", frames[:2], clip=True)
    monkeypatch.setattr(model, "reply", lambda *_, **__: replace(reply, embeddings=embeddings))
    _, masks = segment_clip(model, frames, "the cup", "wrap_around")
    for t, part in ((0, 0), (1, 9)):
        alone = model.propagate([frames[t]], embeddings[part][None], 1)[0, 0]
        assert np.array_equal(masks[t], alone)
    assert masks.shape == (3, 30, 40)


def test_evaluation_asks_in_both_ways(model: Sa2VA) -> None:
    for asking in (Asking(tracking="ten_clips"), Asking(keyframes="mosaic")):
        [found] = ModelPredictor(model, asking).refer_clip(clip(3), ["the cup"])
        assert found.shape == (3, 30, 40)


def test_the_published_layout_loads_and_is_written_again(model: Sa2VA, tmp_path: Path) -> None:
    save_model(model, tmp_path / "a", None)
    file = tmp_path / "a" / "config.json"
    fields = json.loads(file.read_text())
    fields |= {"architectures": ["SaSaSa2VAChatModel"], "model_type": "sasasa2va_chat"}
    file.write_text(json.dumps(fields | {"samurai_mode": False, "stable_frames_threshold": 15}))
    loaded = load_model(tmp_path / "a", device="cpu")
    assert isinstance(loaded.config.mllm, InternVLConfig)
    assert loaded.config.mllm.ten_clips
    written = config_to_json(loaded.config)
    assert written["architectures"] == ["SaSaSa2VAChatModel"]
    assert written["model_type"] == "sasasa2va_chat"
    save_model(loaded, tmp_path / "b", None)
    again = load_model(tmp_path / "b", device="cpu")
    for one in (model, again):
        one.use_profile("reference")
    frames = clip(10)
    assert np.array_equal(*(segment_clip(m, frames, "the cup")[1] for m in (model, again)))


def test_mosaic_keyframes(model: Sa2VA) -> None:
    choice = KeyframeChoice("mosaic", 2)
    assert choice.indices(40) == tuple(range(0, 40, 4))
    assert choice.indices(4) == (0, 1, 2, 3)
    frames = clip(40)
    shown = choice.pictures(frames)
    assert [picture.shape for picture in shown] == [(30, 40, 3), (90, 120, 3)]
    assert np.array_equal(shown[1][30:60, 40:80], frames[20])
    answer = model.segment_video(frames[:12], "the cup", keyframes=choice)
    assert answer.keyframes == (0, 1, 2, 3, 4, 6, 7, 8, 9, 10)
    assert answer.masks.shape[1] == 12


def test_what_cannot_be_sampled_is_told() -> None:
    with pytest.raises(InputError, match="sampling is 'often'; expected one of uniform, "):
        sample(10, "often")
    with pytest.raises(InputError, match="no frames given"):
        sample(0, "uniform")
    with pytest.raises(InputError, match="3 frames are chosen; expected 100 of 0 to 199"):
        sample(200, "q_frame", [1, 2, 3])
    with pytest.raises(InputError, match=r"keyframes.count is 3; expected an even number"):
        KeyframeChoice("mosaic", 3)
