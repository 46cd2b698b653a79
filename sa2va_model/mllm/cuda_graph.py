# SPDX-License-Identifier: Apache-2.0
"""The one forward of a question as a CUDA graph: hundreds of launches, which take longer than the work, become one.

Questions and known answers are padded to a few lengths, so that a handful of graphs serves a stream. A graph is trusted
only after its first result was the same as without it; where capturing fails, everything goes on without graphs.

Letters: P tokens of the shared beginning, T tokens of the tree, C hidden size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from sa2va_model.mllm.layers import run_layers
from sa2va_model.mllm.types import Inputs

LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256)
"""Tree tokens that a graph is made for; longer ones run without."""
KEPT = 8
"""Graphs; each has buffers as large as the prompt's keys and values."""


STAGES = 8
"""Shapes of other stages that are captured."""
Stage = Callable[..., tuple[Tensor, ...]]


class GraphStore(Protocol):
    """What captures and replays: `runtime.graphs.Graphs`, or something like it in tests."""

    def run(self, key: Any, stage: Any, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Outputs of `stage(*inputs)`."""


class GraphedForward:
    """Runs the body of one language model through graphs.

    What a family computes from the values of positions is computed before: rotary codes, whose frequencies may depend
    on them, and where visual tokens stand that DeepStack adds to.

    Args:
        body: decoder layers and final norm.
        make_store: makes an empty store.
        tolerance: largest relative difference between a graph's states and those without.
    """

    def __init__(self, body: Any, make_store: Any, *, tolerance: float = 0.05) -> None:
        self._body, self._make_store, self._tolerance = body, make_store, tolerance
        self._store: GraphStore = make_store()
        self._known: set[tuple[object, ...]] = set()
        self.failure = ""

    def serves(self, tree: int) -> bool:
        """There are graphs for so many tokens of a tree."""
        return not self.failure and 0 < tree <= LENGTHS[-1]

    def __call__(
        self, inputs: Inputs, positions: Tensor, cache: DynamicCache, mask: Tensor
    ) -> Tensor | None:
        """Final-norm states [L, C] and a longer cache, or None where no graph can do it.

        Args:
            inputs: [1, L, C]; the last T rows belong to the tree.
            mask: [1, 1, T, P + T] as `Tree.mask` makes it.
        """
        past, tree, length = cache.get_seq_length(), mask.shape[-2], len(inputs)
        pad = next(size for size in LENGTHS if size >= tree) - tree
        codes = self._body.rotary_emb(inputs.embeddings, positions)
        deep = inputs.deep_everywhere()
        held = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        given = [
            F.pad(inputs.embeddings, (0, 0, 0, pad)),
            F.pad(positions, (0, pad)),
            _padded(mask, pad),
            *(F.pad(code, (0, 0, 0, pad)) for code in codes),
            *(F.pad(level, (0, 0, 0, pad)) for level in deep),
            *held,
        ]
        key = (past, length + pad, tree + pad, len(deep), bool(held))
        if key not in self._known and len(self._known) >= KEPT:
            self._store, self._known = self._make_store(), set()
        stage = partial(self._stage, len(deep))
        try:
            states, *grown = self._store.run(key, stage, given)
            if key not in self._known:
                self._check(states, stage, given)
                self._known.add(key)
        except RuntimeError as error:
            self.failure = f"{type(error).__name__}: {error}"
            warnings.warn(f"CUDA graphs are not used: {self.failure}", stacklevel=2)
            return None
        for layer, (keys, values) in enumerate(zip(grown[::2], grown[1::2], strict=True)):
            cache.update(keys[..., :length, :], values[..., :length, :], layer)
        return states[:length]

    def _stage(
        self,
        levels: int,
        embeddings: Tensor,
        positions: Tensor,
        mask: Tensor,
        cos: Tensor,
        sin: Tensor,
        *rest: Tensor,
    ) -> tuple[Tensor, ...]:
        """States, then keys and values of the new tokens, layer by layer."""
        deep, held = rest[:levels], rest[levels:]
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(zip(held[::2], held[1::2], strict=True)):
            cache.update(keys, values, layer)
        past = cache.get_seq_length()
        extra = {"visual_pos_masks": mask, "deepstack_visual_embeds": list(deep)} if deep else {}
        with _replaced(self._body, cos, sin):
            states = run_layers(self._body, embeddings, positions, cache, mask, extra)
        grown = [t[..., past:, :] for layer in cache.layers for t in (layer.keys, layer.values)]
        return (states, *grown)

    def _check(self, states: Tensor, stage: Any, inputs: list[Tensor]) -> None:
        """A graph that computes something else is an error."""
        expected = stage(*inputs)[0].float()
        difference = (states.float() - expected).abs().max() / expected.abs().max()
        if not float(difference) <= self._tolerance:
            raise RuntimeError(f"a replayed graph differs by {float(difference):.2g}")


class GraphedStages:
    """Runs stages that are functions of tensors, and captures them for shapes that come again.

    Where capturing fails, everything goes on without graphs.
    """

    def __init__(self, store: GraphStore) -> None:
        self._store = store
        self._met: set[object] = set()
        self.failure = ""

    def __call__(self, name: str, stage: Stage, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Outputs of `stage(*inputs)`."""
        key = (name, *(tuple(tensor.shape) for tensor in inputs))
        if self.failure or key not in self._met:
            if len(self._met) < STAGES:
                self._met.add(key)
            return stage(*inputs)
        try:
            return self._store.run(key, stage, inputs)
        except RuntimeError as error:
            self.failure = f"{type(error).__name__}: {error}"
            warnings.warn(f"CUDA graphs are not used: {self.failure}", stacklevel=2)
            return stage(*inputs)


class _GivenCodes(nn.Module):
    """In place of a model's rotary embedding: codes that were computed before."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        super().__init__()
        self._codes = cos, sin

    def forward(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The codes, whatever the positions."""
        return self._codes


@contextmanager
def _replaced(body: Any, cos: Tensor, sin: Tensor) -> Iterator[None]:
    """The body with rotary codes given and DeepStack's levels added everywhere (zero where no image is)."""
    own, modules = body.rotary_emb, body._modules
    modules["rotary_emb"] = _GivenCodes(cos, sin)
    body._deepstack_process = lambda states, _, level: states + level
    try:
        yield
    finally:
        modules["rotary_emb"] = own
        del body._deepstack_process


def _padded(mask: Tensor, pad: int) -> Tensor:
    """The mask with `pad` more rows and columns: nobody sees the new tokens but themselves."""
    hidden = torch.finfo(mask.dtype).min
    grown = F.pad(mask, (0, pad, 0, pad), value=hidden)
    if pad:
        own = torch.arange(pad, device=mask.device)
        grown[..., mask.shape[-2] + own, mask.shape[-1] + own] = 0.0
    return grown
