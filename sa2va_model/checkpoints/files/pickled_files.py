# SPDX-License-Identifier: Apache-2.0
"""Files of `torch.save`, read as tensors and nothing else: code in them is refused, never run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from sa2va_model.errors import InputError

PICKLED = (".bin", ".pth", ".pt")
INSIDE = ("state_dict", "model", "module", "model_state_dict")
"""Where training frameworks put the weights in what they save."""
# What `torch.load` raises for files that something else has written.
_UNREADABLE = (
    pickle.UnpicklingError,
    BadZipFile,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    RuntimeError,
    ValueError,
)
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int64: "I64",
}


def load_pickled(path: Path, *, mmap: bool = False) -> Any:
    """What a file of `torch.save` holds: tensors and plain containers.

    Raises:
        InputError: something else, which also means code; the words of torch, which advise to switch the check off,
            are left out.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols of foreign pickles
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _UNREADABLE as error:
        if mmap and isinstance(error, RuntimeError) and "mmap" in str(error):
            return load_pickled(path)  # the format of before torch 1.6
        unsafe = isinstance(error, pickle.UnpicklingError)
        lines = str(error).splitlines()
        reason = "no archive of tensors alone" if unsafe or not lines else lines[0]
        raise InputError(f"{path}: not readable as weights ({reason})") from error


class PickledFile:
    """A state dict with the interface of `safetensors.safe_open`."""

    def __init__(self, path: Path) -> None:
        stat = path.stat()
        self._tensors = _state_dict(path, stat.st_size, stat.st_mtime_ns)

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._tensors)

    def get_tensor(self, name: str) -> Tensor:
        """One of them, mapped from the file."""
        return self._tensors[name]

    def get_slice(self, name: str) -> _Slice:
        """A part of it can be taken."""
        return _Slice(self._tensors[name])

    def __enter__(self) -> PickledFile:
        """Nothing is open beyond the mapping."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""


class _Slice:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        return _NAMES.get(self._tensor.dtype, str(self._tensor.dtype))

    def __getitem__(self, rows: slice) -> Tensor:
        return self._tensor[rows]


@lru_cache(maxsize=2)
def _state_dict(path: Path, size: int, changed: int) -> dict[str, Tensor]:
    """The tensors of a file; size and time of change keep what is cached honest."""
    content = load_pickled(path, mmap=True)
    for name in INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise InputError(f"{path}: holds no state dict; expected tensors by their names")
    return dict(content)
