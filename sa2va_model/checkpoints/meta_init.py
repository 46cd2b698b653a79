# SPDX-License-Identifier: Apache-2.0
"""A model is built without memory for its weights, and each weight goes from the file to its place.

So loading needs the memory of the weights once, on the device and in the type where they are used.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sa2va_model.checkpoints.files.safetensors_files import (
    COUNT,
    FLOATS,
    WINDOW,
    Stored,
    copy_into,
    read,
)
from sa2va_model.checkpoints.files.tensor_names import Names
from sa2va_model.errors import InputError

SAM2 = "sam2."
"""Our names of SAM-2's weights begin so."""
_LOCK = threading.Lock()


@contextmanager
def unallocated() -> Iterator[None]:
    """Parameters of modules that this thread builds have a shape and no memory; buffers are as always."""
    with _LOCK:
        owner, original = threading.get_ident(), nn.Module.register_parameter

        def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            original(module, name, parameter)
            if parameter is not None and threading.get_ident() == owner:
                empty = parameter.to("meta")
                module._parameters[name] = nn.Parameter(empty, parameter.requires_grad)

        nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module.register_parameter = original  # type: ignore[method-assign]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of `model`, by our names: all but batch normalisation's count of batches, which only
    training asks for."""
    return {k: v for k, v in model.state_dict().items() if not k.endswith(COUNT)}


def check(
    model: nn.Module,
    stored: Mapping[str, Stored],
    names: Names,
    path: Path,
    *,
    shared: frozenset[str] = frozenset(),
) -> None:
    """Every tensor of the files has a place in the model, every place a tensor, and both have one shape.

    Args:
        shared: our parameters that are another one and need no tensor.

    Raises:
        InputError: the first that has none, with the names nearest to it, or the first that does not fit.
    """
    state = {k: v for k, v in weights(model).items() if k not in shared}
    empty = {k: torch.empty_like(v, device="meta") for k, v in state.items()}
    places = names.official(empty)
    missing, unknown = sorted(set(places) - set(stored)), sorted(set(stored) - set(places))
    if missing:
        raise InputError(
            f"{path}: tensor {missing[0]!r} is missing ({len(missing)} in all)"
            + _nearest(missing[0], unknown, "the files have")
        )
    if unknown:
        raise InputError(
            f"{path}: tensor {unknown[0]!r} has no place in the model ({len(unknown)} in all)"
            + _nearest(unknown[0], list(places), "the model has")
        )
    for name, place in places.items():
        entry = stored[name]
        if entry.shape != tuple(place.shape):
            raise InputError(
                f"{entry.file}: tensor {name!r} has shape {list(entry.shape)}; expected {list(place.shape)}"
            )
        if entry.dtype not in FLOATS:
            raise InputError(
                f"{entry.file}: tensor {name!r} has type {entry.dtype}; expected one of {', '.join(FLOATS)}"
            )


def _nearest(name: str, others: list[str], who: str) -> str:
    near = difflib.get_close_matches(name, others, n=3)
    return f"; {who} {', '.join(repr(n) for n in near)}" if near else ""


def fill(
    model: nn.Module,
    stored: Mapping[str, Stored],
    names: Names,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Reads every tensor into its place; buffers that are not in the files only move to `device`.

    Args:
        dtype: of the language half. SAM-2 is kept in float32: in which numbers it is computed is the tracker's choice
            (`runtime.profile`), and its small share of a checkpoint is what masks are made of.
    """
    for buffers in [module._buffers for module in model.modules()]:
        for name, buffer in buffers.items():
            buffers[name] = None if buffer is None else buffer.to(device)
    by_file = sorted(stored.items(), key=lambda item: item[1].file)
    finite = _FiniteCheck()
    large = {k: v for k, v in by_file if v.size > WINDOW and names.alone(k)}
    for official, entry in large.items():
        (name,) = names.cut(official, torch.empty(0))
        tensor = torch.empty(entry.shape, device=device, dtype=_kind(name, dtype))
        copy_into(tensor, entry)
        finite.add(official, entry, tensor)
        place(model, name, tensor)
    for official, tensor in read((k, v) for k, v in by_file if k not in large):
        for name, part in names.cut(official, tensor).items():
            # A copy always: the file may be overwritten while the model lives.
            copied = part.to(device, _kind(name, dtype), copy=True)
            finite.add(official, stored[official], copied)
            place(model, name, copied.contiguous())
    finite.finish()


class _FiniteCheck:
    """NaN and Inf among the weights, looked for where they are used and read back from the device together.

    One of them makes every answer NaN, which says the same as an object that is not there.
    """

    def __init__(self) -> None:
        self._spans: list[Tensor] = []
        self._of: list[tuple[str, Stored]] = []

    def add(self, name: str, stored: Stored, tensor: Tensor) -> None:
        """A tensor in the type in which it is used: what overflows in it counts."""
        if tensor.numel() and tensor.is_floating_point():
            # The smallest and the largest number need no copy of the tensor, and NaN is both.
            self._spans.append(torch.stack(torch.aminmax(tensor)).float())
            self._of.append((name, stored))

    def finish(self) -> None:
        """InputError naming the first tensor that is not finite."""
        if not self._spans:
            return
        bad = (~torch.isfinite(torch.stack(self._spans)).all(1)).nonzero()[:, 0].tolist()
        if bad:
            name, stored = self._of[bad[0]]
            raise InputError(
                f"{stored.file}: tensor {name!r} holds NaN or Inf ({len(bad)} of {len(self._of)} tensors do); "
                "expected finite weights (a broken download, or a type that is too narrow)"
            )


def _kind(name: str, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if name.startswith(SAM2) else dtype


def place(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Makes `tensor` the parameter or buffer of that name."""
    owner_name, _, leaf = name.rpartition(".")
    owner: Any = model.get_submodule(owner_name)
    if leaf in owner._buffers:
        owner._buffers[leaf] = tensor
        return
    taken = getattr(owner, "take_weight", None)
    if taken is not None and leaf == "weight":
        taken(tensor)
        return
    owner._parameters[leaf] = nn.Parameter(tensor, owner._parameters[leaf].requires_grad)
