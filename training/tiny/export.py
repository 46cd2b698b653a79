# SPDX-License-Identifier: Apache-2.0
"""A run's checkpoint as a folder that `load_model` reads: without teacher, aids and optimizer, in float16."""

from __future__ import annotations

from pathlib import Path

import torch

from sa2va_model.checkpoints import SHIPPED, save_model
from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA
from sa2va_training.tiny.learner import Learner, take
from sa2va_training.tiny.norms import fold_norms


def export(run: Path, folder: Path = SHIPPED, learner: Learner | None = None) -> Path:
    """Writes the model of `run/last.pt` to `folder`; returns the weights' file.

    Raises:
        InputError: the run has no checkpoint.
    """
    path = run / "last.pt"
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint; expected the folder of a run")
    learner = learner or Learner()
    take(learner, torch.load(path, weights_only=False)["learner"], ("",))
    return export_learner(learner, folder)


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
