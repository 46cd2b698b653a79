# SPDX-License-Identifier: Apache-2.0
"""`sa2va ask`: conversations, regions of every kind, keyframes, and honest answers without masks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sa2va_cli.main import main


@pytest.fixture
def image(make, tmp_path: Path) -> Path:
    path = tmp_path / "table.png"
    cv2.imwrite(str(path), make.picture(3)[:, :, ::-1])
    return path


@pytest.fixture
def ask(nano_folder: Path, capsys, tmp_path: Path):
    """Runs `sa2va ask`; returns (exit status, what --json has, stdout, stderr)."""

    def run(*words: object, model: Path = nano_folder) -> tuple[int, dict, str, str]:
        record = tmp_path / "answer.json"
        record.unlink(missing_ok=True)
        options = ["--model", str(model), "--device", "cpu", "--json", str(record)]
        status = main(["ask", *map(str, words), *options])
        captured = capsys.readouterr()
        found = json.loads(record.read_text()) if record.exists() else {}
        return status, found, captured.out, captured.err

    return run


def test_several_questions_are_one_conversation(ask, image, tmp_path) -> None:
    out = tmp_path / "out"
    status, found, stdout, stderr = ask(image, "Where is the mug?", "And the box?", "-o", out)
    assert status == 0, stderr
    assert [turn["question"] for turn in found["turns"]] == ["Where is the mug?", "And the box?"]
    assert found["question"] == "And the box?"
    assert len(found["objects"]) == 2
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["0", "1"]
    assert "object 1: no phrase" in stdout
    for number, thing in enumerate(found["objects"]):
        mask = cv2.imread(str(out / "masks" / str(number) / "00000.png"), cv2.IMREAD_UNCHANGED)
        assert thing["area"] == [int((mask > 0).sum())]
        assert len(thing["score"]) == 1
        if thing["box"][0] is not None:
            x0, y0, x1, y1 = thing["box"][0]
            assert (mask[y0:y1, x0:x1] > 0).sum() == thing["area"][0]


def test_nothing_to_point_at_is_an_answer(ask, image, blind_folder) -> None:
    status, found, _, stderr = ask(image, "Please segment the mug.", model=blind_folder)
    assert (status, stderr) == (0, "")
    assert (found["found"], found["objects"], found["regions"]) == (False, [], [])


def test_regions_are_numbered_as_typed(ask, image, tmp_path) -> None:
    region = np.zeros((96, 128), np.uint8)
    region[30:60, 10:50] = 255
    path, out = tmp_path / "region.png", tmp_path / "out"
    cv2.imwrite(str(path), region)
    words = ("--point", "64,48", "--region", path, "--box", "10,20,60,70")
    status, found, stdout, stderr = ask(image, "What is region2?", *words, "-o", out)
    assert status == 0, stderr
    assert len(found["regions"]) == 3
    assert [line.split(":")[0] for line in stdout.splitlines() if line.startswith("region")] == [
        "region1",
        "region2",
        "region3",
    ]
    mask = cv2.imread(str(out / "regions" / "region2.png"), cv2.IMREAD_UNCHANGED) > 0
    common = (mask & (region > 0)).sum() / (mask | (region > 0)).sum()
    assert common > 0.8, "a mask comes back as it was given"
    for number, record in enumerate(found["regions"], 1):
        assert record["found"] == (out / "regions" / f"region{number}.png").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--point", "200,10"), "--point 200,10: 200,10 is not inside the 128x96 image"),
        (("--box", "200,0,220,9"), "--box 200,0,220,9: outside the 128x96 image"),
        (("--box", "1,2,3"), "--box 1,2,3: 3 numbers, expected four"),
        (("--keyframes", "last"), "expected one of first, uniform, latest, refine"),
        (("--keyframes", "first:x"), "expected KIND, KIND:COUNT or KIND:COUNT:TOKENS"),
        (("--keyframes", "first:0"), "keyframes.count is 0"),
    ],
)
def test_wrong_options_are_one_line(ask, image, words: tuple[str, ...], reason: str) -> None:
    status, found, _, stderr = ask(image, "What is it?", *words)
    assert (status, found, stderr.count("\n")) == (2, {}, 1)
    assert reason in stderr


def test_keyframes_of_a_video(ask, video) -> None:
    words = ("--frames", 6, "--keyframes", "uniform:3:1")
    status, found, _, stderr = ask(video, "What happens?", *words)
    assert status == 0, stderr
    assert found["frames"] == [0, 2, 4, 7, 9, 11]
    assert found["keyframes"] == [0, 4, 11]


def test_a_grounded_caption(ask, image) -> None:
    status, found, _, stderr = ask(image, "Describe the image.", "--grounded")
    assert status == 0, stderr
    assert found["turns"][0]["question"] == "Describe the image."
    assert found["found"]
