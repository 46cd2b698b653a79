# SPDX-License-Identifier: Apache-2.0
"""Evaluation: figures of predictors that know everything or nothing, resuming, and the shipped model end to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_cli.evaluation.evaluate import settings
from sa2va_cli.main import main
from sa2va_model.checkpoints.load import load_model
from sa2va_model.errors import InputError
from sa2va_model.mllm.chat import IMAGE_PLACEHOLDER, parse_answer
from sa2va_sim.painted.scene import flat_clip
from sa2va_sim.words.expressions import describe
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.readers import DatasetConfig, open_dataset
from sa2va_training.data.sample import Dataset, Sample
from sa2va_training.data.synth import write_scenes
from sa2va_training.evaluation.predictor import Asking, ModelPredictor, Prediction
from sa2va_training.evaluation.report import report
from sa2va_training.evaluation.run import EvaluationRun
from sa2va_training.metrics.overlap import giou, overlap

from .layouts import MAKERS, OPTIONS

SIZE = 96


class Oracle:
    """Knows the truth of a dataset by its pictures and words."""

    def __init__(self, dataset: Dataset) -> None:
        self._said: dict[tuple[bytes, str], Prediction] = {}
        self._masks: dict[tuple[bytes, str], np.ndarray] = {}
        for i in range(len(dataset)):
            self._learn(dataset[i])

    def _learn(self, sample: Sample) -> None:
        key = _key(sample.read_frames())
        for referring in sample.referrings:
            if referring.target is not None:
                self._masks[key, referring.text] = referring.target.read(*sample.size())
        if sample.turns:
            asked = sample.turns[0].text.replace(IMAGE_PLACEHOLDER, "").strip()
            if sample.regions:
                asked += str(sample.read_regions().sum())
            text, phrases = parse_answer(sample.turns[-1].text)
            self._said[key, asked] = Prediction(
                text, sample.read_masks(), tuple(p.text for p in phrases)
            )

    def refer_image(self, image: np.ndarray, expressions: Sequence[str]) -> list[np.ndarray]:
        return [masks[0] for masks in self.refer_clip([image], expressions)]

    def refer_clip(
        self, frames: Sequence[np.ndarray], expressions: Sequence[str]
    ) -> list[np.ndarray]:
        empty = np.zeros((len(frames), *frames[0].shape[:2]), bool)
        return [self._masks.get((_key(frames), text), empty) for text in expressions]

    def answer(
        self, frames: Sequence[np.ndarray], question: str, regions: Sequence[np.ndarray] = ()
    ) -> Prediction:
        suffix = str(np.stack(regions).sum()) if len(regions) else ""
        return self._said[_key(frames), question + suffix]


class Silent:
    """Marks nothing and says nothing."""

    def refer_image(self, image: np.ndarray, expressions: Sequence[str]) -> list[np.ndarray]:
        return [np.zeros(image.shape[:2], bool) for _ in expressions]

    def refer_clip(
        self, frames: Sequence[np.ndarray], expressions: Sequence[str]
    ) -> list[np.ndarray]:
        return [np.zeros((len(frames), *frames[0].shape[:2]), bool) for _ in expressions]

    def answer(
        self, frames: Sequence[np.ndarray], question: str, regions: Sequence[np.ndarray] = ()
    ) -> Prediction:
        return Prediction("", np.zeros((0, 1, *frames[0].shape[:2]), bool), ())


def _key(frames: Sequence[np.ndarray]) -> bytes:
    return b"".join(frame[::7, ::5].tobytes() for frame in frames)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three painted scenes with everything that can be said about them, and a clip."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, "flat", (1, 3, 5), size=SIZE)
    clip = flat_clip(np.random.default_rng(7), SIZE, 4)
    asked = describe(clip[0].facts, np.random.default_rng(8), 3, motion=False)
    with FolderWriter(root) as folder:
        folder.add_clip(
            "clip",
            [picture.rgb for picture in clip],
            [clip[0].instances, None, clip[2].instances, clip[3].instances],
            {f.index + 1: f.colour for f in clip[0].facts},
            expressions=[
                {
                    "text": e.text,
                    "objects": [] if e.target is None else [str(e.target + 1)],
                    "kind": e.kind,
                }
                for e in asked
            ],
        )
    return root


def made(name: str, root: Path, **options: Any) -> Dataset:
    MAKERS[name](root)
    return open_dataset(DatasetConfig(name, root, options={**OPTIONS.get(name, {}), **options}))


def measured(
    dataset: Dataset, predictor: Any, folder: Path, **options: Any
) -> list[dict[str, Any]]:
    run = EvaluationRun(dataset, folder, {"test": 1}, **options)
    for _ in run.go(predictor, run.start()):
        pass
    run.finish()
    return run.records()[0]


def test_who_knows_everything_is_right_everywhere(scenes: Path, tmp_path: Path) -> None:
    dataset = open_dataset(DatasetConfig("simple", scenes))
    figures = report(measured(dataset, Oracle(dataset), tmp_path))
    refer = figures["referring, images"]
    assert {"all", "with target", "attribute", "none"} <= set(refer)
    assert all(row["gIoU"] == pytest.approx(1.0, abs=1e-4) for row in refer.values())
    assert refer["none"]["no-target acc."] == 1.0
    assert figures["referring, clips"]["all"]["J&F"] == 1.0
    grounded = figures["grounded captions"]["all"]
    for name in ("AP50", "mIoU", "recall (words)", "correct pairs", "pairs found"):
        assert grounded[name] == pytest.approx(1.0), name
    assert {"count", "region"} <= set(figures["questions"])
    assert all(row["right"] == 1.0 for row in figures["questions"].values())
    assert cv2.imread(str(tmp_path / "qualitative.png")) is not None


def test_who_says_nothing_is_right_about_nothing(scenes: Path, tmp_path: Path) -> None:
    dataset = open_dataset(DatasetConfig("simple", scenes))
    figures = report(measured(dataset, Silent(), tmp_path))
    refer = figures["referring, images"]
    assert refer["with target"]["gIoU"] == 0.0
    assert refer["none"]["no-target acc."] == 1.0
    share = refer["none"]["n"] / refer["all"]["n"]
    assert refer["all"]["gIoU"] == pytest.approx(share)
    assert figures["grounded captions"]["all"]["pairs found"] == 0.0
    assert figures["questions"]["all"]["right"] == 0.0


@pytest.mark.parametrize(
    "name",
    ["refcoco", "grefcoco", "finetune", "mevis", "revos", "ref_youtube_vos", "ref_davis17", "ref_sav_eval",
     "gcg_eval", "region_captions", "simple"],
)  # fmt: skip
def test_every_benchmark_has_figures(name: str, tmp_path: Path) -> None:
    dataset = made(name, tmp_path / "data")
    figures = report(measured(dataset, Oracle(dataset), tmp_path / "out"), protocol=name)
    row = next(iter(figures.values()))
    first = next(iter(row.values()))
    main_figure = {"gcg_eval": "AP50"}.get(name, next(iter(first)))
    if name != "region_captions":
        assert first[main_figure] == pytest.approx(1.0, abs=1e-3)
    else:
        # one of two references is met; CIDEr of a single region is 0: no word is rare
        assert first["CIDEr"] == 0.0
        assert 0.0 < next(iter(first.values())) <= 1.0


def test_groups_are_averaged_as_published() -> None:
    """ReVOS: the mean of referring and reasoning; robustness also without a target."""
    measured_as = {
        "v|0": ("referring", 1.0, 1.0, 1.0, 1.0),
        "v|1": ("referring", 0.8, 0.6, 1.0, 0.5),
        "v|2": ("reasoning", 0.1, 0.3, 0.5, 0.5),
        "v|3": ("none", 0.0, 0.0, 0.9, 0.25),
    }
    names = ("kind", "j", "f", "accuracy", "robustness")
    records = [
        {"id": key, "task": "track", "marked": True, **dict(zip(names, values, strict=True))}
        for key, values in measured_as.items()
    ]
    rows = report(records, protocol="revos")["referring, clips"]
    assert rows["referring"]["J&F"] == pytest.approx(0.85)
    assert rows["overall"]["J"] == pytest.approx((0.9 + 0.1) / 2)
    assert rows["overall"]["R"] == pytest.approx((0.75 + 0.5) / 2)
    assert rows["none"]["R"] == pytest.approx(0.25)
    # the other benchmarks average over expressions
    assert report(records)["referring, clips"]["all"]["J"] == pytest.approx(1.9 / 4)


def test_davis_by_its_own_protocol(tmp_path: Path) -> None:
    dataset = made("ref_davis17", tmp_path / "data")
    records = measured(dataset, Oracle(dataset), tmp_path / "out", keep_masks=True)
    rows = report(records, protocol="ref_davis17:official")["referring, clips"]
    assert list(rows) == ["all", "annotator 1", "annotator 2", "annotator 3", "annotator 4"]
    assert all(row["J&F"] == 1.0 for row in rows.values())
    assert rows["annotator 1"]["n"] == 4  # two objects in two clips


def test_secret_truth_is_exported_for_the_server(tmp_path: Path) -> None:
    dataset = made("mevis", tmp_path / "data", split="valid")
    records = measured(dataset, Silent(), tmp_path / "out", export=True)
    assert report(records) == {}
    files = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("0000*.png"))
    assert [f.as_posix() for f in files if f.parts[0] == "Annotations"] == [
        f"Annotations/clip_c/0/0000{t}.png" for t in range(3)
    ]
    assert (tmp_path / "out/Annotations.zip").is_file()


def test_a_stopped_run_goes_on(scenes: Path, tmp_path: Path) -> None:
    dataset = open_dataset(DatasetConfig("simple", scenes))
    oracle = Oracle(dataset)
    whole = measured(dataset, oracle, tmp_path / "whole")
    run = EvaluationRun(dataset, tmp_path / "cut", {"test": 1})
    steps = run.go(oracle, run.start())
    for _ in range(5):
        next(steps)
    steps.close()
    with run.records_file.open("a") as file:  # killed while it wrote
        file.write('{"id": "x", "task": "answer", "kind"')
    done = run.start()
    assert len(done) == 5
    assert sum(1 for _ in run.go(oracle, done)) == len(dataset) - 5
    assert run.records() == (whole, len(dataset))


def test_processes_share_a_folder(scenes: Path, tmp_path: Path) -> None:
    dataset = open_dataset(DatasetConfig("simple", scenes))
    oracle = Oracle(dataset)
    whole = measured(dataset, oracle, tmp_path / "whole")
    for i in (0, 1):
        found = measured(dataset, oracle, tmp_path / "shared", shard=(i, 2))
        assert (len(found) == len(whole)) is (i == 1)
    assert sorted(r["id"] for r in found) == sorted(r["id"] for r in whole)
    assert report(found) == report(whole)


def test_another_number_of_processes_goes_on_and_counts_nothing_twice(
    scenes: Path, tmp_path: Path
) -> None:
    """One of three is killed, two others go on, then one alone; at last one that starts again."""
    dataset = open_dataset(DatasetConfig("simple", scenes))
    oracle = Oracle(dataset)
    whole = measured(dataset, oracle, tmp_path / "whole")

    def go_on(shard: tuple[int, int], most: int = 1000) -> EvaluationRun:
        run = EvaluationRun(dataset, tmp_path / "out", {"test": 1}, shard=shard)
        for n, _ in enumerate(run.go(oracle, run.start()), 1):
            if n == most:
                break
        return run

    go_on((1, 3), most=2)
    go_on((1, 2), most=1)
    done = go_on((0, 2)).records()[1]
    last = EvaluationRun(dataset, tmp_path / "out", {"test": 1})
    known = last.start()
    assert (len(known), last.left(known)) == (done, len(dataset) - done)
    assert sum(1 for _ in last.go(oracle, known)) == len(dataset) - done > 0
    assert last.records() == (whole, len(dataset))
    assert last.start(afresh=True) == set()
    assert [p.name for p in (tmp_path / "out").glob("records*")] == ["records.jsonl"]
    assert last.records() == ([], 0)


def test_the_command_under_torchrun_reports_what_one_process_does(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", str(scenes), "limit=4", "-o"]
    assert main([*words, str(tmp_path / "one")]) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets them
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert main([*words, str(tmp_path / "two")]) == 0
    one, two = (json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two"))
    assert one == two
    assert one["measured"] == one["samples"]


def test_records_of_another_run_are_not_mixed(scenes: Path, tmp_path: Path) -> None:
    dataset = open_dataset(DatasetConfig("simple", scenes))
    EvaluationRun(dataset, tmp_path, {"model": "a", "same": 1}).start()
    with pytest.raises(InputError, match=r"another run \(other model\)"):
        EvaluationRun(dataset, tmp_path, {"model": "b", "same": 1}).start()
    assert EvaluationRun(dataset, tmp_path, {"model": "b", "same": 1}).start(afresh=True) == set()


def test_the_shipped_model_end_to_end(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line on painted scenes: the figures are those of asking the model directly."""
    out, result = tmp_path / "out", tmp_path / "result.json"
    words = ["evaluate", str(scenes), "-o", str(out), "--json", str(result)]
    assert main(words) == 0
    assert "referring, images" in capsys.readouterr().out
    found = json.loads(result.read_text())
    assert found == json.loads((out / "results.json").read_text())
    model = load_model(device="cpu")
    dataset = open_dataset(DatasetConfig("simple", scenes))
    overlaps = []
    for i in range(len(dataset)):
        sample = dataset[i]
        if sample.clip or not sample.referrings:
            continue
        rgb = sample.read_frames()[0]
        for referring in sample.referrings:
            assert referring.target is not None
            truth = referring.target.read(*sample.size())[0]
            seen = model.segment(rgb, referring.text)
            guess = np.zeros_like(truth)
            for mask in seen.masks:
                guess |= mask
            overlaps.append(overlap(guess, truth))
    figures = found["figures"]["referring, images"]["all"]
    assert figures["n"] == len(overlaps)
    assert figures["gIoU"] == pytest.approx(giou(overlaps), abs=2e-3)
    picture = cv2.imread(str(out / "qualitative.png"))
    assert picture is not None
    assert picture.std() > 20
    # again: nothing is left to do, and the figures stay
    assert main(words) == 0
    assert (
        f"{len(dataset)} of {len(dataset)} samples were measured before" in capsys.readouterr().out
    )
    assert json.loads(result.read_text())["figures"] == found["figures"]


