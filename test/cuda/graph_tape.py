# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs without a GPU: the kernels of a capture are written down once and repeated on the same memory.

As with real graphs: numbers that Python knew at the capture are fixed; tensors are read and written where they were,
also when whoever had them is gone (`reads_freed`); kernels of another device than the one that was current at the
capture are not in the graph; what the host computes is not either.
"""

from __future__ import annotations

import weakref
from typing import Any

import stand_in
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

_OPEN: list[Graph] = []


class Memory:
    """A tensor's memory on the device: lives as long as a tensor that uses it."""


class Graph:
    """In place of `torch.cuda.CUDAGraph`."""

    captured = 0  # by all graphs so far
    reads_freed = 0  # replays that touched memory which nobody had any more

    def __init__(self) -> None:
        self._steps: list[tuple[Any, Any, Any, tuple[Tensor, ...]]] = []
        self._given: dict[int, weakref.ref[Memory]] = {}
        self._own: weakref.WeakSet[Memory] = weakref.WeakSet()

    def capture_begin(self, **_: Any) -> None:
        """As torch's; one capture in a process at a time."""
        assert not _OPEN, "a second capture in one process"
        self._device = stand_in.current_device()
        _OPEN.append(self)

    def capture_end(self) -> None:
        """As torch's."""
        _OPEN.pop()
        Graph.captured += 1

    def replay(self) -> None:
        """As torch's: kernels run again, what was made then is filled anew."""
        Graph.reads_freed += any(memory() is None for memory in self._given.values())
        with _disable_current_modes(), torch.no_grad():
            for func, args, kwargs, made in self._steps:
                fresh = func(*args, **kwargs)
                for old, new in zip(made, tensors_of(fresh) if made else (), strict=True):
                    old.copy_(new)

    def note(
        self, kernel: Any, device: int, used: list[Memory], out: Any, made: list[Memory]
    ) -> None:
        """Writes a kernel down.

        Args:
            kernel: function, arguments and keywords on plain tensors.
            device: where it ran.
            used: memory of its tensors.
            out: what it gave, plain.
            made: memory of its own that this has; none: it changed what it was given.
        """
        if device != self._device:
            return
        self._own.update(made)
        for memory in used:
            if memory not in self._own:
                self._given.setdefault(id(memory), weakref.ref(memory))
        self._steps.append((*kernel, tensors_of(out) if made else ()))


def tensors_of(out: Any) -> tuple[Tensor, ...]:
    """What a kernel gave, as a tuple."""
    return tuple(
        t for t in (out if isinstance(out, list | tuple) else (out,)) if isinstance(t, Tensor)
    )


def capturing() -> Graph | None:
    """The graph that is being captured."""
    return _OPEN[0] if _OPEN else None


torch.cuda.CUDAGraph = Graph  # type: ignore[assignment, misc]
