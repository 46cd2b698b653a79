# SPDX-License-Identifier: Apache-2.0
"""A run's checkpoint as a folder that `load_model` reads: without teacher, aids and optimizer, in float16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sa2va_model.checkpoints.load import SHIPPED, save_model
from sa2va_model.sa2va import Sa2VA
from sa2va_sim.catalogue.furniture import credits, installed
from sa2va_sim.catalogue.stock import trained_items, trained_names
from sa2va_training.tiny.data.language import vocabulary
from sa2va_training.tiny.learner import WORD_HALF, TinyLearner, take
from sa2va_training.tiny.norms import fold_norms
from sa2va_training.tiny.running_mean import mean_of
from sa2va_training.tiny.shipping.probes import word_probes

CREDITS = "CREDITS.md"
"""Who made the objects of the training pictures; their licence asks for it."""
_HEADING = (
    "# Makers of the objects in the training pictures\n\n"
    "From the Debian package sweethome3d-furniture; its other objects are CC0.\n\n"
)


def export(
    runs: Sequence[Path],
    folder: Path = SHIPPED,
    learner: TinyLearner | None = None,
    words: Sequence[Path] = (),
) -> Path:
    """Writes the model of a run, or the mean of several, to `folder`; returns the weights' file.

    Passes that began with the same weights are better together than each alone (Wortsman et al. 2022, "Model soups").

    Args:
        words: runs whose language halves are taken instead, averaged.

    Raises:
        InputError: a run has no checkpoint.
    """
    learner = learner or TinyLearner()
    take(learner, mean_of(runs), ("",))
    if words:
        take(learner, mean_of(words), WORD_HALF)
    return export_learner(learner, folder)


def export_learner(learner: TinyLearner, folder: Path) -> Path:
    """Writes a learner's model with the run time's configuration (the object score gates masks again).

    The learner's normalisation is folded away; it is no longer fit to train.
    """
    shipped = Sa2VA(learner.shipped_config, learner.model.mllm.tokenizer)
    fold_norms(learner.model)
    shipped.load_state_dict(learner.model.state_dict())
    shipped.vocabulary = vocabulary(trained_names() if installed() else ())
    shipped.word_probes = word_probes(learner)
    if installed():
        folder.mkdir(parents=True, exist_ok=True)
        text = _HEADING + credits(trained_items())
        (folder / CREDITS).write_text(text, encoding="utf-8")
    save_model(shipped, folder, dtype=torch.float16)
    file = folder / "model.safetensors"
    file.chmod(0o644)  # safetensors writes for the owner alone; this file is shared
    return file
