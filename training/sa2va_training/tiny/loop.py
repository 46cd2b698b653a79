# SPDX-License-Identifier: Apache-2.0
"""Runs one stage: schedule, steps, figures, checkpoints, and going on after an interruption.

Every random choice of a step is a function of (seed, step), so that a run that is cut and resumed by steps equals an
uninterrupted one bit for bit. A wall-clock budget counts training time only, over all sittings.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from sa2va_model.checkpoints.load import load_model
from sa2va_model.errors import InputError
from sa2va_model.mllm.tiled import TiledMllm
from sa2va_training.run.launch import join
from sa2va_training.run.reporting.journal import Journal
from sa2va_training.run.state import read_state, write_state
from sa2va_training.tiny import clips, stages, together
from sa2va_training.tiny.data import crops
from sa2va_training.tiny.data.batches import Batches, Library
from sa2va_training.tiny.data.feeder import BatchLoader, moved
from sa2va_training.tiny.evaluation import evaluate
from sa2va_training.tiny.eye import eye_of, open_eye
from sa2va_training.tiny.gradients import agree, average
from sa2va_training.tiny.learner import (
    AIDS,
    CONVOLUTIONS,
    EYE,
    SAM_HALF,
    SIGHT,
    STEM,
    WORD_HALF,
    TinyLearner,
    take,
)
from sa2va_training.tiny.norms import freeze_norms
from sa2va_training.tiny.objectives.losses import plain
from sa2va_training.tiny.running_mean import RunningMean, weights_of
from sa2va_training.tiny.settings import StageSettings

RUNS = Path("runs")
HALVES = {
    "sam": SAM_HALF,
    "stem": STEM,
    "eye": EYE,
    "convolutions": CONVOLUTIONS,
    "sight": SIGHT,
    "words": WORD_HALF,
    "all": ("",),
}
Step = Callable[[TinyLearner, Any, np.random.Generator], tuple[Tensor, dict[str, float]]]
STAGES: dict[str, Step] = {
    "sam": stages.sam_stage,
    "stem": crops.stem_stage,
    "sight": stages.sight_stage,
    "words": stages.words_stage,
    "memory": clips.memory_stage,
    "together": together.together_stage,
}
TRAINED = {
    "sam": SAM_HALF,
    "stem": STEM,
    "sight": SIGHT,
    "words": WORD_HALF,
    "memory": ("model.sam2.",),
    "together": ("model.sam2.",),
}
DECODER = ("model.sam2.sam2_model.sam_mask_decoder.",)
"""Trained beside the language half where masks reach it."""
_SAVE_SECONDS = 150.0
_AVERAGE_EVERY = 20
_HURRY = 6.0  # of the rate, for aids that begin anew while nothing else moves


def parameter_groups(learner: TinyLearner, settings: StageSettings) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not; parts that start trained go slower while new ones learn, or not at all."""
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    still = tuple(prefix for half in settings.still for prefix in HALVES[half])
    trained = TRAINED[settings.kind] + (DECODER if settings.masks else ())
    for name, parameter in learner.named_parameters():
        wanted = name.startswith(trained)
        if settings.kind == "memory" and not clips.is_trained(name):
            wanted = False
        slow = _starts_trained(settings.kind, name)
        wanted = wanted and not (slow and settings.slow == 0)
        wanted = wanted and not name.startswith(still)
        parameter.requires_grad_(wanted)
        if wanted:
            place = (parameter.ndim > 1, slow, name.startswith(AIDS))
            groups.setdefault(place, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": settings.decay if matrix else 0.0,
            "base": settings.rate * (settings.slow if slow else 1.0),
            "aid": aid,
        }
        for (matrix, slow, aid), parameters in groups.items()
    ]


def _starts_trained(kind: str, name: str) -> bool:
    """Parts that another stage brought up and that this one must not shake."""
    if kind == "memory":
        return not clips.is_memory(name)
    if kind == "together":
        return "image_encoder" in name
    return kind == "words" and name.startswith(SIGHT)


