# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that a killed run goes on from as if nothing had happened.

    checkpoints/00000100/   complete, or it is not there: written beside it and renamed at the end
        state.pt            trained numbers, AdamW's moments (one file; sharded runs: accelerate's own files)
        settings.yaml       the resolved settings
        meta.json           step, base model's fingerprint, processes

Nothing else has to be kept: data, augmentation, dropout and sampled points are functions of (seed, step).
"""

from __future__ import annotations

import json
import operator
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from sa2va_model.checkpoints.files.pickled_files import load_pickled
from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json
from sa2va_training.run.settings import Settings
from sa2va_training.run.settings_files import load_settings, save_settings

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint."""

    folder: Path
    step: int
    base: str
    processes: int


def sharded(accelerator: Accelerator) -> bool:
    """Whether no process has all numbers."""
    return accelerator.distributed_type in _SHARDED


def latest(run: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run, None if there is none.

    Raises:
        InputError: its `meta.json` cannot be read.
    """
    found = sorted(path.parent for path in (run / "checkpoints").glob("[0-9]*/meta.json"))
    found = [path for path in found if path.name.isdigit()]
    if not found:
        return None
    file = found[-1] / "meta.json"
    try:
        values = read_json(file, dict)
        step, processes = operator.index(values["step"]), operator.index(values["processes"])
        return Checkpoint(found[-1], step, str(values["base"]), processes)
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: not readable ({error}); expected a checkpoint's data") from error


def settings_of(run: Path, changes: Sequence[str] = ()) -> Settings:
    """The settings that a run was started with.

    Args:
        changes: `key=value` of what shall be other.

    Raises:
        InputError: the folder is no run.
    """
    file = run / "settings.yaml"
    if not file.is_file():
        raise InputError(f"{run}: no settings.yaml in it; expected the folder of a run")
    return load_settings(file, changes)


def save(
    run: Path,
    step: int,
    settings: Settings,
    *,
    accelerator: Accelerator,
    learner: nn.Module,
    optimizer: Any,
    base: str,
) -> None:
    """Writes a checkpoint; every process has to call this."""
    place = run / "checkpoints" / f"{step:08d}"
    fresh = place.with_name(f"{place.name}.new")
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
    accelerator.wait_for_everyone()
    if sharded(accelerator):
        accelerator.save_state(str(fresh), safe_serialization=True)
    elif accelerator.is_main_process:
        trained = trained_state(accelerator.unwrap_model(learner))
        write_state(fresh / "state.pt", {"trained": trained, "optimizer": optimizer.state_dict()})
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        save_settings(settings, fresh / "settings.yaml")
        meta = {"step": step, "base": base, "processes": accelerator.num_processes}
        (fresh / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        fresh.replace(place)
        for old in sorted((run / "checkpoints").glob("[0-9]*"))[: -settings.keep]:
            shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def write_state(path: Path, values: Mapping[str, Any]) -> None:
    """Writes tensors and plain values so that `read_state` has all of them or, after a power cut, the old ones."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        torch.save(dict(values), file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote; nothing in it may run code.

    Raises:
        InputError: it cannot be read.
    """
    found = load_pickled(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}; expected a checkpoint")
    return found


def trained_state(learner: nn.Module) -> dict[str, torch.Tensor]:
    """The trained numbers alone; what is frozen comes from the base model."""
    return {n: p.detach().clone() for n, p in learner.named_parameters() if p.requires_grad}


def load(
    checkpoint: Checkpoint, *, accelerator: Accelerator, learner: nn.Module, optimizer: Any
) -> None:
    """Puts a checkpoint into a prepared run.

    Raises:
        InputError: it is of another set of trained parts.
    """
    if sharded(accelerator):
        accelerator.load_state(str(checkpoint.folder))
        return
    file = checkpoint.folder / "state.pt"
    saved = read_state(file)
    own = {n: p for n, p in accelerator.unwrap_model(learner).named_parameters() if p.requires_grad}
    different = sorted(set(own) ^ set(saved["trained"]))
    if different:
        raise InputError(
            f"{file}: {different[0]!r} is trained in one of run and checkpoint only; "
            "expected the same `train` settings"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved["trained"][name])
    optimizer.load_state_dict(saved["optimizer"])
