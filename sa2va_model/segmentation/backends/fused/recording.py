# SPDX-License-Identifier: Apache-2.0
"""A function's operators, recorded once and then run without Python between them.

A small model's Python takes a tenth of a frame, all of it with the interpreter's lock held, for which the threads of a
node queue up. TorchScript's tracer takes the operators down for the shapes of one call, and its interpreter runs the
same kernels on the same weights, so that answers are equal bit for bit. Where PyTorch refuses, or has no TorchScript
any more, the function itself goes on.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

Function = Callable[..., Sequence[Tensor]]
RECORD_AFTER = 6
"""Calls with the same shapes before they are recorded, which takes as long as three: one picture is not worth it."""
_KEPT = 64


class Recording:
    """A function of tensors that is recorded as it is used, for each combination of shapes once.

    Args:
        function: tensors to several tensors. What it does must depend on their shapes alone, and its weights must not
            want gradients.
        active: otherwise it is simply called.
    """

    def __init__(self, function: Function, *, active: bool = True) -> None:
        self._function, self._active = function, active
        self._seen: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, Function] = {}

    def __call__(self, *tensors: Tensor, **fixed: Hashable) -> Sequence[Tensor]:
        """The function's tensors; `fixed` goes to it by keyword, and is part of what is recorded."""
        if not self._active or not torch.is_inference_mode_enabled():
            return self._function(*tensors, **fixed)
        key = (*((t.shape, t.stride()) for t in tensors), *fixed.values())
        recorded = self._recorded.get(key)
        if recorded is not None:
            return recorded(*tensors)
        out = self._function(*tensors, **fixed)
        if len(self._recorded) < _KEPT:
            self._seen[key] += 1
            if self._seen[key] >= RECORD_AFTER:
                self._recorded[key] = self._record(tensors, fixed)
                self._seen.clear()  # or lengths that come once would add up
        return out

    def _record(self, tensors: Sequence[Tensor], fixed: dict[str, Hashable]) -> Function:
        def plain(*given: Tensor) -> tuple[Tensor, ...]:
            return tuple(self._function(*given, **fixed))

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # sizes become constants: they are in the key
                return _record(plain, tensors)
        except (RuntimeError, AttributeError, TypeError):
            return plain


def _record(function: Function, tensors: Sequence[Tensor]) -> Function:
    """Run once, and note the operators.

    `torch.jit.trace` would keep them, and the weights, in a table of the process for ever.
    """
    graph, _ = torch._C._create_graph_by_tracing(
        function, tuple(tensors), lambda value: "", True, False
    )
    run = torch._C._create_function_from_graph("stage", graph)

    def call(*given: Tensor) -> Sequence[Tensor]:
        with torch.jit.optimized_execution(False):  # passes over the graph save nothing here
            out: Sequence[Tensor] | Tensor = run(*given)
        return (out,) if isinstance(out, Tensor) else out

    return call
