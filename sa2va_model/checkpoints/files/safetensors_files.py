# SPDX-License-Identifier: Apache-2.0
"""The weights of a folder: what is in them, and their tensors one by one without holding them all.

Tensors are known by their official names (`stored_names.py`), whatever a training framework has put before them.
Older fine-tunings come as `.bin` or `.pth` (`pickled_files.py`), which are read the same way.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sa2va_model.checkpoints.files.pickled_files import PICKLED, PickledFile
from sa2va_model.checkpoints.files.stored_names import official_names
from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json

WINDOW = 64 * 2**20
"""Bytes read between two openings of a file: pages of a mapped file count as memory until it is closed."""
COUNT = ".num_batches_tracked"
"""How many batches batch normalisation has seen, which only training asks for: no weight."""
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Stored types that weights may have, and their bytes."""
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
POINTER = b"version https://git-lfs"
_PART = 4096  # numbers at both ends of a tensor that tell whether it has changed


@dataclass(frozen=True)
class Stored:
    """One tensor in a file.

    Attributes:
        key: its name in the file.
    """

    file: Path
    key: str
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
            named = set(read_json(index, dict)["weight_map"].values())
        except (KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{index}: not a readable index of weights ({error})") from error
        # Names from a file are names: nothing outside of the folder is opened.
        missing = sorted(
            n for n in map(str, named) if Path(n).name != n or not (path / n).is_file()
        )
        if missing:
            raise InputError(f"{index}: names {missing[0]!r}, which is not there")
        return [path / name for name in sorted(named)]
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    files = sorted(path.glob("*.safetensors"))
    files = files or sorted(f for f in path.iterdir() if f.suffix in PICKLED)
    if not files:
        raise InputError(f"{path}: no *.safetensors in it; expected the weights of a checkpoint")
    return files


def refuse_pointer(file: Path) -> None:
    """InputError if a file is what git leaves in place of a large one that it did not fetch."""
    try:
        with file.open("rb") as data:
            found = data.read(len(POINTER)) == POINTER
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}, expected a readable file") from error
    if found:
        raise InputError(f"{file}: is a git-lfs pointer, not the file; fetch it with: git lfs pull")


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Name, shape and type of all tensors of a folder; reads only the headers.

    Raises:
        InputError: as `weight_files`; a corrupt file; a tensor in two files.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(path):
        with _reading(file) as handle:
            for key in handle.keys():  # noqa: SIM118
                if key.endswith(COUNT):
                    continue
                if key in found:
                    raise InputError(f"{file}: tensor {key!r} is also in {found[key].file}")
                part = handle.get_slice(key)
                shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
                found[key] = Stored(file, key, shape, dtype)
    names = official_names(found, str(path))
    return {name: found[key] for key, name in names.items()}


def read(tensors: Iterable[tuple[str, Stored]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, one after the other, as views of the file: copy what is to be kept.

    Raises:
        InputError: a file that can no longer be read.
    """
    for file, entries in _windows(tensors):
        with _reading(file) as handle:
            for name, stored in entries:
                yield name, handle.get_tensor(stored.key)


def copy_into(target: Tensor, stored: Stored) -> None:
    """Fills `target` with a tensor that is larger than a window, some rows at a time.

    Raises:
        InputError: the file can no longer be read.
    """
    rows = max(1, stored.shape[0] * WINDOW // max(stored.size, 1))
    for begin in range(0, stored.shape[0], rows):
        with _reading(stored.file) as handle:
            part = handle.get_slice(stored.key)[begin : begin + rows]
            target[begin : begin + rows] = part
            del part  # keeps the pages of the file


def weights_mark(folder: Path) -> str:
    """Whether a checkpoint's weights are the same, without reading gigabytes.

    Names, shapes and both ends of each tensor: the same for one file and for shards.
    """
    mark = 0
    entries = sorted(stored_tensors(folder).items())
    for name, stored in entries:
        mark = zlib.crc32(f"{name} {list(stored.shape)} {stored.dtype}".encode(), mark)
    for file in sorted({stored.file for _, stored in entries}):
        with _reading(file) as handle:
            for name, stored in entries:
                if stored.file == file and stored.size:
                    mark ^= zlib.crc32(_ends(handle, stored), zlib.crc32(name.encode()))
    return f"{mark:08x}"


def _ends(handle: Any, stored: Stored) -> bytes:
    part, first = handle.get_slice(stored.key), stored.shape[0] if stored.shape else 0
    ends = [handle.get_tensor(stored.key)] if not first else [part[:1], part[first - 1 : first]]
    flat = [end.flatten()[:_PART].contiguous().view(torch.uint8) for end in ends]
    return b"".join(bytes(piece.numpy()) for piece in flat)


@contextmanager
def _reading(file: Path) -> Iterator[Any]:
    """An open weights file; every way in which it can be broken becomes an InputError."""
    refuse_pointer(file)
    try:
        opened = PickledFile(file) if file.suffix in PICKLED else safe_open(file, framework="pt")
        with opened as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({error})") from error


def _windows(
    tensors: Iterable[tuple[str, Stored]],
) -> Iterator[tuple[Path, list[tuple[str, Stored]]]]:
    """Groups of tensors of one file that are not larger than `WINDOW` together."""
    entries: list[tuple[str, Stored]] = []
    file, size = Path(), 0
    for name, stored in tensors:
        if entries and (stored.file != file or size + stored.size > WINDOW):
            yield file, entries
            entries, size = [], 0
        file, size = stored.file, size + stored.size
        entries.append((name, stored))
    if entries:
        yield file, entries
