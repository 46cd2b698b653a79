# SPDX-License-Identifier: Apache-2.0
"""Known answers, shared images and several questions at once against the recorded answers of the official code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sa2va_model.checkpoints.load import load_model
from sa2va_model.sa2va import Sa2VA

ROOT = Path(__file__).parents[3]
OWN = ROOT / "test" / "data" / "golden" / "internvl"
SHARED = ROOT.parent / "shared" / "golden"
LIMIT, TOLERANCE = 24, 1e-4


def recorded() -> Iterator[tuple[Path, str]]:
    """Every case that was decoded greedily, of every folder that is here."""
    folders = [path for path in sorted(SHARED.glob("*")) if (path / "manifest.json").is_file()]
    for folder in folders or [OWN]:
        for name, case in manifest_of(folder).items():
            if not name.startswith("_") and not case.get("forced"):
                yield folder, name


@cache
def manifest_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


@cache
def model_of(folder: Path) -> Sa2VA:
    model = load_model(folder, device="cpu", dtype=torch.float32)
    model.mllm.as_recorded(manifest_of(folder).get("_env", {}))
    return model


@pytest.mark.parametrize(
    ("folder", "name"), [pytest.param(f, n, id=f"{f.name}-{n}") for f, n in recorded()]
)
def test_quick_answers_are_the_recorded_ones(folder: Path, name: str) -> None:
    """With the known answers, with a guess that fails at every position in turn, and beside another question.

    The first question of each case reads the images anew, the others share them.
    """
    model = model_of(folder)
    case = manifest_of(folder)[name]
    gold = load_file(folder / f"{name}.safetensors")
    frames = [gold[f"in.frame.{i}"].numpy() for i in range(case["n_frames"])]
    shown = frames[: model.config.keyframes]
    regions = [mask.numpy() > 0 for mask in gold.get("in.mask_prompts", torch.zeros(0))]
    ids = tuple(gold["sequences"].flatten()[-len(gold["step_logits"]) :].tolist())
    guesses = [model.mllm.answers]
    guesses += [
        [(*ids[:right], (ids[right] + 1) % 200, *ids[right + 1 :]), (1, 2, 3)]
        for right in range(len(ids))
    ]
    model.forget()
    for number, expected in enumerate(guesses):
        texts = [case["text"]]
        if number % 2 and not regions:
            texts.append(case["text"].replace("red", "blue") + " Now.")
        replies = model._replies(
            texts,
            shown,
            clip=len(frames) > 1,
            regions=regions,
            history=case.get("past_text", ""),
            limit=LIMIT,
            expected=expected,
        )
        generated = replies[0].generated
        assert generated.ids == ids
        assert torch.allclose(generated.logits, gold["step_logits"], atol=TOLERANCE)
        states = gold["last_hidden_states"]
        assert torch.allclose(generated.states[-len(states) :], states, atol=TOLERANCE)
        if frames:
            assert torch.allclose(replies[0].embeddings, gold["language_embd"], atol=TOLERANCE)
        if number == 0:
            assert generated.forwards == 1, "the answer is a known one"
