# SPDX-License-Identifier: Apache-2.0
"""Training in bfloat16 where that is faster, on a CPU as well (AVX512-BF16), and in float32 where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from sa2va_model.device import has_bfloat16_units


def decided(precision: str, device: torch.device) -> str:
    """What "auto" means on this machine: "bf16" on CUDA and on CPUs that multiply it in hardware, else "fp32"."""
    if precision != "auto":
        return precision
    fast = device.type != "cpu" or has_bfloat16_units(device)
    return "bf16" if fast else "fp32"


class _FloatAttention(TorchFunctionMode):
    """Attention in float32: on a CPU its backward pass takes three and a half times as long in bfloat16."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        floats = {k: _float(v) for k, v in (kwargs or {}).items()}
        with torch.autocast("cpu", enabled=False):
            return func(*map(_float, args), **floats)


def _float(value: Any) -> Any:
    """Tensors of half precision in float32; anything else as it is."""
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


@contextmanager
def float_attention() -> Iterator[None]:
    """Attention in float32 where a CPU computes in bfloat16; elsewhere nothing changes."""
    if not torch.is_autocast_enabled("cpu"):
        yield
        return
    with _FloatAttention():
        yield


@contextmanager
def half_precision(enabled: bool = True) -> Iterator[None]:
    """Matrix products in bfloat16, attention in float32; weights and gradients stay float32 as they are.

    A step of the language half takes .58 of the time that it takes in float32 alone, on processors that multiply
    bfloat16; elsewhere it would take ten times as long, and all stays float32.
    """
    if enabled and torch.get_default_device().type == "cuda":
        with torch.autocast("cuda", torch.bfloat16):
            yield
        return
    if not (enabled and has_bfloat16_units(torch.device("cpu"))):
        yield
        return
    with torch.autocast("cpu", torch.bfloat16), float_attention():
        yield
