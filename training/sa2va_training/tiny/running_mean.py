# SPDX-License-Identifier: Apache-2.0
"""The mean of the weights along the end of a run (Izmailov et al. 2018, "Averaging weights leads to wider optima").

Of a pass whose rate falls the mean of the last stretch is better than its end: see the model card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_training.run.state import read_state


class RunningMean:
    """Mean of all states that were added; counts, which are no floats, are those of the newest.

    Attributes:
        state: float32 by name; empty before the first.
        count: states in it.
    """

    def __init__(self, state: Mapping[str, Tensor] | None = None, count: int = 0) -> None:
        self.state, self.count = dict(state or {}), count

    @torch.no_grad()
    def add(self, state: Mapping[str, Tensor]) -> None:
        """Takes one more state in."""
        self.count += 1
        for name, tensor in state.items():
            if name not in self.state or not tensor.is_floating_point():
                self.state[name] = tensor.detach().clone()
            else:
                self.state[name].lerp_(tensor, 1 / self.count)


def weights_of(run: Path) -> dict[str, Tensor]:
    """What a run learnt: its mean if it kept one, or else its last weights.

    Raises:
        InputError: it has no checkpoint.
    """
    path = run / "last.pt"
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint; expected the folder of a run")
    saved = read_state(path)
    state: dict[str, Tensor] = saved.get("mean") or saved["learner"]
    return state


def mean_of(runs: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of what several runs learnt; they must have begun with the same weights."""
    mean = RunningMean()
    for run in runs:
        mean.add(weights_of(run))
    return mean.state
