# SPDX-License-Identifier: Apache-2.0
"""What a step of fine-tuning costs with other settings: both take the same batches in turn, in one process.

    python benchmarks/finetune_step.py finetune_tiny.yaml data=F rehearsal='{data: R, weight: 1.0}' \\
        --against train.patches=true

Processor time of the step alone, without what makes batches; the first step of each warms up.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from sa2va_training.run.job import load_base, make_job, open_all, resolved
from sa2va_training.run.launch import make_accelerator
from sa2va_training.run.loop import TrainingRun
from sa2va_training.run.precision import decided
from sa2va_training.run.settings import stepped
from sa2va_training.run.settings_files import load_settings


def run_of(config: str, overrides: list[str], folder: str) -> TrainingRun:
    """A run that writes nothing."""
    settings = stepped(load_settings(config, [*overrides, f"output={folder}"]), 1)
    accelerator = make_accelerator(settings)
    settings = replace(settings, precision=decided(settings.precision, accelerator.device))
    model = load_base(settings, accelerator)
    settings = resolved(settings, model)
    job = make_job(settings, accelerator, model, "", open_all(settings))
    learner, feeder = job.learner, job.feeder
    return TrainingRun(Path(folder), settings, accelerator, learner, feeder, "", job.total)


def main() -> int:
    """Prints the seconds of both; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", help="key=value of both")
    parser.add_argument("--against", nargs="+", required=True, help="key=value of the other")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        both = (args.overrides, [*args.overrides, *args.against])
        runs = [run_of(args.config, overrides, folder) for overrides in both]
        spent: list[list[float]] = [[], []]
        losses: list[list[float]] = [[], []]
        for run in runs:
            run.wrapped.train()
        for number in range(args.steps + 1):
            batches = runs[0].feeder.step(number)
            for run, seconds, loss in zip(runs, spent, losses, strict=True):
                begun = time.process_time()
                row = run.step([batch.to(run.accelerator.device) for batch in batches])
                run.done += 1
                loss.append(row["loss"])
                if number:
                    seconds.append(time.process_time() - begun)
    ratio = statistics.mean(a / b for a, b in zip(*spent, strict=True))
    for name, seconds, loss in zip(
        ("as given", " ".join(args.against)), spent, losses, strict=True
    ):
        low, high = min(seconds), max(seconds)
        print(
            f"{name:24s} {statistics.median(seconds):.2f} s a step ({low:.2f} to {high:.2f}), "
            f"loss {loss[0]:.4f} at the first"
        )
    print(f"the first takes {ratio:.2f} of the second, mean of {args.steps} steps in turn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
