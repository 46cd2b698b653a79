# SPDX-License-Identifier: Apache-2.0
"""A nano run that a test can start in its own process: `python train_helpers.py FOLDER DATA [kill_at]`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sa2va_model.checkpoints.adapters import fingerprint
from sa2va_model.testing import nano_model
from sa2va_training.run import state
from sa2va_training.run.job import make_job, open_all
from sa2va_training.run.launch import make_accelerator
from sa2va_training.run.loop import TrainingRun
from sa2va_training.run.reporting.journal import Journal
from sa2va_training.run.settings import Settings
from sa2va_training.run.settings_files import settings_from

STEPS = 6


def settings(folder: Path, data: Path, **changes: Any) -> Settings:
    """Dropout, augmentation and two micro-batches: everything that could differ after a resume."""
    values: dict[str, Any] = {
        "data": str(data),
        "output": str(folder),
        "device": "cpu",
        "precision": "fp32",
        "steps": STEPS,
        "save_every": 2,
        "measure": 0,
        "train": {"rank": 4, "alpha": 8, "dropout": 0.1},
        "optimiser": {"rate": 3e-3},
        "loss": {"points": 64},
        "batches": {"batch": 2, "accumulate": 2, "frames": 1, "expressions": 3, "workers": 1, "held_out": 0.0},
    }  # fmt: skip
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return settings_from(values, "test")


def make_run(chosen: Settings) -> TrainingRun:
    """A run of the nano model, resumed if it was begun."""
    torch.set_num_threads(1)
    model = nano_model()
    accelerator = make_accelerator(chosen)
    base = fingerprint(model)
    job = make_job(chosen, accelerator, model, base, open_all(chosen))
    folder = Path(chosen.output)
    folder.mkdir(parents=True, exist_ok=True)
    run = TrainingRun(folder, chosen, accelerator, job.learner, job.feeder, base, job.total)
    run.resume()
    return run


def trained(run: TrainingRun) -> dict[str, torch.Tensor]:
    """The trained numbers."""
    return state.trained_state(run.accelerator.unwrap_model(run.wrapped))


def kill_at(step: int) -> None:
    """Lets this process kill itself right after the journal has a step, as a power cut would."""
    plain = Journal.step

    def deadly(journal: Journal, row: Mapping[str, Any]) -> None:
        plain(journal, row)
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(Journal, "step", deadly)  # noqa: B010


if __name__ == "__main__":
    _, folder, data, *rest = sys.argv
    two = "WORLD_SIZE" in os.environ
    changes: dict[str, Any] = {}
    if two:  # the same global batch, cut in another way
        changes = {"train": {"dropout": 0.0}, "batches": {"batch": 1}}
    if rest and int(rest[0]):
        kill_at(int(rest[0]))
    work = make_run(settings(Path(folder), Path(data), **changes))
    work.train()
    if work.accelerator.is_main_process:
        torch.save(trained(work), Path(folder) / "trained.pt")
    work.accelerator.end_training()
