# SPDX-License-Identifier: Apache-2.0
"""What a model is worth while it is trained: measured every so often, and the weights of the best time are kept.

RUN/best.pt         the trained numbers of the best measurement, and its figures
RUN/judged.jsonl    every measurement
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sa2va_model.sa2va import Sa2VA
from sa2va_training.data.sample import Dataset
from sa2va_training.objectives.learner import Learner
from sa2va_training.run.reporting import measure
from sa2va_training.run.state import read_state, trained_state, write_state

BEST, JUDGED = "best.pt", "judged.jsonl"


@dataclass(frozen=True)
class Judge:
    """Measures a learner on what is held out.

    Attributes:
        folder: of the run.
        datasets: by name.
        count: samples of each; seed: of which ones.
        every: steps between measurements; patience: see `Settings`.
    """

    folder: Path
    datasets: Mapping[str, Dataset]
    count: int
    seed: int
    every: int
    patience: int

    def __call__(self, learner: Learner, step: int) -> tuple[dict[str, float], np.ndarray | None]:
        """Measure; the best weights so far go to disk. Only the main process does this.

        Returns:
            `val`, the mean over the datasets of `worth`, and a picture uint8 [H, W, 3] of what was seen.
        """
        model: Sa2VA = learner.model
        learner.eval()
        learner.close_gate()
        model.forget()
        try:
            with torch.random.fork_rng():
                seen = {
                    name: measure.look(model, dataset, self.count, seed=self.seed)
                    for name, dataset in self.datasets.items()
                }
        finally:
            model.forget()
            learner.open_gate()
            learner.train()
        figures = {name: measure.figures(found) for name, found in seen.items()}
        value = float(np.mean([worth(found) for found in figures.values()]))
        before = self.rows(step - 1)
        if not before or value > max(row["val"] for row in before):
            state = {"trained": trained_state(learner), "step": step, "val": value}
            write_state(self.folder / BEST, state)
        rows = [*before, {"step": step, "val": value, "figures": figures}]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder / JUDGED).write_text(text, encoding="utf-8")
        shown = [one for found in seen.values() for one in found][:12]
        return {"val": value}, measure.draw_seen(shown)

    def rows(self, until: int) -> list[dict[str, Any]]:
        """The measurements up to a step; later ones are of a run that was cut back to a checkpoint."""
        file = self.folder / JUDGED
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [row for row in map(json.loads, lines) if row["step"] <= until]

    def tired(self, step: int) -> bool:
        """Whether the last measurements up to a step brought nothing better."""
        values = [row["val"] for row in self.rows(step)]
        if not self.patience or not values:
            return False
        return len(values) - 1 - int(np.argmax(values)) >= self.patience


def worth(figures: Mapping[str, float]) -> float:
    """One number: gIoU as published, where what is absent counts by whether it was denied."""
    for name in ("giou_all", "giou", "refused"):
        if name in figures:
            return figures[name]
    return 0.0


def take_best(folder: Path, learner: Learner, steps: Sequence[int]) -> int | None:
    """Puts the best weights into a learner; their step, None where none were kept.

    Args:
        steps: that count; what was measured at others is of a part of the run that was cut off.
    """
    file = folder / BEST
    if not file.is_file():
        return None
    saved = read_state(file)
    if saved["step"] not in steps:
        return None
    places = dict(learner.named_parameters())
    with torch.no_grad():
        for name, value in saved["trained"].items():
            places[name].copy_(value)
    return int(saved["step"])
