# SPDX-License-Identifier: Apache-2.0
"""A model with its adapter as one checkpoint that stands where its base stood.

Whatever read the base reads it: its configuration (with `auto_map` and ids), its code files where it has them, its
tokenizer's files and generation settings stay as they were, and the weights have its type.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sa2va_model.checkpoints.adapters import load_adapter, merge_adapter
from sa2va_model.checkpoints.files.hub import find_folder
from sa2va_model.checkpoints.files.safetensors_files import stored_tensors
from sa2va_model.checkpoints.load import SHIPPED, load_model, save_model
from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json
from sa2va_model.sa2va import Sa2VA

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".index.json")
_OTHER = ("config.json", "calibration.json", "vocabulary.json", "README.md")
"""The configuration is treated below; the others speak of the base's own weights, and of the words it was taught."""


def merge(base: str | None, adapters: Sequence[Path], output: Path, share: float = 1.0) -> Path:
    """Write a base and its adapter, or the mean of several, as one checkpoint.

    Args:
        base: checkpoint folder or name on the hub; None = the tiny model that ships.
        adapters: folders that `sa2va train` has written, all of this base. The mean of runs that differ in seed or data
            is mostly better than each of them (Wortsman et al. 2022, "Model soups").
        share: how far to go from the base's weights to those with the adapter: less of what was learnt, and less of
            what was forgotten (Wortsman et al. 2021, "Robust fine-tuning of zero-shot models").

    Raises:
        InputError: base or adapter cannot be loaded, they do not belong together, `output` holds something, or the
            share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise InputError(f"share is {share}; expected more than 0 and at most 1")
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output}: is not empty; expected a new folder")
    model, before = _adapted(base, adapters[0])
    if len(adapters) > 1 or share < 1:
        moves = _moves(model, before)
        for adapter in adapters[1:]:
            other, _ = _adapted(base, adapter)
            if other.config.seg != model.config.seg:
                raise InputError(
                    f"{adapter}: seg is {other.config.seg!r}, expected that of {adapters[0]}, {model.config.seg!r}"
                )
            for name, move in _moves(other, before).items():
                moves[name] = moves[name] + move if name in moves else move
        places = model.state_dict()
        for name, move in moves.items():
            places[name].copy_(before[name].float() + move * (share / len(adapters)))
    save_merged(model, base, output)
    return output


def _adapted(base: str | None, adapter: Path) -> tuple[Sa2VA, dict[str, Tensor]]:
    """The base with an adapter in it, and its weights without."""
    model = load_model(base, device="cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_adapter(model, adapter)
    merge_adapter(model)
    return model, before


def _moves(model: Sa2VA, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What has been added to the weights, float32; only of those that differ."""
    return {
        name: value.float() - before[name].float()
        for name, value in model.state_dict().items()
        if name in before and value.is_floating_point() and not torch.equal(value, before[name])
    }


def save_merged(model: Sa2VA, base: str | None, folder: Path) -> None:
    """Write a model whose adapter has been merged in, with everything of its base that is no weight.

    Args:
        base: what the model was loaded from; None = the tiny model that ships.
    """
    source = SHIPPED if base is None else find_folder(base)
    dtype = stored_dtype(source)
    save_model(model, folder, dtype=dtype)
    values = read_json(source / "config.json", dict)
    other = model.config.seg != values.get(
        "seg", "single"
    )  # with tokens that the base's tokenizer may lack
    for file in sorted(source.iterdir()):
        if not file.is_file() or file.name.endswith(_WEIGHTS) or file.name in _OTHER:
            continue
        if not (other and (folder / file.name).is_file()):
            shutil.copyfile(file, folder / file.name)
    if other:
        written = read_json(folder / "config.json", dict)
        values |= {
            key: written[key]
            for key in ("seg", "keyframes", "llm_config", "text_config")
            if key in written
        }
    for key in {"torch_dtype", "dtype"} & values.keys():
        values[key] = str(dtype).removeprefix("torch.")
    text = json.dumps(values, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def stored_dtype(folder: Path) -> torch.dtype:
    """The type of most of a checkpoint's numbers; float16 where it is none that a model computes in."""
    sizes: Counter[str] = Counter()
    for stored in stored_tensors(folder).values():
        sizes[stored.dtype] += stored.size
    return _DTYPES.get(sizes.most_common(1)[0][0], torch.float16)
