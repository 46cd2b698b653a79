# SPDX-License-Identifier: Apache-2.0
"""The safetensors files of a folder: what is in them, and their tensors one by one without holding them all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sa2va_model.errors import InputError

WINDOW = 64 * 2**20
"""Bytes read between two openings of a file: pages of a mapped file count as memory until it is closed."""
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Stored types that weights may have, and their bytes."""
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Stored:
    """One tensor in a file."""

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes."""
        count = FLOATS.get(self.dtype, 1)
        for side in self.shape:
            count *= side
        return count


def weight_files(path: Path) -> list[Path]:
    """The files that hold a folder's weights: those of its index, the single one, or all there are.

    Raises:
        InputError: there is none, the index cannot be read, or names a file that is not there.
    """
    index = path / INDEX
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{index}: not a readable index of weights ({error})") from error
        missing = sorted(name for name in named if not (path / name).is_file())
        if missing:
            raise InputError(f"{index}: names {missing[0]!r}, which is not there")
        return [path / name for name in sorted(named)]
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise InputError(f"{path}: no *.safetensors in it; expected the weights of a checkpoint")
    return files


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Name, shape and type of all tensors of a folder; reads only the headers.

    Raises:
        InputError: as `weight_files`; a corrupt file; a tensor in two files, or not in the one the index names.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(path):
        try:
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118
                    if name in found:
                        raise InputError(f"{file}: tensor {name!r} is also in {found[name].file}")
                    part = handle.get_slice(name)
                    found[name] = Stored(file, tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({error})") from error
    return found


def read(tensors: Iterable[tuple[str, Stored]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, one after the other, as views of the file: copy what is to be kept.

    Raises:
        InputError: a file that can no longer be read.
    """
    for file, names in _windows(tensors):
        try:
            with safe_open(file, framework="pt") as handle:
                for name in names:
                    yield name, handle.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({error})") from error


def copy_into(target: Tensor, name: str, stored: Stored) -> None:
    """Fills `target` with a tensor that is larger than a window, some rows at a time.

    Raises:
        InputError: the file can no longer be read.
    """
    rows = max(1, stored.shape[0] * WINDOW // max(stored.size, 1))
    for begin in range(0, stored.shape[0], rows):
        try:
            with safe_open(stored.file, framework="pt") as handle:
                part = handle.get_slice(name)[begin : begin + rows]
                target[begin : begin + rows] = part
                del part  # keeps the pages of the file
        except (SafetensorError, OSError) as error:
            raise InputError(f"{stored.file}: not a readable safetensors file ({error})") from error


def _windows(tensors: Iterable[tuple[str, Stored]]) -> Iterator[tuple[Path, list[str]]]:
    """Groups of tensors of one file that are not larger than `WINDOW` together."""
    names: list[str] = []
    file, size = Path(), 0
    for name, stored in tensors:
        if names and (stored.file != file or size + stored.size > WINDOW):
            yield file, names
            names, size = [], 0
        file, size = stored.file, size + stored.size
        names.append(name)
    if names:
        yield file, names
