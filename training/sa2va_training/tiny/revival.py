# SPDX-License-Identifier: Apache-2.0
"""A run that begins where an exported model stands: nothing but its folder is needed, also at another image size.

    python -m sa2va_training.tiny revive weights=DIR run=runs/shipped

Exported models have no normalisation and no aids. Normalisation comes back as what it was folded into, with the
statistics of real pictures, so that the model computes what it did; the head that names things begins as the word
probes, all other aids anew (see `StageSettings.settle`). A model without an eye gets a pretrained one, which says
nothing yet (`eye.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sa2va_model.checkpoints.load import load_model
from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA
from sa2va_training.tiny.data.batches import Batches, Library
from sa2va_training.tiny.data.packing import look
from sa2va_training.tiny.eye import eye_of, open_eye
from sa2va_training.tiny.learner import TinyLearner
from sa2va_training.tiny.norms import fold_norms, unfold_norms
from sa2va_training.tiny.shipping.probes import take_probes

WORDS = ("mllm.language_model.model.embed_tokens.weight", "mllm.language_model.lm_head.weight")
_STEM = "mllm.vision_model.embeddings.patch_embeddings.projection."
EYE = (_STEM + "eye.", _STEM + "mixer.")
PLACES = "mllm.vision_model.embeddings.position_embeddings"
_PICTURES = 64


def revive(
    folder: Path, run: Path, library: Library, learner: TinyLearner | None = None
) -> TinyLearner:
    """Writes `run/last.pt`, from which stages start, with the weights of an exported model.

    Args:
        library: pictures whose statistics the normalisation takes.

    Raises:
        InputError: a weight of the folder does not fit the model that is trained.
    """
    learner = learner or TinyLearner()
    fold_norms(learner.model)
    given = load_model(folder, device="cpu")
    state = dict(given.state_dict())
    for name in WORDS:
        state[name] = spread_words(
            state[name],
            given.mllm.tokenizer,
            learner.mllm.tokenizer,
            learner.model.state_dict()[name],
        )
    if eye_of(learner) is not None and not any(name.startswith(EYE) for name in state):
        open_eye(learner)
        state |= {n: t for n, t in learner.model.state_dict().items() if n.startswith(EYE)}
    _fill(learner.model, state, folder)
    if given.word_probes is not None:
        take_probes(learner, given.word_probes)
    batch = Batches(library, images=_PICTURES, each=1, none_share=0.0, seed=0).at(0)

    def see() -> None:
        learner.encode(batch.pixels)
        look(learner.mllm, batch.pixels)

    unfold_norms(learner.model, see)
    run.mkdir(parents=True, exist_ok=True)
    torch.save({"learner": learner.state_dict()}, run / "last.pt")
    return learner


def _fill(model: Sa2VA, state: Mapping[str, Tensor], folder: Path) -> None:
    own = model.state_dict()
    for name, wanted in own.items():
        if name not in state:
            raise InputError(f"{folder}: has no {name}; expected a model exported by this module")
        given = state[name]
        if name == PLACES and given.shape[1] != wanted.shape[1]:
            given = resized_places(given, wanted.shape[1])
        if given.shape != wanted.shape:
            raise InputError(
                f"{folder}: {name} is {list(given.shape)}; expected {list(wanted.shape)}"
            )
        wanted.copy_(given)


def resized_places(table: Tensor, count: int) -> Tensor:
    """A ViT's position embeddings [1, 1 + n · n, C], the first of them of no place, for another grid: [1, count, C]."""
    old, new = (round((n - 1) ** 0.5) for n in (table.shape[1], count))
    grid = table[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def spread_words(
    table: Tensor, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, like: Tensor
) -> Tensor:
    """Rows [V, C] of an old vocabulary for a new one: old words keep theirs, new ones begin as their pieces' mean."""
    known, rows = old.get_vocab(), torch.zeros_like(like)
    for token, index in new.get_vocab().items():
        if token in known:
            rows[index] = table[known[token]]
            continue
        pieces = old.encode(new.decode([index]), add_special_tokens=False)
        rows[index] = table[pieces].mean(0)
    return rows
