# SPDX-License-Identifier: Apache-2.0
"""A model that thinks aloud (VRT): what it looked at is evidence, what it answers is meant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sa2va_cli.ask import command as ask
from sa2va_cli.main import main
from sa2va_model.results import GroundingResult, Turn
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model

WRITTEN = "<think>A table [SEG] and [SEG].</think><answer>The mug [SEG].</answer><|im_end|>"
FRAME = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def reply_of(model: Sa2VA, question: str = "<image>\nWhich is it?") -> GroundingResult:
    ids = model.mllm.tokenizer.encode(WRITTEN, add_special_tokens=False)
    return model.reply(question, [FRAME], choose=lambda step, _: ids[step], max_new_tokens=len(ids))


@pytest.mark.parametrize("family", [None, "qwen3_vl"])
def test_only_the_answer_is_a_target(family: str | None) -> None:
    model = nano_model(family=family)
    reply = reply_of(model)
    assert reply.text == "The mug."
    assert reply.thought == "A table [SEG] and [SEG]."
    fed = reply.generated.states_at(model.mllm.seg_id)
    with torch.inference_mode():
        first, second, meant = model.text_hidden_fcs(fed)
    assert torch.equal(reply.embeddings, meant[None])
    assert torch.equal(reply.evidence, torch.stack([first, second]))
    [answer] = model.answers([FRAME], [(Turn("", ""), reply)], (0,))
    assert len(answer.masks) == len(answer.targets) == 1
    assert len(answer.evidence) == 2
    assert torch.equal(answer.targets[0].embedding, meant)
    assert torch.equal(answer.evidence[1].embedding, second)
    assert not np.array_equal(answer.evidence[0].masks[0], answer.targets[0].masks[0]) or family


def test_a_seg_of_the_prompt_is_no_thought() -> None:
    """Where it counts it stands before the answer's, and stays a target."""
    reply = reply_of(nano_model(family="qwen3_vl"), "<image>\nWhere is [SEG] now?")
    assert len(reply.embeddings) == 2
    assert reply.evidence is not None
    assert len(reply.evidence) == 2


def test_evidence_is_drawn_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sa2va ask --evidence -o OUT`: masks of the thought beside those of the answer, and in the overlay."""
    model = nano_model()
    reply = reply_of(model)
    monkeypatch.setattr(model, "say", lambda *_, **__: (reply, Turn("", "")))
    monkeypatch.setattr(ask, "open_model", lambda _: model)
    picture = str(tmp_path / "picture.png")
    Image.fromarray(FRAME).save(picture)
    drawn = []
    for name, more in (("plain", []), ("whole", ["--evidence"])):
        out = tmp_path / name
        assert main(["ask", picture, "Which is it?", "-o", str(out), *more]) == 0
        written = json.loads((out / "answer.json").read_text())
        assert written["thought"] == "A table [SEG] and [SEG]."
        assert len(written["evidence"]) == 2
        assert len(written["objects"]) == 1
        assert (out / "evidence").is_dir() == bool(more)
        drawn.append(np.array(Image.open(out / "overlay" / "00000.png")))
    for k in range(2):
        mask = np.array(Image.open(tmp_path / "whole" / "evidence" / str(k) / "00000.png"))
        assert mask.shape == FRAME.shape[:2]
    assert not np.array_equal(*drawn)
