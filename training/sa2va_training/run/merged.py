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

from sa2va_model.checkpoints.adapters import INFO, load_adapter, merge_adapter
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


def merge(
    base: str | None, changed: Sequence[Path], output: Path, shares: Sequence[float] = (1.0,)
) -> Path:
    """Write a base and what training has changed of it as one checkpoint.

    Args:
        base: checkpoint folder or name on the hub; None = the tiny model that ships.
        changed: adapters of this base that `sa2va train` has written, or checkpoints that went on from it.
        shares: how far to go from the base's weights to theirs: less of what was learnt, and less of what was forgotten
            (Wortsman et al. 2021, "Robust fine-tuning of zero-shot models"). One for each of them, added up (Ilharco et
            al. 2022, "Editing models with task arithmetic"), or one for all, which is divided among them: 1 is their
            mean, of runs that differ in seed or data mostly better than each (Wortsman et al. 2022, "Model soups").

    Raises:
        InputError: something cannot be loaded, does not belong together, `output` holds something, or a share is
            not above 0 and at most 1.
    """
    weights = _weights(shares, len(changed))
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output}: is not empty; expected a new folder")
    whole = weights == (1.0,)  # the base's weights are not needed, and a large model's are large
    model, before = _changed(base, changed[0], keep=not whole)
    if not whole:
        moves = _moves(model, before, weights[0])
        for folder, weight in zip(changed[1:], weights[1:], strict=True):
            other, _ = _changed(base, folder, keep=False)
            if other.config.seg != model.config.seg:
                raise InputError(
                    f"{folder}: seg is {other.config.seg!r}, expected that of {changed[0]}, {model.config.seg!r}"
                )
            for name, move in _moves(other, before, weight).items():
                moves[name] = moves[name] + move if name in moves else move
        places = model.state_dict()
        for name, move in moves.items():
            places[name].copy_(before[name].float() + move)
    save_merged(model, base, output)
    return output


def _weights(shares: Sequence[float], count: int) -> tuple[float, ...]:
    for share in shares:
        if not 0 < share <= 1:
            raise InputError(f"share is {share}; expected more than 0 and at most 1")
    if len(shares) == 1:
        return (shares[0] / count,) * count
    if len(shares) != count:
        raise InputError(
            f"share has {len(shares)} numbers; expected one, or one for each of {count}"
        )
    return tuple(shares)


def _changed(base: str | None, folder: Path, *, keep: bool) -> tuple[Sa2VA, dict[str, Tensor]]:
    """The base as an adapter or a later checkpoint has it, and, if they are to be kept, its weights before."""
    model = load_model(base, device="cpu")
    before = {n: value.clone() for n, value in model.state_dict().items()} if keep else {}
    if (folder / INFO).is_file():
        load_adapter(model, folder)
        merge_adapter(model)
        return model, before
    later = load_model(folder, device="cpu")
    shapes, expected = (
        {name: tuple(value.shape) for name, value in weights.items()}
        for weights in (later.state_dict(), model.state_dict())
    )
    if shapes != expected:
        name = next(n for n in expected | shapes if shapes.get(n) != expected.get(n))
        raise InputError(
            f"{folder}: {name} is {shapes.get(name, 'not there')}, expected {expected.get(name, 'none')} as in the base"
        )
    return later, before


def _moves(model: Sa2VA, before: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """A share of what has been added to the weights, float32; only of those that differ."""
    return {
        name: (value.float() - before[name].float()) * share
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
