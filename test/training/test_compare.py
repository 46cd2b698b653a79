# SPDX-License-Identifier: Apache-2.0
"""Pages of evaluations, suites, and one model against another."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from sa2va_cli.main import main
from sa2va_model.checkpoints.load import save_model
from sa2va_model.testing import nano_model
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.shipped import find_config
from sa2va_training.data.synth import write_scenes
from sa2va_training.evaluation.compare import bootstrap, compare, read_records
from sa2va_training.evaluation.facts import breakdown, facts_of, score_of
from sa2va_training.evaluation.page import write_comparison
from sa2va_training.metrics.events import follow_events

from .layouts import refcoco


def square(x: int, side: int = 10) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[10 : 10 + side, x : x + side] = True
    return mask


def test_facts_are_of_the_truth() -> None:
    """A square of 10 that appears on the second of four frames and moves 6 pixels a frame."""
    truth = np.stack([np.zeros((40, 60), bool), square(0), square(6), square(12)])
    facts = facts_of("the white square there", truth)
    assert facts["words"] == 4
    assert facts["area"] == pytest.approx(100 / 2400, abs=1e-5)
    assert facts["first"] == 0.25
    assert facts["motion"] == pytest.approx(6 / np.hypot(40, 60), abs=1e-4)
    assert facts_of("nothing", truth[:1]) == {"words": 1}


def test_events_of_following() -> None:
    """Seen from the second frame on, marked late, mistaken, regained, then missed while hidden (no loss)."""
    none, here, other = np.zeros((40, 60), bool), square(0), square(40)
    truth = np.stack([none, here, here, here, here, here, none])
    guess = np.stack([none, none, here, other, none, here, none])
    found = follow_events(guess, truth, [t / 2 for t in range(7)])
    assert found == {
        "wrong": pytest.approx(1 / 7),
        "missed": 0.0,
        "wait": 0.5,
        "lost": 1.0,
        "regained": 1.0,
        "switched": 1.0,
    }
    assert follow_events(np.stack([none, none]), np.stack([here, here]), [0, 1])["missed"] == 1.0
    ghost = follow_events(np.stack([here, other]), np.stack([here, none]), [0, 1])
    assert (ghost["lost"], ghost["switched"]) == (0.0, 1.0)


def test_the_bootstrap_knows_a_gain_from_luck() -> None:
    rng = np.random.default_rng(0)
    luck, gain = rng.normal(0, 0.2, 400), rng.normal(0.05, 0.2, 400)
    low, high = bootstrap(luck)
    assert low < 0 < high
    low, high = bootstrap(gain)
    assert 0 < low < gain.mean() < high
    error = 0.2 / np.sqrt(400)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets measured as a suite with a nano model; their folder."""
    root = tmp_path_factory.mktemp("suite")
    save_model(nano_model(), root / "model")
    write_scenes(root / "pictures", "flat", (1,), size=96)
    with FolderWriter(root / "clips") as folder:
        folder.add_clip(
            "run",
            [np.full((40, 60, 3), 90, np.uint8)] * 3,
            [square(x).astype(np.uint8) for x in (0, 6, 12)],
            {1: "square"},
            expressions=[{"text": "the square", "objects": ["1"]}],
        )
    (root / "suite.yaml").write_text(
        "- pictures\n- {format: simple, root: clips, tracking: live, name: live}\n"
    )
    words = ["evaluate", str(root / "suite.yaml"), "-o", str(root / "out")]
    assert main([*words, "--model", str(root / "model")]) == 0
    return root