def _loss(settings: StageSettings) -> Step:
    """What the stage minimises."""
    if settings.kind == "words":
        names = ("talk", "listing", "masks", "codes")
        return partial(stages.words_stage, **{name: getattr(settings, name) for name in names})
    if settings.kind == "sight" and settings.like:
        return partial(stages.sight_stage, example=_example(settings.like))
    return STAGES[settings.kind]


def _example(folder: str) -> TiledMllm:
    """The exported model that is imitated."""
    mllm = load_model(folder).mllm.eval()
    if not isinstance(mllm, TiledMllm):
        raise InputError(f"{folder}: expected a model that sees tiles of one size, to imitate it")
    return mllm


def _batches(settings: StageSettings, library: Library) -> Any:
    """The stream of what the stage learns from: pictures, clips or crops."""
    images, each, seed = settings.images, settings.each, settings.seed
    if settings.kind == "memory":
        spoken = settings.spoken
        return clips.ClipBatches(library, images=images, each=each, seed=seed, spoken=spoken)
    if settings.kind == "stem":
        return crops.CropBatches(library, count=images, seed=seed)
    share = settings.none_share
    if settings.kind == "together":
        return together.BothBatches(library, images=images, each=each, none_share=share, seed=seed)
    return Batches(library, images=images, each=each, none_share=share, seed=seed)