def test_refcoco_is_asked_for_as_published(tmp_path: Path) -> None:
    for name, wording in (
        ("refcoco+", "{} in this image"),
        ("grefcoco", "{} in this image"),
        ("mevis", "{}"),
    ):
        path = tmp_path / "data.yaml"
        path.write_text(f"format: {name}\nroot: .\n")
        assert settings(str(path), [])[1].wording == wording
        assert settings(str(path), ["wording='the {}'"])[1].wording == "the {}"


@pytest.mark.parametrize("tracking", ["offline", "live"])
def test_clips_are_tracked_both_ways(tracking: str, scenes: Path) -> None:
    dataset = open_dataset(DatasetConfig("simple", scenes))
    sample = next(dataset[i] for i in range(len(dataset)) if dataset[i].clip)
    predictor = ModelPredictor(load_model(device="cpu"), Asking(tracking=tracking))
    frames = sample.read_frames()
    [mask] = predictor.refer_clip(frames, [sample.referrings[0].text])
    assert mask.shape == (len(frames), SIZE, SIZE)
    assert mask.dtype == bool


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.yaml"], "nothing.yaml: No such file"),
        (["{scenes}", "tracking=fast"], "tracking is 'fast', expected one of offline, live"),
        (["{scenes}", "trackin=live"], "unknown option 'trackin'"),
        (["{scenes}", "live"], "expected key=value"),
        (["{scenes}", "protocol=official"], "which only ref_davis17 has"),
        (["{scenes}", "count=two"], "count is 'two'"),
        (["{scenes}", "shard=2/2"], "shard is '2/2', expected i/n"),
        (["{scenes}", "wording=mug"], "wording is 'mug', expected one {}"),
        (["{scenes}", "split=vall"], "split is 'vall'"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str], message: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(scenes=scenes) for word in words]
    assert main(["evaluate", *given, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
