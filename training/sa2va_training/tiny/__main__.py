# SPDX-License-Identifier: Apache-2.0
"""Makes the model that ships, stage by stage.

python -m sa2va_training.tiny STAGE key=value …     one stage of the recipe, resumed if it was begun
torchrun --nproc-per-node 2 -m sa2va_training.tiny STAGE …   the same on two processes, each on a core
python -m sa2va_training.tiny revive weights=DIR run=runs/shipped   what was exported, as a run to start from
python -m sa2va_training.tiny export run=runs/together words=runs/polish weights=DIR
python -m sa2va_training.tiny floors weights=DIR     from which likeness on a mask is held to show its word
python -m sa2va_training.tiny choose weights=DIR     keeps the nouns that the exported model finds

`sa2va evaluate` measures what comes out; the model card tells how.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch

from sa2va_model.checkpoints.load import SHIPPED
from sa2va_model.errors import InputError
from sa2va_model.freed_memory import keep_freed_memory
from sa2va_training.tiny.settings import RECIPE, StageSettings, stage_settings


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nStages, in order: {', '.join(RECIPE)}")  # noqa: T201
        return 0
    cv2.setNumThreads(1)
    try:
        if arguments[0] == "export":
            _export(**_values(arguments[1:], ("run", "weights", "words")))
        elif arguments[0] == "revive":
            _revive(**_values(arguments[1:], ("run", "weights")))
        elif arguments[0] == "choose":
            _choose(**_values(arguments[1:], ("weights", "scenes")))
        elif arguments[0] == "floors":
            _floors(**_values(arguments[1:], ("weights", "scenes")))
        else:
            _train(stage_settings(arguments[0], arguments[1:]))
    except InputError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _train(settings: StageSettings) -> None:
    from sa2va_training.tiny.learner import TinyLearner
    from sa2va_training.tiny.loop import StageRun

    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    # Whatever the stages make on the way (masks, positions, targets) is made where the weights are.
    with torch.device(settings.device):
        StageRun(settings, TinyLearner()).train()


def _values(items: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    values = dict(item.split("=", 1) for item in items if "=" in item)
    if len(values) < len(items) or set(values) - set(known):
        raise InputError(
            f"{' '.join(items)}: expected key=value with key one of {', '.join(known)}"
        )
    return values


def _export(run: str = "runs/together", weights: str = str(SHIPPED), words: str = "") -> None:
    from sa2va_training.tiny.shipping.export import export

    file = export(_folders(run), Path(weights), words=_folders(words))
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")  # noqa: T201


def _folders(text: str) -> list[Path]:
    return [Path(part) for part in text.split(",") if part]


def _revive(run: str = "runs/shipped", weights: str = str(SHIPPED)) -> None:
    from sa2va_training.tiny.data.batches import Library
    from sa2va_training.tiny.revival import revive

    revive(Path(weights), Path(run), Library({"flat": 0.4, "sim": 0.6}, "train"))
    print(f"{run}: stages can begin with start={Path(run).name}:all")  # noqa: T201


def _choose(weights: str = str(SHIPPED), scenes: str = "240") -> None:
    from sa2va_training.tiny.shipping.word_choice import choose

    words = choose(Path(weights), int(scenes))
    print(f"{weights}: {len(words.things)} nouns: {', '.join(sorted(words.things))}")  # noqa: T201


def _floors(weights: str = str(SHIPPED), scenes: str = "150") -> None:
    from sa2va_model.checkpoints.load import load_model
    from sa2va_training.tiny.shipping.probes import with_floors

    probes = with_floors(load_model(weights, device="cpu"), int(scenes))
    probes.write(Path(weights))
    floors = f"{probes.floor} ({probes.odds} against rivals), of colours from {probes.colour_floor}"
    print(f"{weights}: masks of things from {floors} on look like what was asked for")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