class StageRun:
    """One stage in its folder `runs/NAME`: `last.pt`, `settings.json`, `metrics.jsonl`."""

    def __init__(
        self,
        settings: StageSettings,
        learner: TinyLearner,
        *,
        runs: Path = RUNS,
        data: Path | None = None,
    ) -> None:
        self.settings, self.learner = settings, learner
        self.accelerator = join(cpu=settings.device == "cpu")
        self.folder = runs / settings.name
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(settings.threads)
        places = {"root": data} if data else {}
        self.batches = _batches(settings, Library(settings.shares, "train", **places))
        self.held = Library(settings.shares, "held", **places)
        self._loss = _loss(settings)
        self.device = torch.device(settings.device)
        self._feeder = BatchLoader(self.batches, settings.feeders, self.accelerator.num_processes)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(learner, settings), lr=settings.rate, betas=(0.9, 0.98), fused=True
        )
        self.step, self.elapsed = 0, 0.0
        self.mean = RunningMean()
        self._sums: dict[str, list[float]] = {}
        if not self._resume():
            self._start(runs)

    def _resume(self) -> bool:
        path = self.folder / "last.pt"
        if not path.exists():
            return False
        saved = read_state(path)
        self.learner.load_state_dict(saved["learner"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.elapsed = saved["step"], saved["elapsed"]
        self.mean = RunningMean(saved.get("mean", {}), saved.get("averaged", 0))
        self._say(f"resumed at step {self.step}, {self.elapsed:.0f} s")
        return True

    def _start(self, runs: Path) -> None:
        (self.folder / "settings.json").write_text(
            json.dumps(asdict(self.settings), indent=2) + "\n"
        )
        eyeless = eye_of(self.learner) is not None
        for source in self.settings.start:
            name, _, half = source.partition(":")
            path = runs / name / "last.pt"
            if half not in HALVES or not path.exists():
                raise InputError(f"start {source!r}: expected RUN:{'|'.join(HALVES)} with {path}")
            weights = weights_of(runs / name)
            count = take(self.learner, weights, HALVES[half])
            self._say(f"took {count} tensors from {source}")
            eyeless &= not any(key.startswith(EYE) for key in weights)
        if eyeless:
            self._say(f"the eye begins with {open_eye(self.learner)}")

    def save(self) -> None:
        """Writes `last.pt`; a half-written file never replaces a good one."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "settings": asdict(self.settings),
            **({"mean": self.mean.state, "averaged": self.mean.count} if self.mean.count else {}),
        }
        write_state(self.folder / "last.pt", state)

    def progress(self) -> float:
        """How much of the budget is used, 0..1."""
        if self.settings.steps:
            return self.step / self.settings.steps
        return self.elapsed / (60 * self.settings.minutes)

    def _rate(self) -> float:
        """Warm-up, then cosine down to `floor`; a share of the peak."""
        done, low = self.progress(), self.settings.floor
        warm = min(1.0, (done + 1e-4) / self.settings.warmup) if self.settings.warmup else 1.0
        return warm * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))

    def train(self, until: int | None = None) -> None:
        """To the end of the budget, or to step `until`."""
        main, total = self.accelerator.is_main_process, self.settings.steps or None
        with Journal(self.folder, self.step, total, active=main, trackers=()) as journal:
            self._train(journal, until)

    def _train(self, journal: Journal, until: int | None) -> None:
        self._training_mode()
        seen = saved = self.elapsed
        if self.step == 0 and self.settings.start and self._looks:
            self._look(journal)
        while self.progress() < 1 and (until is None or self.step < until):
            begun = time.monotonic()
            self._one_step()
            self.elapsed = agree(self.accelerator, self.elapsed + time.monotonic() - begun)
            if self.step in (1, 10, 50) or self.step % 100 == 0:
                self._report(journal)
            look_due = self.settings.minutes and self.elapsed - seen > 60 * self.settings.look
            if self._looks and look_due:
                seen = self.elapsed
                self._look(journal)
            if self.elapsed - saved > _SAVE_SECONDS:
                saved = self.elapsed
                self.save()
        self.save()
        if self.progress() >= 1 and self._looks:
            self._look(journal)

    @property
    def _looks(self) -> bool:
        """Stages whose names of disturbed pictures, in the log, say enough are not looked at."""
        return self.settings.kind not in ("stem", "sight")

    def _training_mode(self) -> None:
        self.learner.train()
        if self.settings.kind not in ("sam", "stem", "sight"):
            freeze_norms(self.learner.model)

    def _one_step(self) -> None:
        rate, settling = self._rate(), self.step < self.settings.settle
        for group in self.optimizer.param_groups:
            share = _HURRY * group["aid"] if settling else rate
            group["lr"] = group["base"] * share
        draw = self.step * self.accelerator.num_processes + self.accelerator.process_index
        torch.manual_seed(self.settings.seed * 1_000_003 + draw)
        batch = moved(self._feeder.at(draw), self.device)
        rng = np.random.default_rng([self.settings.seed, draw, 1])
        loss, report = self._loss(self.learner, batch, rng)
        self.optimizer.zero_grad()
        loss.backward()
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        average(self.accelerator, held)
        norm = nn.utils.clip_grad_norm_(held, 1.0)
        self.optimizer.step()
        self.step += 1
        if self.progress() > 1 - self.settings.averaged and self.step % _AVERAGE_EVERY == 0:
            self.mean.add(self.learner.state_dict())
        for key, value in {**report, "loss": plain(loss), "norm": plain(norm)}.items():
            self._sums.setdefault(key, []).append(value)

    def _report(self, journal: Journal) -> None:
        """The means since the last report."""
        means = {key: sum(values) / len(values) for key, values in self._sums.items()}
        processes = self.accelerator.num_processes
        shown = self.step * processes * self.settings.images * self.settings.each
        pace = {"expressions_per_second": shown / max(self.elapsed, 1e-6)}
        journal.step({"step": self.step, **means, **pace, "seconds": self.elapsed})
        self._sums = {}

    def _look(self, journal: Journal) -> None:
        """Measure on held-out pictures; the main process does, the others wait at the next step."""
        if not self.accelerator.is_main_process:
            return
        self.learner.eval()
        self.held.refresh()
        if self.settings.kind == "memory":
            found: Any = clips.evaluate_clips(self.learner, self.held, self.settings.held)
        elif self.settings.kind == "together":
            found = together.evaluate_both(self.learner, self.held, self.settings.held)
        else:
            found = evaluate(self.learner, self.held, self.settings.held, self.settings.kind)
        self._training_mode()
        journal.step({"step": self.step, **flattened("held", found)})

    def _say(self, text: str) -> None:
        Console(stderr=True, quiet=not self.accelerator.is_main_process).print(text)


def flattened(name: str, value: Any) -> dict[str, float]:
    """The figures of nested tables, by their path: {"held/flat/giou/all": .9, …}."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {k: v for key, row in value.items() for k, v in flattened(f"{name}/{key}", row).items()}
