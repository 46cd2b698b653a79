# SPDX-License-Identifier: Apache-2.0
"""Weights between those of before and after training: what was learnt, less what it cost.

Along the straight line from the model before fine-tuning to the model after it most of the gain comes early and most of
the forgetting late (WiSE-FT, arXiv 2109.01903). How far to go is chosen on pictures of what is rehearsed that were set
aside, so nothing that a run is measured on later has a say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from sa2va_model.sa2va import Sa2VA
from sa2va_training.data.sample import Dataset
from sa2va_training.run.reporting import measure

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Tried in this order: 1 is the model as trained."""


@dataclass(frozen=True)
class Tried:
    """One place on the line and what the model was worth there."""

    share: float
    worth: float


class Line:
    """The straight line between two states of a model's trained parameters.

    LoRA is scaled: the product of its two matrices is what is added to a weight, so scaling one of them (B, which
    began at 0) moves the weight along the line. Its rows of special tokens stay as trained.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], before: nn.Module) -> None:
        """Keeps both ends.

        Args:
            model: as trained; it is what `go` changes.
            names: of its trained parameters.
            before: the model without training; it may lack LoRA.
        """
        places = dict(model.named_parameters())
        start = dict(before.named_parameters())
        self._ends: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for name in names:
            place = places[name]
            after = place.detach().clone()
            if ".lora_B." in name:
                self._ends.append((place, torch.zeros_like(after), after))
            elif name in start:
                self._ends.append((place, start[name].detach().to(after), after))

    @torch.no_grad()
    def go(self, share: float) -> None:
        """Puts the model at a place on the line: 0 = before, 1 = after."""
        for place, before, after in self._ends:
            place.copy_(after if share == 1 else torch.lerp(before, after, share))


def chosen(
    line: Line, worth: Callable[[], float], wanted: float, shares: Sequence[float] = SHARES
) -> tuple[float, list[Tried]]:
    """Goes back along the line until the model is worth enough, and stays there.

    Args:
        worth: of the model as it is.
        wanted: enough; where no place reaches it, the best one is taken.

    Returns:
        the share, and everything that was tried.
    """
    tried: list[Tried] = []
    for share in shares:
        line.go(share)
        tried.append(Tried(share, worth()))
        if tried[-1].worth >= wanted:
            return share, tried
    best = max(tried, key=lambda one: one.worth).share
    line.go(best)
    return best, tried


def settle(
    model: Sa2VA,
    names: Iterable[str],
    before: Sa2VA,
    aside: Sequence[Dataset],
    *,
    forget: float,
    seed: int,
) -> dict[str, Any]:
    """Goes back along the line as far as too much was forgotten, and leaves the model there.

    Args:
        model: as trained.
        names: of its trained parameters.
        before: the model without training.
        aside: pictures of what it knew; where there are none, the model stays as trained.
        forget: how much gIoU may fall on them.
        seed: of what is asked.

    Returns:
        `share`: how far it went; `aside`: gIoU at each place that was tried. Empty where nothing is set aside.
    """
    if not aside:
        return {}
    line = Line(model, names, before)
    model.eval()

    pictures = sum(map(len, aside))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("choosing how far to go", total=pictures * (1 + len(SHARES)))

        def worth() -> float:
            model.forget()
            seen = [
                one
                for dataset in aside
                for one in measure.look(
                    model, dataset, len(dataset), seed=seed, tick=lambda: bar.advance(task)
                )
            ]
            return measure.figures(seen).get("giou", 0.0)

        line.go(0.0)
        known = worth()
        share, tried = chosen(line, worth, known - forget)
    model.forget()
    places = {str(one.share): one.worth for one in (Tried(0.0, known), *tried)}
    return {"share": share, "aside": places}
