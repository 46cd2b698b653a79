# SPDX-License-Identifier: Apache-2.0
"""From a settings file to a fine-tuned model: what `sa2va train` does, and what other programs may call.

RUN/settings.yaml  metrics.jsonl  tensorboard/  checkpoints/     while it trains
RUN/held_out.json  before.json  results.json                    what it is measured on, and what it was worth
RUN/loss.png  qualitative.png                                   in pictures
RUN/adapter/                                                    for `--adapter` and the node's LoadAdapter
RUN/merged/                                                     a checkpoint in the official layout
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from sa2va_model.checkpoints.adapters import fingerprint
from sa2va_model.device import most_bytes
from sa2va_model.errors import InputError
from sa2va_training.data.held_out import HELD_OUT, save_held_out
from sa2va_training.run import state
from sa2va_training.run.job import Job, load_base, make_job, open_all, resolved
from sa2va_training.run.launch import make_accelerator
from sa2va_training.run.loop import TrainingRun
from sa2va_training.run.precision import decided
from sa2va_training.run.reporting.judge import Judge, take_best
from sa2va_training.run.reporting.outcome import Figures, finish, measured_before
from sa2va_training.run.reporting.tables import comparison, readable, summary
from sa2va_training.run.settings import Settings, stepped
from sa2va_training.run.settings_files import save_settings

DRY_STEPS = 2


def finetune(
    settings: Settings, *, resume: bool = False, dry_run: bool = False, overfit: int = 0
) -> dict[str, Any]:
    """Trains as the settings say; every process of a launch calls this.

    Args:
        resume: go on with a run that was interrupted.
        dry_run: only a few steps, nothing is written; says what a step costs.
        overfit: train and measure on so many samples only, undisturbed: does it learn at all?

    Returns:
        What `results.json` holds.

    Raises:
        InputError: data, model or settings do not fit.
    """
    if overfit:
        settings = _undisturbed(settings)
    if not resume and not dry_run:
        _check_unused(Path(settings.output))
    job, before = _begin(settings, dry_run=dry_run, overfit=overfit)
    accelerator = job.accelerator
    console = Console(stderr=True, quiet=not accelerator.is_main_process)
    first = job.feeder.micro(0, 0)
    if accelerator.is_main_process:
        console.print(summary(job, first))
    run = TrainingRun(
        job.folder,
        job.settings,
        accelerator,
        job.learner,
        job.feeder,
        job.base,
        job.total,
        judge=None if dry_run else _judge(job),
    )
    if dry_run:
        return _dry(run, console)
    if resume:
        done = run.resume()
        console.print(f"going on after step {done} of {job.total}")
    begun, worked = time.monotonic(), time.process_time()
    run.train()
    seconds, worked = time.monotonic() - begun, time.process_time() - worked
    best = None
    if run.judge is not None:
        best = take_best(job.folder, accelerator.unwrap_model(run.wrapped), range(run.done + 1))
    gathered = _gathered(run)
    results: dict[str, Any] = {}
    if accelerator.is_main_process:
        more = {"steps": run.done} | ({} if best is None else {"best": best})
        results = finish(job, before, gathered, seconds=seconds, worked=worked, more=more)
        console.print(comparison(results))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return results


def _undisturbed(settings: Settings) -> Settings:
    return replace(settings, batches=replace(settings.batches, augment="none", held_out=0.0))


def _check_unused(folder: Path) -> None:
    """A run is never trained over by accident."""
    if state.latest(folder) is not None:
        raise InputError(
            f"output {folder}: holds a run already; expected a new folder, or --resume {folder}"
        )


def _begin(settings: Settings, *, dry_run: bool, overfit: int) -> tuple[Job, Figures]:
    """The job, and what its model was worth before; the main process has opened the run's folder."""
    settings = stepped(settings, int(os.environ.get("WORLD_SIZE", "1")))
    accelerator = make_accelerator(settings)
    settings = replace(settings, precision=decided(settings.precision, accelerator.device))
    model = load_base(settings, accelerator)
    settings = resolved(settings, model)
    base = fingerprint(model)
    sources = open_all(settings, overfit)
    before: Figures = {}
    if accelerator.is_main_process and not dry_run:
        folder = Path(settings.output)
        folder.mkdir(parents=True, exist_ok=True)
        save_settings(settings, folder / "settings.yaml")
        if not (folder / HELD_OUT).is_file():
            parts = [(source.name, source.root, source.held) for source in sources]
            save_held_out(folder / HELD_OUT, parts)
        before = measured_before(model, sources, settings, folder)
    accelerator.wait_for_everyone()
    return make_job(settings, accelerator, model, base, sources), before


def _judge(job: Job) -> Judge | None:
    """What measures while it is trained, where that is asked for.

    Raises:
        InputError: there is nothing to measure on, or no process has all weights.
    """
    settings = job.settings
    if not settings.validate_every:
        return None
    if state.sharded(job.accelerator):
        raise InputError(
            f"validate_every is {settings.validate_every} with sharded weights; expected 0 there"
        )
    held = {s.name: s.validation for s in job.sources if s.validation is not None}
    if not held:
        raise InputError("validate_every: nothing is held out; expected batches.held_out above 0")
    every, patience = settings.validate_every, settings.patience
    return Judge(job.folder, held, settings.measure, settings.seed, every, patience)


def _gathered(run: TrainingRun) -> dict[str, Any] | None:
    """The learner's whole numbers where they are sharded; every process has to call this."""
    accelerator = run.accelerator
    if accelerator.num_processes > 1 and state.sharded(accelerator):
        whole: dict[str, Any] = accelerator.get_state_dict(run.wrapped)
        return whole
    return None


def _dry(run: TrainingRun, console: Console) -> dict[str, Any]:
    """A few steps, and what they cost."""
    rows = run.rehearse(DRY_STEPS)
    peak = most_bytes(run.accelerator.device) or 0
    seconds = rows[-1]["seconds"]
    results = {
        "seconds_per_step": seconds,
        "hours": round(seconds * run.total / 3600, 2),
        "peak_memory_gb": round(peak / 1e9, 2),
        "rows": rows,
    }
    memory = f", {readable(peak)} at most" if peak else ""
    console.print(
        f"dry run: {seconds:.2f} s per step{memory}; "
        f"all {run.total} steps would take {results['hours']} h"
    )
    return results
