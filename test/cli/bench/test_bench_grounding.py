# SPDX-License-Identifier: Apache-2.0
"""`sa2va bench grounding`: both flows find the same, and the figures say what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_cli.bench import random_models as bench_models
from sa2va_cli.bench.flows import official, ours
from sa2va_cli.bench.random_models import random_model
from sa2va_cli.bench.rounds import Rounds
from sa2va_cli.main import main
from sa2va_model.checkpoints.presets import nano_config
from sa2va_model.errors import InputError

FRAMES = [np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8) for i in range(3)]
WORDS = ["the man", "the woman on the left", "the red car", "the dog"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    """A published size in nano."""

    def config(name: str, template: str):
        assert (name, template) == ("1b", "qwen_chat")
        return replace(nano_config(600), max_new_tokens=30)

    monkeypatch.setattr(bench_models, "published_config", config)
    return random_model("1b", torch.device("cpu"), torch.float32)


def test_a_random_model_answers_like_a_trained_one(small) -> None:
    for words in WORDS:
        reply = small.ground(FRAMES[:1], words)
        assert reply.raw == "Sure, [SEG].<|im_end|>"
        assert reply.generated.forwards == 1


def test_both_flows_find_the_same(small) -> None:
    for frames in (FRAMES[:1], FRAMES):
        theirs = official(small, frames, WORDS[0])
        for together in (WORDS[:1], WORDS):
            mine = ours(small, frames, together)[0]
            assert mine.ids == theirs.ids
            assert mine.masks.shape == theirs.masks.shape == (1, len(frames), 40, 40)
            assert np.mean(mine.masks != theirs.masks) < 1e-3


def test_the_rounds_count_and_compare(small) -> None:
    rounds = Rounds(small, FRAMES, WORDS, clock="wall")
    times = rounds.measure(1, 60)
    found = rounds.compare(times)
    assert {key: times[key]["rounds"] for key in ("official", "first", "four")} == {
        "official": 1,
        "first": 1,
        "four": 1,
    }
    assert all(times[key]["median"] > 0 for key in times if key != "stages")
    assert found["same_tokens"]
    assert (found["forwards"], found["official_forwards"]) == (1, 6), "Sure , _ [SEG] . and the end"
    assert found["pixels_that_differ"] < 1e-3
    assert found["embeddings_differ_by"] < 1e-4
    assert rounds.facts()["visual_tokens"] == 3 * 4


def test_without_masks_sam2_does_not_run(small) -> None:
    runs: list[int] = []
    encoder = small.sam2.sam2_model.image_encoder
    encoder.register_forward_hook(lambda *_: runs.append(1))
    rounds = Rounds(small, FRAMES[:1], WORDS, clock="cpu", masks=False)
    times = rounds.measure(1, 60)
    assert not runs
    assert rounds.compare(times)["embeddings_differ_by"] < 1e-4


def test_the_command_reports(nano_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "grounding.json"
    words = ["--scenes", "1", "--repeats", "1", "--size", "64", "--json", str(out)]
    model = ["--model", str(nano_folder), "--device", "cpu"]
    assert main(["bench", "grounding", *words, *model]) == 0
    printed = capsys.readouterr().out
    assert "ours, another sentence, same frames" in printed
    record = json.loads(out.read_text())
    [report] = record["models"]
    assert report["same_tokens"] is True
    scenes = report["acceptance"]["painted scenes"]
    assert scenes["different"] == 0
    assert scenes["sentences"] > 3
    assert record["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--preset", "1b"], "expected --random-weights with it"),
        (["--random-weights"], "expected --preset"),
        (["--preset", "3b", "--random-weights"], "size is '3b'; expected one of 1b"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], reason: str, capsys) -> None:
    assert main(["bench", "grounding", *words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert reason in error


def test_an_answer_with_a_token_twice_cannot_be_scripted(small) -> None:
    with pytest.raises(InputError, match="all differ"):
        bench_models.script_answer(small, "[SEG] [SEG]")
