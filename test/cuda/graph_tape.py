# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs without a GPU: the kernels of a capture are written down once and repeated on the same memory.

As with real graphs, numbers that Python knew at the capture are fixed, and tensors are read and written where they
were. Streams and events do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_OPEN: list[Tape] = []


def capturing() -> bool:
    """A graph is being captured."""
    return bool(_OPEN)


class Tape(TorchDispatchMode):
    """Writes kernels down as they run."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Runs them again; what was made then is filled anew."""
        for func, args, kwargs, out in self.steps:
            new = func(*args, **kwargs)
            for old, fresh in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(old, Tensor) and old is not fresh and not _same_memory(old, fresh):
                    old.copy_(fresh)


class Graph:
    """In place of `torch.cuda.CUDAGraph`."""

    captured = 0  # by all graphs so far

    def capture_begin(self, **_: Any) -> None:
        """As torch's; one capture in a process at a time."""
        assert not _OPEN, "a second capture in one process"
        self._tape = Tape()
        _OPEN.append(self._tape)
        self._tape.__enter__()

    def capture_end(self) -> None:
        """As torch's."""
        _OPEN.pop()
        self._tape.__exit__(None, None, None)
        Graph.captured += 1

    def replay(self) -> None:
        """As torch's."""
        with torch.no_grad():
            self._tape.replay()


class Quiet:
    """In place of streams and events: whatever is asked of it, it does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def install(put: Callable[[str, Any], Any]) -> None:
    """Puts the substitutes into `torch.cuda` with `put(name, value)`."""
    for name in ("Stream", "Event"):
        put(name, Quiet)
    for name in ("current_stream", "default_stream"):
        put(name, lambda device=None: Quiet())
    for name in ("device", "stream"):
        put(name, lambda _: nullcontext())
    put("CUDAGraph", Graph)
    put("graph_pool_handle", lambda: (0, 1))


def _same_memory(one: Tensor, other: Tensor) -> bool:
    first, second = getattr(one, "inner", one), getattr(other, "inner", other)
    return first.data_ptr() == second.data_ptr() and first.shape == second.shape
