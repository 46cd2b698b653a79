# SPDX-License-Identifier: Apache-2.0
"""The training loop on `accelerate`: one process or many, plain, DDP, FSDP2 or DeepSpeed, as it was launched.

    accelerate launch … or torchrun … $(which sa2va) train finetune.yaml

A step is `accumulate` forward passes on every process. Its losses are means over all tokens and masks of the whole
step, so that the same global batch is the same step however it is cut. Everything random is a function of (seed, step).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_training.batches.batch import Batch
from sa2va_training.batches.feeder import Feeder
from sa2va_training.objectives.learner import REPORT, Learner
from sa2va_training.objectives.objectives import Totals
from sa2va_training.run import state
from sa2va_training.run.reporting.journal import Journal
from sa2va_training.run.reporting.judge import Judge
from sa2va_training.run.settings import OptimiserSettings, Settings
from sa2va_training.run.trainables import groups

BAD_STEPS = 3
"""In a row, after which a run ends."""
_START = 1e-5  # of the peak rate, where the warm-up begins (published)


def rate(step: int, total: int, settings: OptimiserSettings) -> float:
    """The learning rate of a step as a share of the peak: linear warm-up, then cosine down to `floor`."""
    warm = round(total * settings.warmup)
    if step < warm:
        return _START + (1 - _START) * step / warm
    done = (step - warm) / max(total - warm, 1)
    return settings.floor + (1 - settings.floor) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class TrainingRun:
    """One run in its folder.

    Attributes:
        feeder: must be made for this process' rank.
        base: fingerprint of the model before training.
        total: optimiser steps.
        judge: what the weights are worth while they are trained; None = nobody asks.
    """

    folder: Path
    settings: Settings
    accelerator: Accelerator
    learner: Learner
    feeder: Feeder
    base: str
    total: int
    judge: Judge | None = None

    def __post_init__(self) -> None:
        plain = groups(self.learner, self.settings.optimiser)
        self._bases = [group["base"] for group in plain]
        optimiser = self.settings.optimiser
        adam: Any = torch.optim.AdamW(plain, lr=optimiser.rate, betas=optimiser.betas)
        prepare: Callable[..., Any] = self.accelerator.prepare
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            plugin = self.accelerator.state.deepspeed_plugin
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = self.settings.batches.batch
        self.wrapped, self.optimizer = prepare(self.learner, adam)
        self.done = 0
        self._bad = 0  # steps in a row that were not finite

    def resume(self) -> int:
        """Goes on from the newest checkpoint, if there is one; returns its step.

        Raises:
            InputError: it belongs to another base model or another number of processes, or cannot be read.
        """
        found = state.latest(self.folder)
        if found is None:
            return 0
        if found.base != self.base:
            raise InputError(
                f"{found.folder}: was made from base model {found.base}; expected {self.base}, the one that is loaded"
            )
        processes = self.accelerator.num_processes
        if found.processes != processes:
            raise InputError(
                f"{found.folder}: was made by {found.processes} process(es); expected as many, not {processes}: "
                "samples and their order in a step depend on it"
            )
        state.load(
            found, accelerator=self.accelerator, learner=self.wrapped, optimizer=self.optimizer
        )
        self.done = found.step
        return found.step

    def train(self, until: int | None = None) -> None:
        """To the last step, or to step `until`."""
        last = self.total if until is None else min(until, self.total)
        main = self.accelerator.is_main_process
        self.wrapped.train()
        if self.judge is not None and self.judge.tired(self.done):
            return
        trackers = self.settings.trackers
        with Journal(self.folder, self.done, self.total, active=main, trackers=trackers) as journal:
            for batches in self.feeder.steps(self.done, last):
                begun = time.monotonic()
                row = self.step([batch.to(self.accelerator.device) for batch in batches])
                self.done += 1
                row["seconds"] = round(time.monotonic() - begun, 4)
                tired = self._judged(row, journal)
                journal.step({"step": self.done, **row})
                self._check(row)
                if self.done % self.settings.save_every == 0 or self.done == last or tired:
                    self.save()
                if tired:
                    break

    def _judged(self, row: dict[str, float], journal: Journal) -> bool:
        """Measures where it is time; whether the run may end."""
        if self.judge is None or self.done % self.judge.every:
            return False
        if self.accelerator.is_main_process:
            figures, picture = self.judge(self.accelerator.unwrap_model(self.wrapped), self.done)
            row |= figures
            journal.picture("held out", picture, self.done)
        self.accelerator.wait_for_everyone()
        self.wrapped.train()
        return self.judge.tired(self.done)

    def rehearse(self, steps: int) -> list[dict[str, float]]:
        """Some steps of which nothing is written; their figures."""
        self.wrapped.train()
        rows = []
        for batches in self.feeder.steps(0, steps):
            begun = time.monotonic()
            row = self.step([batch.to(self.accelerator.device) for batch in batches])
            self.done += 1
            rows.append({**row, "seconds": round(time.monotonic() - begun, 4)})
        return rows

    def _check(self, row: Mapping[str, float]) -> None:
        """Ends a run that only counts steps that are not finite.

        Raises:
            InputError: the loss or its gradient was not finite three times in a row.
        """
        self._bad = self._bad + 1 if "skipped" in row else 0
        if self._bad < BAD_STEPS:
            return
        raise self._ended(f"loss and gradient were not finite {BAD_STEPS} times in a row")

    def _ended(self, why: str) -> InputError:
        found = state.latest(self.folder)
        place = "there is no checkpoint yet" if found is None else f"go on from {found.folder}"
        return InputError(
            f"{self.folder}: step {self.done}: {why}; {place}, with a lower optimiser.rate "
            f"(it is {self.settings.optimiser.rate:g}) or precision=fp32"
        )

    def save(self) -> None:
        """A checkpoint of where the run is.

        Raises:
            InputError: a trained number is not finite; the checkpoints before stay as they are.
        """
        trained = [p for p in self.wrapped.parameters() if p.requires_grad]
        if not all(bool(torch.isfinite(p).all()) for p in trained):
            raise self._ended("trained weights are not finite")
        state.save(
            self.folder,
            self.done,
            self.settings,
            accelerator=self.accelerator,
            learner=self.wrapped,
            optimizer=self.optimizer,
            base=self.base,
        )

    def step(self, batches: list[Batch]) -> dict[str, float]:
        """One optimiser step of this process' micro-batches; the figures of all processes. Counts nothing.

        A step whose loss or gradient is not finite changes nothing and says `skipped`.
        """
        share = rate(self.done, self.total, self.settings.optimiser)
        for group, base in zip(self.optimizer.param_groups, self._bases, strict=True):
            group["lr"] = base * share
        totals = self._totals(batches)
        # Undoes the means over processes and passes that accelerate takes: our losses are sums over shares already.
        scale = self.accelerator.num_processes * self.settings.batches.accumulate
        report = torch.zeros(len(REPORT), device=self.accelerator.device)
        loss = torch.zeros((), device=self.accelerator.device)
        norm: Any = None
        healthy, shared = True, torch.cat([report, loss[None]])
        rank, parallel = self.accelerator.process_index, self.accelerator.num_processes
        for number, batch in enumerate(batches):
            # Dropout is a function of the step too.
            part = number * parallel + rank
            torch.manual_seed(dropout_seed(self.settings.seed, self.done, part))
            with self.accelerator.accumulate(self.wrapped):
                out = self.wrapped(batch, totals)
                self.accelerator.backward(out["loss"] * scale)
                report += out["report"].detach()
                loss += out["loss"].detach().float()
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(
                        self.wrapped.parameters(), self.settings.optimiser.clip
                    )
                    shared = self._summed(torch.cat([report, loss[None]]))
                    healthy = math.isfinite(float(shared[-1])) and (
                        norm is None or math.isfinite(float(norm))
                    )
                if healthy:  # all processes see the same sum and the same norm
                    self.optimizer.step()
                self.optimizer.zero_grad()
        figures = self._figures(shared)
        figures["rate"] = self.settings.optimiser.rate * share
        if norm is not None:
            figures["norm"] = float(norm)
        if not healthy:
            figures["skipped"] = 1.0
        return figures

    def _summed(self, values: Tensor) -> Tensor:
        """Over all processes."""
        shared = self.accelerator.reduce(values, "sum")
        assert isinstance(shared, Tensor)
        return shared

    def _totals(self, batches: list[Batch]) -> Totals:
        """What all processes have at this step."""
        scored = self.learner.loss.score > 0
        mine = [
            sum(float(batch.weights(self.learner.loss.decision).sum()) for batch in batches),
            sum(len(batch.pairs) for batch in batches),
            sum(int(batch.seen.sum()) if scored else len(batch.pairs) for batch in batches),
            sum(len(batch.things) for batch in batches),
        ]
        every = self.accelerator.reduce(
            torch.tensor(mine, dtype=torch.float64, device=self.accelerator.device), "sum"
        )
        assert isinstance(every, Tensor)
        return Totals(*(max(value, 1.0) for value in every.tolist()))

    def _figures(self, sums: Tensor) -> dict[str, float]:
        """Means for the log."""
        found = dict(zip((*REPORT, "loss"), sums.tolist(), strict=True))
        out = {"loss": found["loss"]}
        for name, by in (
            ("text", "tokens"),
            ("right", "tokens"),
            ("mask", "seen"),
            ("dice", "seen"),
            ("iou", "seen"),
            ("score", "pairs"),
            ("kept", "pairs"),
            ("named", "things"),
            ("looked", "seen"),
        ):
            weights = {
                "score": self.learner.loss.score,
                "kept": self.learner.loss.keep,
                "looked": self.learner.loss.gaze,
            }
            if found[by] and weights.get(name, 1.0):
                out[name] = found[name] / found[by]
        return out


def dropout_seed(seed: int, step: int, part: int) -> int:
    """Where the random numbers of a forward pass begin: other ones in each step and for each part of a batch."""
    return hash((seed, step, part)) % 2**62