def test_a_suite_is_one_page(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = suite / "out"
    index = (out / "index.html").read_text()
    for name in ("pictures", "live"):
        assert f'href="{name}/report.html"' in index
        page = (out / name / "report.html").read_text()
        assert "The worst first" in page
        shown = re.findall(r'src="([^"]+)"', page)
        assert len(shown) > 1
        assert all(cv2.imread(str(out / name / file)) is not None for file in shown)
    _, records = read_records(out / "pictures")
    scores = [s for r in records.values() if (s := score_of(r)) is not None]
    worst = re.findall(r"<b>([\d.]+)</b>", (out / "pictures/report.html").read_text())
    assert [float(w) for w in worst] == [round(s, 2) for s in sorted(scores)[:24]]
    results = json.loads((out / "results.json").read_text())
    assert {"missed", "lost", "wrong"} <= results["live"]["figures"]["referring, clips"][
        "all"
    ].keys()
    parts = breakdown(list(records.values()))
    assert sum(group["n"] for group in parts["kind"].values()) == len(scores)
    capsys.readouterr()
    (suite / "twice.yaml").write_text("- pictures\n- pictures\n")
    assert main(["evaluate", str(suite / "twice.yaml"), "-o", str(suite / "no")]) == 2
    assert "'pictures' occurs twice" in capsys.readouterr().err


def test_two_evaluations_are_compared_question_by_question(suite: Path, tmp_path: Path) -> None:
    first, second = suite / "out/pictures", tmp_path / "second"
    second.mkdir()
    lines = [json.loads(line) for line in (first / "records.jsonl").read_text().splitlines()]
    refer = [line for line in lines if line.get("task") == "refer" and line["union"]]
    for line in refer:
        line["intersection"] = line["union"] if line is not refer[0] else 0
    (second / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    by_task = {c.task: c for c in compare(first, second)}
    found = by_task["refer"]
    before = {key: score_of(r) for key, r in read_records(first)[1].items() if r["task"] == "refer"}
    after = {key: score_of(r) for key, r in read_records(second)[1].items() if r["task"] == "refer"}
    gains = [(after[k] or 0) - (before[k] or 0) for k in before]
    assert found.second - found.first == pytest.approx(np.mean(gains))
    assert (found.won, found.lost) == (sum(g > 0.01 for g in gains), sum(g < -0.01 for g in gains))
    assert [pair.gain for pair in found.pairs] == sorted(gains)
    write_comparison(tmp_path, first, second, list(by_task.values()))
    page = (tmp_path / "compare.html").read_text()
    assert "won most" in page
    assert cv2.imread(str(tmp_path / "gains.png")) is not None


def test_what_cannot_be_compared_is_refused(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = suite / "out"
    assert main(["compare", str(out / "pictures"), str(tmp_path)]) == 2
    assert "no records.jsonl" in capsys.readouterr().err
    assert main(["compare", str(out / "pictures"), str(out / "live")]) == 2
    assert "no question in common" in capsys.readouterr().err


def test_a_table_of_the_paper_on_other_data(suite: Path, tmp_path: Path) -> None:
    """Table 20's eight ways of choosing keyframes; a choice that changes nothing gives the same figure."""
    out = tmp_path / "out"
    words = ["reproduce", "table20", "--data", str(suite / "clips"), "-o", str(out)]
    assert main([*words, "--model", str(suite / "model")]) == 0
    results = json.loads((out / "results.json").read_text())
    ours = {row["column"]: row["ours"] for row in results["rows"]}
    assert len(ours) == 8
    assert all(0 <= value <= 1 for value in ours.values())
    assert ours["first 3"] == ours["first 5"] == ours["uniform 3"]  # of three frames
    assert {row["paper"] for row in results["rows"]} == {None}
    head, _ = read_records(out / "uniform_4")
    assert (head["asking"]["keyframes"], head["asking"]["count"]) == ("uniform", 4)
    assert "| first 1 |" in (out / "table.md").read_text()


def test_a_table_says_what_data_is_missing_and_how_far_it_is(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table 6 with RefCOCO alone, by a model called as a published one: far from its figure, so the status is 1."""
    refcoco(tmp_path / "data/ref_seg")
    pickled = tmp_path / "data/ref_seg/refcoco/refs(unc).p"
    refs = pickle.loads(pickled.read_bytes())
    pickled.write_bytes(pickle.dumps([{**r, "split": "val"} for r in refs], protocol=2))
    table = yaml.safe_load(find_config("table06", "paper").read_text())
    for cell in table["cells"]:
        if cell["column"] in ("RefCOCO+", "RefCOCOg"):
            cell["dataset"]["root"] = "elsewhere"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(table))
    model = tmp_path / "Sa2VA-8B"
    shutil.copytree(suite / "model", model)
    words = ["reproduce", str(tmp_path / "mine.yaml"), "--data-root", str(tmp_path / "data")]
    assert main([*words, "-o", str(tmp_path / "out"), "--model", str(model)]) == 1
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert rows[0]["paper"] == 0.816
    assert rows[0]["difference"] == pytest.approx(rows[0]["ours"] - 0.816)
    assert rows[0]["same"] is False
    assert rows[3]["note"].endswith("video_datas/mevis; had from henghuiding/MeViS")
    assert main([*words[:3], str(tmp_path), "-o", str(tmp_path / "none")]) == 2
    assert "has none of the table's datasets" in capsys.readouterr().err
