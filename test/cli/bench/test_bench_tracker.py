# SPDX-License-Identifier: Apache-2.0
"""`sa2va bench tracker` and a stock SAM-2 behind `sa2va track`: what they report, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sa2va_cli.main import main
from sa2va_model.checkpoints.files.sam2_files import stock_config
from sa2va_model.segmentation.sam2 import Sam2

from ..conftest import picture, write_video


def test_both_trackers_run_on_the_same_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tracker.json"
    words = ["--preset", "nano", "--objects", "1,2", "--frames", "10", "--against", "sam2"]
    assert main(["bench", "tracker", *words, "--device", "cpu", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["profile"] == "float32", "the default for small models on a CPU"
    assert [run["objects"] for run in report["runs"]] == [1, 2]
    for run in report["runs"]:
        ours, theirs = run["contestants"]["float32"], run["contestants"]["sam2"]
        assert ours["agreement_j"] > 0.999, "same weights, same frames, same masks"
        assert ours["ratio"] == pytest.approx(theirs["ms"] / ours["ms"], abs=0.02)
        assert ours["fps"] == pytest.approx(1e3 / ours["ms"], rel=0.01)
        assert set(run["stages_ms"]) == {"encode", "attend", "decode", "remember"}
        assert all(value > 0 for value in run["stages_ms"].values())
        assert run["peak_mb"] > 50
    assert "sam2" in capsys.readouterr().out


def test_the_soak_reports_growth_and_pace(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    words = ["--preset", "nano", "--soak", "230", "--device", "cpu", "--json", str(out)]
    assert main(["bench", "tracker", *words]) == 0
    soak = json.loads(out.read_text())["soak"]
    assert soak["frames"] == 230
    assert soak["rss_slope_frames"] == 30, "frames after the warm-up"
    for unit in ("ms", "cpu_ms"):
        ratio = soak[f"p95_{unit}_late"] / soak[f"p95_{unit}_early"]
        assert soak[f"p95_{unit}_late_to_early"] == pytest.approx(ratio, abs=0.01)


def test_the_clip_may_be_a_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "ball.mp4", [picture(i) for i in range(8)])
    out = tmp_path / "tracker.json"
    words = ["--preset", "nano", "--objects", "3", "--video", str(video), "--device", "cpu"]
    assert main(["bench", "tracker", *words, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["runs"][0]["frames"] == 8


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--preset", "sam2-tiny"], "expected --random-weights"),
        (["--preset", "nano", "--resolution", "512"], "--resolution is for published sizes"),
        (["--preset", "nano", "--profile", "quick"], "profile is 'quick'"),
        (["--sam2", "nowhere.pt"], "no such file"),
    ],
)
def test_what_cannot_be_measured_is_told(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "tracker", *words, "--device", "cpu"]) == 2
    assert reason in capsys.readouterr().err


def test_a_published_file_follows_what_the_words_found(tmp_path: Path) -> None:
    """`sa2va track --propagation handover --sam2 FILE.pt`, with a file in the published layout."""
    torch.manual_seed(0)
    file = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": Sam2(stock_config("tiny")).sam2_model.state_dict()}, file)
    video = write_video(tmp_path / "ball.mp4", [picture(i) for i in range(4)])
    out = tmp_path / "out"
    handover = ["--propagation", "handover", "--sam2", str(file), "--resolution", "256"]
    words = ["track", str(video), "--box", "10,30,40,60", "-o", str(out), "--device", "cpu"]
    assert main([*words, *handover]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"] == 4
    file.unlink()


def test_handover_without_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "ball.mp4", [picture(0)])
    words = ["track", str(video), "--box", "1,1,9,9", "-o", str(tmp_path / "o")]
    assert main([*words, "--propagation", "handover"]) == 2
    assert "needs a stock SAM-2 file" in capsys.readouterr().err
