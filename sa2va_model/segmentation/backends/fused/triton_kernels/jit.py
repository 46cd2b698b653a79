# SPDX-License-Identifier: Apache-2.0
"""Triton where it is: a CPU build of PyTorch comes without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:
    from types import SimpleNamespace

    triton, tl = None, SimpleNamespace(constexpr=None)

__all__ = ["jit", "tl", "triton"]


def jit(*sizes: str) -> Callable[[Any], Any]:
    """Compiles a kernel, once for all values of `sizes`: Triton would compile anew for 1 and for multiples of 16."""
    if triton is None:
        return lambda function: function
    decorate: Callable[[Any], Any] = triton.jit(do_not_specialize=list(sizes))
    return decorate
