# SPDX-License-Identifier: Apache-2.0
"""VLMEvalKit's questions, from a TSV as it publishes them and from a video, to answers in words."""

from __future__ import annotations

import base64
import csv
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import cv2
import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_training.evaluation.vlmevalkit import SHORT, Sa2VAChat, register


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the model is asked, beside its own answer."""
    seen: list[dict[str, Any]] = []
    plain = Sa2VA.ask

    def ask(self: Sa2VA, frames: Any, question: str, **given: Any) -> Any:
        seen.append({"frames": list(frames), "question": question, **given})
        return plain(self, frames, question, **given)

    monkeypatch.setattr(Sa2VA, "ask", ask)
    return seen


def write_tsv(path: Path) -> None:
    """Multiple choice as MMBench has it: the picture in base64, the options in columns."""
    with path.open("w", newline="") as file:
        names = ["index", "image", "question", "A", "B", "answer", "category"]
        rows = csv.DictWriter(file, names, delimiter="\t")
        rows.writeheader()
        for n, value in enumerate((40, 200)):
            data = cv2.imencode(".png", np.full((30, 40, 3), value, np.uint8))[1].tobytes()
            rows.writerow(
                {
                    "index": n,
                    "image": base64.b64encode(data).decode(),
                    "question": "Is it dark?",
                    "A": "yes",
                    "B": "no",
                    "answer": "AB"[n],
                    "category": "light",
                }
            )


def messages(path: Path) -> list[list[dict[str, str]]]:
    """As VLMEvalKit's multiple choice puts a line: the picture as a file, the options below the question."""
    csv.field_size_limit(sys.maxsize)
    out = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            picture = path.with_name(f"{row['index']}.png")
            picture.write_bytes(base64.b64decode(row["image"]))
            text = f"Question: {row['question']}\nOptions:\nA. {row['A']}\nB. {row['B']}\nAnswer with the letter."
            out.append([{"type": "image", "value": str(picture)}, {"type": "text", "value": text}])
    return out


def test_a_tsv_is_answered_line_by_line(tmp_path: Path, asked: list[dict[str, Any]]) -> None:
    write_tsv(tmp_path / "made.tsv")
    chat = Sa2VAChat(model=nano_model())
    answers = [chat.generate(m, dataset="MMBench_DEV_EN") for m in messages(tmp_path / "made.tsv")]
    assert all(isinstance(answer, str) and "SEG" not in answer for answer in answers)
    assert [int(a["frames"][0].mean()) for a in asked] == [40, 200]
    assert asked[0]["question"].endswith("B. no\nAnswer with the letter.")
    assert {a["max_new_tokens"] for a in asked} == {SHORT}
    assert not any(a["masks"] for a in asked)


def test_videos_and_several_pictures(tmp_path: Path, asked: list[dict[str, Any]]) -> None:
    file = tmp_path / "clip.mp4"
    with av.open(str(file), "w") as video:
        stream = video.add_stream("libx264", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for value in range(0, 240, 20):
            rgb = np.full((32, 48, 3), value, np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        video.mux(stream.encode(None))
    chat = Sa2VAChat(model=nano_model(), nframe=3)
    question = {"type": "text", "value": "What happens?"}
    chat.generate([{"type": "video", "value": str(file)}, question], dataset="Video-MME")
    assert [f.mean() for f in asked[0]["frames"]] == pytest.approx([0, 100, 220], abs=6)
    assert asked[0]["keyframes"].stages()[-1].indices(3) == (0, 1, 2)  # all are shown
    pictures = [tmp_path / f"{n}.png" for n in range(2)]
    for n, path in enumerate(pictures):
        cv2.imwrite(str(path), np.full((20 + 10 * n, 40, 3), 90, np.uint8))
    chat.generate([*({"type": "image", "value": str(p)} for p in pictures), question])
    assert [f.shape for f in asked[1]["frames"]] == [(20, 40, 3)] * 2
    assert asked[1]["max_new_tokens"] is None
    chat.generate([question])  # plain chat
    assert asked[2]["frames"] == []
    with pytest.raises(InputError, match="a message without words"):
        chat.generate([{"type": "image", "value": str(pictures[0])}], dataset="MME")
    with pytest.raises(InputError, match="a part of type 'audio'"):
        chat.generate([question, {"type": "audio", "value": "x.wav"}], dataset="MME")


def test_registering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vlmeval", None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="VLMEvalKit is not installed"):
        register("Sa2VA-8B", "checkpoints/Sa2VA-8B")
    config = ModuleType("vlmeval.config")
    config.supported_VLM = {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vlmeval", ModuleType("vlmeval"))
    monkeypatch.setitem(sys.modules, "vlmeval.config", config)
    register("Tiny", None, nframe=8)
    chat = config.supported_VLM["Tiny"](model=nano_model())
    assert chat.nframe == 8
