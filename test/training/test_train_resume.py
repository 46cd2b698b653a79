# SPDX-License-Identifier: Apache-2.0
"""A run that is killed and resumed is the run that was not; two processes are one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sa2va_model.errors import InputError
from sa2va_training.batches.batch import Batch
from sa2va_training.data.synth import write_scenes
from sa2va_training.objectives.learner import Learner
from sa2va_training.objectives.objectives import Totals
from sa2va_training.run import state
from sa2va_training.run.reporting.journal import draw_curves, read_journal

from .train_helpers import STEPS, make_run, settings, trained

HELPER = Path(__file__).with_name("train_helpers.py")
PATIENCE = 500.0  # seconds; ten on a quiet machine
pytestmark = pytest.mark.timeout(1600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small drawn pictures."""
    place = tmp_path_factory.mktemp("flat")
    write_scenes(place, "flat", range(10), size=96)
    return place


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted run, and its trained numbers."""
    place = tmp_path_factory.mktemp("whole")
    run = make_run(settings(place, folder))
    run.train()
    return place, trained(run)


def start(*arguments: str, script: Path = HELPER, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=HELPER.parent,
    )


def team(script: Path, *arguments: str) -> list[int]:
    """Two processes that find each other; their exit statuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    members = [
        start(*arguments, script=script, RANK=rank, LOCAL_RANK=rank, **common)
        for rank in ("0", "1")
    ]
    return [member.wait(timeout=PATIENCE) for member in members]


def curve(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_journal(run)]


def test_killed_and_resumed_is_uninterrupted_bit_for_bit(
    tmp_path: Path, folder: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    step = 3
    killed = start(str(tmp_path), str(folder), str(step))
    assert killed.wait(timeout=PATIENCE) == -signal.SIGKILL
    assert [row["step"] for row in read_journal(tmp_path)] == list(range(1, step + 1))
    again = make_run(settings(tmp_path, folder))
    assert again.done == 2
    again.train()
    assert curve(tmp_path) == curve(whole[0])
    assert_same(trained(again), whole[1])


def test_stopped_and_resumed_in_bfloat16_is_uninterrupted_bit_for_bit(
    tmp_path: Path, folder: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    shorter: dict[str, Any] = {"precision": "bf16", "steps": 3, "save_every": 1}
    one = make_run(settings(tmp_path / "one", folder, **shorter))
    one.train()
    assert curve(tmp_path / "one") != curve(whole[0])[:3]
    make_run(settings(tmp_path / "two", folder, **shorter)).train(until=1)
    two = make_run(settings(tmp_path / "two", folder, **shorter))
    assert two.done == 1
    two.train()
    assert curve(tmp_path / "one") == curve(tmp_path / "two")
    assert_same(trained(two), trained(one))


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_checkpoint_that_was_being_written_is_passed_over(
    tmp_path: Path, folder: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    run = make_run(settings(tmp_path, folder))
    run.train(until=2)
    half = tmp_path / "checkpoints" / "00000004.new"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half of it")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    again = make_run(settings(tmp_path, folder))
    assert again.done == 2
    again.train()
    assert all(torch.equal(v, whole[1][k]) for k, v in trained(again).items())
    assert curve(tmp_path) == curve(whole[0])


def test_only_the_newest_checkpoints_are_kept(whole: tuple[Path, dict[str, Any]]) -> None:
    kept = sorted(path.name for path in (whole[0] / "checkpoints").iterdir())
    assert kept == ["00000004", "00000006"]
    found = state.latest(whole[0])
    assert found is not None
    assert found.step == STEPS


def test_another_base_model_or_other_parts_are_refused(tmp_path: Path, folder: Path) -> None:
    make_run(settings(tmp_path, folder)).train(until=2)
    with pytest.raises(InputError, match="trained in one of run and checkpoint only"):
        make_run(settings(tmp_path, folder, train={"decoder": False}))
    meta = tmp_path / "checkpoints" / "00000002" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "base": "0" * 32}))
    with pytest.raises(InputError, match="base model 0000"):
        make_run(settings(tmp_path, folder))


def test_steps_that_are_not_finite_are_skipped_and_counted(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad step changes no weight; three in a row end the run, and the checkpoint before them is the newest."""
    run = make_run(settings(tmp_path, folder))
    run.train(until=2)
    before, plain = trained(run), Learner.forward
    bad = {2, 4, 5, 6}

    def broken(learner: Learner, batch: Batch, totals: Totals) -> dict[str, torch.Tensor]:
        out = plain(learner, batch, totals)
        return {**out, "loss": out["loss"] * float("nan")} if run.done in bad else out

    monkeypatch.setattr(Learner, "forward", broken)
    run.train(until=3)
    assert all(torch.equal(v, before[k]) for k, v in trained(run).items())
    run.train(until=4)
    healthy = trained(run)
    assert not all(torch.equal(v, before[k]) for k, v in healthy.items())
    run.total = 9
    with pytest.raises(InputError, match=r"not finite 3 times in a row; go on from .*00000006"):
        run.train()
    found = state.latest(tmp_path)
    assert found is not None
    assert found.step == 6
    saved = torch.load(found.folder / "state.pt", weights_only=True)["trained"]
    assert all(torch.equal(saved[k], v) for k, v in healthy.items())
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    rows = [
        json.loads(line, parse_constant=lambda _: pytest.fail("no JSON"))
        for line in text.splitlines()
    ]
    assert [row["step"] for row in rows if "skipped" in row] == [3, 5, 6, 7]
    assert rows[2]["loss"] is None
    draw_curves(rows, tmp_path / "loss.png")


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, folder: Path) -> None:
    run = make_run(settings(tmp_path, folder))
    run.train(until=2)
    with torch.no_grad():
        next(p for p in run.wrapped.parameters() if p.requires_grad).view(-1)[0] = float("inf")
    with pytest.raises(InputError, match=r"weights are not finite; go on from .*00000002"):
        run.save()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000002"]


def test_another_number_of_processes_is_refused(tmp_path: Path, folder: Path) -> None:
    make_run(settings(tmp_path, folder)).train(until=2)
    meta = tmp_path / "checkpoints" / "00000002" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "processes": 2}))
    with pytest.raises(InputError, match=r"was made by 2 process.*not 1"):
        make_run(settings(tmp_path, folder))


def test_a_launcher_that_starts_one_process_of_several_is_told(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `accelerate launch --cpu --num_processes 2` sets."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(InputError, match="expected torchrun"):
        make_run(settings(tmp_path, folder))


def test_two_processes_are_one(tmp_path: Path, folder: Path) -> None:
    """The same global batch on two processes (gloo): the curve and the numbers agree to float32 rounding."""
    alone = make_run(settings(tmp_path / "one", folder, train={"dropout": 0.0}))
    alone.train()
    assert team(HELPER, str(tmp_path / "two"), str(folder)) == [0, 0]
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) == len(two) == STEPS
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=2e-4, abs=1e-5)
    found = torch.load(tmp_path / "two" / "trained.pt")
    for name, value in trained(alone).items():
        # The bias of a key adds the same to all scores: its gradient is rounding, which Adam turns into whole steps.
        if not name.endswith("k_proj.bias"):
            assert torch.allclose(found[name], value, atol=2e-4), name


def test_sharded_layers_take_unlike_batches() -> None:
    """FSDP2: text on one process and masks on the other neither hang nor change the gradients."""
    assert team(HELPER.with_name("train_sharded.py")) == [0, 0]
