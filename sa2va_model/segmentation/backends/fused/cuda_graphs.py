# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: a step that is hundreds of small launches becomes one, for each bucket of objects.

Shapes are fixed per key, inputs are copied into buffers that the graph reads, outputs are copied out of those that it
writes, so that the next replay disturbs nobody. Graphs of one store share a memory pool: they run one after the other,
whichever threads and streams they are asked for from.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sa2va_model.device import CAPTURE, Turns

BUCKETS = (1, 2, 4, 8, 16)
WARM_UPS = 3

Stage = Callable[..., tuple[Tensor, ...]]


def bucket(count: int, sizes: Sequence[int] = BUCKETS) -> int:
    """The smallest bucket that holds `count`; beyond the largest, the next multiple of it."""
    for size in sizes:
        if count <= size:
            return size
    return -(-count // sizes[-1]) * sizes[-1]


class Graphs:
    """Captured stages, each under its key.

    A graph reads and writes tensors that its stage closed over. Those of a stage with an `owner` are kept as long as
    the owner lives, and not longer: the memory of a dead one is given to others.
    """

    def __init__(self) -> None:
        self._captured: dict[Hashable, _Captured] = {}
        self._owned: WeakKeyDictionary[object, dict[Hashable, _Captured]] = WeakKeyDictionary()
        self._turns = Turns()
        self._pool: Any = None
        self._stream: Any = None

    def run(
        self,
        key: Hashable,
        stage: Stage,
        inputs: Sequence[Tensor],
        *,
        harmless: Sequence[Tensor] | None = None,
        owner: object = None,
    ) -> tuple[Tensor, ...]:
        """Replays the stage on these inputs; the first time it is captured.

        Args:
            key: says which stage and which shapes.
            inputs: at least one; all are on the device that the stage runs on.
            harmless: inputs to warm up with, where a stage changes state; None = `inputs`.
            owner: whose tensors the stage uses beside its inputs, if they may die before this store.
        """
        # Streams, capture and replay belong to the current device, which a turn says.
        with self._turns.take(inputs[0].device):
            known = self._captured if owner is None else self._owned.setdefault(owner, {})
            captured = known.get(key)
            if captured is None:
                given = inputs if harmless is None else harmless
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                self._stream = self._stream or torch.cuda.Stream()
                captured = known[key] = _Captured(stage, given, self._pool, self._stream)
            return captured(inputs)


class _Captured:
    """One graph with its buffers."""

    def __init__(self, stage: Stage, inputs: Sequence[Tensor], pool: Any, stream: Any) -> None:
        # Buffers are written outside of inference mode as well, which tensors that were made in it refuse.
        with torch.inference_mode(False), torch.no_grad():
            self._inputs = [torch.empty_like(tensor) for tensor in inputs]
            for buffer, tensor in zip(self._inputs, inputs, strict=True):
                buffer.copy_(tensor)
            with CAPTURE:
                self._graph, self._outputs = capture(stage, self._inputs, pool, stream)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        _copy_all(self._inputs, inputs)
        self._graph.replay()
        out = tuple(torch.empty_like(tensor) for tensor in self._outputs)
        _copy_all(out, self._outputs)
        return out


def _copy_all(into: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Copies tensor for tensor, with one launch for all of a type."""
    for kind in {tensor.dtype for tensor in into}:
        rows = [n for n, tensor in enumerate(into) if tensor.dtype == kind]
        torch._foreach_copy_([into[n] for n in rows], [given[n] for n in rows])


def capture(
    stage: Stage, inputs: Sequence[Tensor], pool: Any, side: Any
) -> tuple[Any, tuple[Tensor, ...]]:
    """Runs the stage until nothing is made any more, then writes it down; (graph, outputs).

    Not `torch.cuda.graph`: that waits for the whole device and gives memory back, which disturbs other threads.
    """
    current, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            stage(*inputs)
        collects = gc.isenabled()
        gc.disable()  # whatever is freed while a graph is captured ends the capture
        try:
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                outputs = stage(*inputs)
            except BaseException:
                with suppress(
                    RuntimeError
                ):  # of what ended half way; the first error is the one that counts
                    graph.capture_end()
                raise
            graph.capture_end()
        finally:
            if collects:
                gc.enable()
    current.wait_stream(side)
    return graph, outputs
