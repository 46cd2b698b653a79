# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: a step that is hundreds of small launches becomes one, for each bucket of objects.

Shapes are fixed per key, inputs are copied into buffers that the graph reads, outputs are copied out of those that it
writes, so that the next replay disturbs nobody. Graphs share one memory pool: they never run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

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
        self._pool: Any = None

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
        known = self._captured if owner is None else self._owned.setdefault(owner, {})
        captured = known.get(key)
        # Streams, capture and replay belong to the current device, which is the first one unless it is said.
        with torch.cuda.device(inputs[0].device):
            if captured is None:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                captured = _Captured(stage, inputs if harmless is None else harmless, self._pool)
                known[key] = captured
            return captured(inputs)


class _Captured:
    """One graph with its buffers."""

    def __init__(self, stage: Stage, inputs: Sequence[Tensor], pool: Any) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                stage(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # The language model may launch kernels from its own thread meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._outputs = stage(*self._inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for buffer, tensor in zip(self._inputs, inputs, strict=True):
            buffer.copy_(tensor)
        self._graph.replay()
        return tuple(tensor.clone() for tensor in self._outputs)
