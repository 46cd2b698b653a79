# SPDX-License-Identifier: Apache-2.0
"""The command line itself, `ask` and `verify-golden`."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sa2va_cli import main as cli
from sa2va_cli.main import COMMANDS, main
from sa2va_model.errors import InputError


@pytest.fixture
def ask(nano_folder: Path, capsys):
    """Run `sa2va ask`; returns (exit status, stdout, stderr)."""

    def run(*words: object, model: Path = nano_folder) -> tuple[int, str, str]:
        status = main(["ask", *map(str, words), "--model", str(model), "--device", "cpu"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def image(make, tmp_path: Path) -> Path:
    path = tmp_path / "table.png"
    cv2.imwrite(str(path), make.picture(3)[:, :, ::-1])
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"sa2va {name}" in text
    assert "examples:" in text
    for option in ("--model", "--device", "--json"):
        assert option in text
    module = importlib.import_module(f"sa2va_cli.{COMMANDS[name].module}")
    assert name == module.NAME


def test_help_lists_all_commands_and_imports_none_of_the_heavy_packages() -> None:
    code = (
        "import sys; from sa2va_cli.main import main; status = main(['--help']);"
        "heavy = {'torch', 'numpy', 'cv2', 'av', 'transformers', 'rosbags'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout


def test_wrong_usage_is_one_line(capsys) -> None:
    assert main([]) == 2
    capsys.readouterr()
    assert main(["trak"]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert "invalid choice: 'trak'" in captured
    assert main(["ask", "--nonsense"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


class Faulty:
    """A command that fails in a way of our choice."""

    NAME = HELP = EXAMPLES = "faulty"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        pass

    def run(self, args: argparse.Namespace) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("a.png: bad\nin two lines"), 2, "error: a.png: bad in two lines"),
        (RuntimeError("it broke"), 1, "RuntimeError: it broke (--debug shows where)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_are_one_line_and_have_their_status(
    monkeypatch, capsys, error: BaseException, status: int, line: str
) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Faulty(error))
    assert main(["doctor"]) == status
    assert capsys.readouterr().err == f"sa2va doctor: {line}\n"
    if status != 130:
        assert main(["doctor", "--debug"]) == status
        assert "Traceback" in capsys.readouterr().err


def test_ask_writes_masks_overlay_and_answer(ask, image, tmp_path) -> None:
    out = tmp_path / "out"
    words = (image, "Please segment the red ball.", "-o", out, "--json", tmp_path / "a.json")
    status, stdout, stderr = ask(*words)
    assert status == 0, stderr
    assert "object 0" in stdout
    answer = json.loads((out / "answer.json").read_text())
    assert answer == json.loads((tmp_path / "a.json").read_text())
    mask = cv2.imread(str(out / "masks" / "0" / "00000.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (96, 128)
    assert set(np.unique(mask)) <= {0, 255}
    assert int((mask > 0).sum()) == answer["objects"][0]["area"][0]
    assert cv2.imread(str(out / "overlay" / "00000.png")).shape == (96, 128, 3)


def test_ask_without_masks(ask, image, blind_folder, tmp_path) -> None:
    status, _, stderr = ask(image, "What is this?", "-o", tmp_path / "out", model=blind_folder)
    assert status == 0, stderr
    answer = json.loads((tmp_path / "out" / "answer.json").read_text())
    assert answer["objects"] == []
    assert not (tmp_path / "out" / "masks").exists()


def test_ask_about_a_video_takes_frames_spread_over_it(ask, video, tmp_path) -> None:
    status, stdout, stderr = ask(
        video, "What happens?", "--frames", 4, "--json", tmp_path / "a.json"
    )
    assert status == 0, stderr
    assert json.loads((tmp_path / "a.json").read_text())["frames"] == [0, 4, 7, 11]
    assert "-o OUT writes the masks" in stdout
    status, _, stderr = ask(video, "What?", "--frames", 50, "--json", tmp_path / "a.json")
    assert status == 0, stderr
    assert json.loads((tmp_path / "a.json").read_text())["frames"] == list(range(12))


def test_ask_with_a_region(ask, image, video, tmp_path) -> None:
    region = np.zeros((96, 128), np.uint8)
    region[30:60, 10:50] = 255
    path = tmp_path / "region.png"
    cv2.imwrite(str(path), region)
    status, _, stderr = ask(image, "What is region1?", "--region", path)
    assert status == 0, stderr
    for words, reason in (
        ((video, "What is region1?"), "the input is a video, expected an image for --region"),
        ((image, " "), "question is empty"),
    ):
        status, _, stderr = ask(*words, "--region", path)
        assert (status, stderr.count("\n")) == (2, 1)
        assert reason in stderr
    cv2.imwrite(str(path), region[:50])
    status, _, stderr = ask(image, "What is region1?", "--region", path)
    assert status == 2
    assert f"--region {path}: is 128x50, expected 128x96 like the image" in stderr
    cv2.imwrite(str(path), region * 0)
    assert "all black" in ask(image, "What is region1?", "--region", path)[2]


GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "internvl"


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files are not beside this checkout")
def test_verify_golden_prints_the_stages(capsys, tmp_path) -> None:
    words = [
        "verify-golden",
        str(GOLDEN),
        "--case",
        "image_1tile",
        "--json",
        str(tmp_path / "g.json"),
    ]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "image_1tile: ok" in text
    assert "all 1 cases within tolerance" in text
    case = json.loads((tmp_path / "g.json").read_text())["cases"][0]
    assert case["passed"]
    assert {"vit", "step logits", "final masks"} <= {stage["name"] for stage in case["stages"]}


def test_verify_golden_over_tolerance_is_a_failure(monkeypatch, capsys, tmp_path) -> None:
    from sa2va_model.checkpoints import golden

    report = golden.CaseReport(
        "case", (golden.GoldenStage("vit", 0.5, 1e-4), golden.GoldenStage("x", 0.0, 0.0))
    )
    monkeypatch.setattr(golden, "verify", lambda folder, case=None, **kwargs: [report])
    assert main(["verify-golden", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "case: OVER TOLERANCE" in text
    assert "<-- over" in text
    assert "1 of 1 cases over tolerance: case" in text


def test_verify_golden_of_no_golden_folder(capsys, tmp_path) -> None:
    assert main(["verify-golden", str(tmp_path)]) == 2
    assert "no manifest.json" in capsys.readouterr().err
