# SPDX-License-Identifier: Apache-2.0
"""A run's checkpoint as a folder that `load_model` reads: without teacher, aids and optimizer, in float16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sa2va_model.checkpoints import SHIPPED, save_model
from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA
from sa2va_training.tiny.learner import WORD_HALF, Learner, take
from sa2va_training.tiny.norms import fold_norms


def export(
    run: Path, folder: Path = SHIPPED, learner: Learner | None = None, words: Sequence[Path] = ()
) -> Path:
    """Writes the model of `run/last.pt` to `folder`; returns the weights' file.

    Args:
        words: runs whose language halves are taken instead, averaged: passes that began with the same weights are
            better together than each alone (Wortsman et al. 2022, "Model soups").

    Raises:
        InputError: a run has no checkpoint.
    """
    learner = learner or Learner()
    take(learner, _state(run), ("",))
    if words:
        states = [_state(one) for one in words]
        own = {name for name in states[0] if name.startswith(WORD_HALF)}
        mean = {name: _mean([state[name] for state in states]) for name in own}
        take(learner, mean, WORD_HALF)
    return export_learner(learner, folder)


def _state(run: Path) -> dict[str, Tensor]:
    path = run / "last.pt"
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint; expected the folder of a run")
    state: dict[str, Tensor] = torch.load(path, weights_only=False)["learner"]
    return state


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Of weights; counts, which are no floats, are those of the first."""
    first = tensors[0]
    return torch.stack(list(tensors)).mean(0) if first.is_floating_point() else first


def export_learner(learner: Learner, folder: Path) -> Path:
    """Writes a learner's model with the run time's configuration (the object score gates masks again).

    The learner's normalisation is folded away; it is no longer fit to train.
    """
    shipped = Sa2VA(learner.shipped_config, learner.model.mllm.tokenizer)
    fold_norms(learner.model)
    shipped.load_state_dict(learner.model.state_dict())
    save_model(shipped, folder, dtype=torch.float16)
    file = folder / "model.safetensors"
    file.chmod(0o644)  # safetensors writes for the owner alone; this file is shared
    return file
