# SPDX-License-Identifier: Apache-2.0
"""The one forward of a question as a CUDA graph: hundreds of launches, which take longer than the work, become one.

Questions and known answers are padded to a few lengths, so that a handful of graphs serves a stream. A graph is trusted
only after its first result was the same as without it; where capturing fails, everything goes on without graphs.

Letters: P tokens of the shared beginning, T tokens of the tree, C hidden size.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from sa2va_model.mllm.layers import run_layers

LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256)
"""Tree tokens that a graph is made for; longer ones run without."""
KEPT = 6
"""Graphs; each has buffers as large as the prompt's keys and values."""


class GraphStore(Protocol):
    """What captures and replays: `runtime.graphs.Graphs`, or something like it in tests."""

    def run(self, key: Any, stage: Any, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Outputs of `stage(*inputs)`."""


class GraphedForward:
    """Runs the body of one language model through graphs.

    Args:
        body: decoder layers and final norm.
        make_store: makes an empty store.
        tolerance: largest relative difference between a graph's states and those without.
    """

    def __init__(self, body: Any, make_store: Any, *, tolerance: float = 0.05) -> None:
        self._body, self._make_store, self._tolerance = body, make_store, tolerance
        self._store: GraphStore = make_store()
        self._known: set[tuple[int, int, int, bool]] = set()
        self._lock = threading.Lock()
        self._last: Any = None
        self.failure = ""

    def __call__(
        self, embeddings: Tensor, positions: Tensor, cache: DynamicCache, mask: Tensor | None
    ) -> Tensor | None:
        """Final-norm states [L, C] and a longer cache, or None where no graph can do it.

        Args:
            embeddings: [1, L, C]; the last T rows belong to the tree.
            mask: [1, 1, T, P + T] as `Tree.mask` makes it.
        """
        if self.failure or mask is None or mask.shape[-2] > LENGTHS[-1]:
            return None
        past, tree = cache.get_seq_length(), mask.shape[-2]
        pad = next(size for size in LENGTHS if size >= tree) - tree
        held = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        inputs = [
            F.pad(embeddings, (0, 0, 0, pad)),
            F.pad(positions, (0, pad)),
            _padded(mask, pad),
            *held,
        ]
        key = (past, embeddings.shape[1] + pad, tree + pad, bool(held))
        with self._lock:
            self._wait()
            states = self._run(key, inputs, cache, embeddings.shape[1])
            if self._last is not None:
                self._last.record()
            return states

    def _run(
        self,
        key: tuple[int, int, int, bool],
        inputs: list[Tensor],
        cache: DynamicCache,
        length: int,
    ) -> Tensor | None:
        if key not in self._known and len(self._known) >= KEPT:
            self._store, self._known = self._make_store(), set()
        try:
            states, *grown = self._store.run(key, self._stage, inputs)
            if key not in self._known:
                self._check(states, inputs)
                self._known.add(key)
        except RuntimeError as error:
            self.failure = f"{type(error).__name__}: {error}"
            warnings.warn(f"CUDA graphs are not used: {self.failure}", stacklevel=2)
            return None
        for layer, (keys, values) in enumerate(zip(grown[::2], grown[1::2], strict=True)):
            cache.update(keys[..., :length, :], values[..., :length, :], layer)
        return states[:length]

    def _stage(
        self, embeddings: Tensor, positions: Tensor, mask: Tensor, *held: Tensor
    ) -> tuple[Tensor, ...]:
        """States, then keys and values of the new tokens, layer by layer."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(zip(held[::2], held[1::2], strict=True)):
            cache.update(keys, values, layer)
        past = cache.get_seq_length()
        states = run_layers(self._body, embeddings, positions, cache, mask)
        grown = [t[..., past:, :] for layer in cache.layers for t in (layer.keys, layer.values)]
        return (states, *grown)

    def _check(self, states: Tensor, inputs: list[Tensor]) -> None:
        """A graph that computes something else is an error."""
        expected = self._stage(*inputs)[0].float()
        difference = (states.float() - expected).abs().max() / expected.abs().max()
        if not float(difference) <= self._tolerance:
            raise RuntimeError(f"a replayed graph differs by {float(difference):.2g}")

    def _wait(self) -> None:
        """Another thread's stream may still read the buffers of the last replay."""
        if torch.cuda.is_available():
            if self._last is not None:
                torch.cuda.current_stream().wait_event(self._last)
            self._last = torch.cuda.Event()


def _padded(mask: Tensor, pad: int) -> Tensor:
    """The mask with `pad` more rows and columns: nobody sees the new tokens but themselves."""
    hidden = torch.finfo(mask.dtype).min
    grown = F.pad(mask, (0, pad, 0, pad), value=hidden)
    if pad:
        own = torch.arange(pad, device=mask.device)
        grown[..., mask.shape[-2] + own, mask.shape[-1] + own] = 0.0
    return grown
