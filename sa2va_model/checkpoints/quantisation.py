# SPDX-License-Identifier: Apache-2.0
"""The language model's weights in 8 or 4 bits (bitsandbytes); SAM-2, the vision model and all heads stay as they are.

Vision and masks suffer from rounding and are small; the language model is most of a large checkpoint. Weights are
quantised one by one as they are read, so that they never exist in full on the device.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sa2va_model.errors import InputError

BITS = (8, 4)


def quantise(language_model: nn.Module, bits: int, dtype: torch.dtype, device: torch.device) -> int:
    """Replaces the linear layers inside the language model's blocks; to be filled by `filling.fill`.

    Args:
        language_model: a causal language model, or a vision-language model around one; its head stays as it is.
        bits: 8 (LLM.int8) or 4 (NF4 with double quantisation).
        dtype: what the layers compute in.

    Returns:
        How many layers were replaced.

    Raises:
        InputError: another number of bits, or bitsandbytes is not installed.
    """
    if bits not in BITS:
        raise InputError(f"bits is {bits}; expected 8 or 4")
    library = _library()
    body: Any = language_model.model
    body = getattr(body, "language_model", body)
    count = 0
    for name, module in list(body.named_modules()):
        if type(module) is nn.Linear:
            body.set_submodule(name, _Quantised(library, module, bits, dtype, device))
            count += 1
    return count


PACKED = r".*\.inner"
"""Pattern of the modules inside of quantised layers, which are none of the model's own."""


def is_quantised(model: nn.Module) -> bool:
    """Whether any layer of `model` has fewer bits than its checkpoint."""
    return any(isinstance(module, _Quantised) for module in model.modules())


def _library() -> ModuleType:
    try:
        import bitsandbytes
    except ImportError as error:
        raise InputError(
            "8 or 4 bits need the package bitsandbytes, which is not installed: pip install 'sa2va_ros[quantised]'"
        ) from error
    found: ModuleType = bitsandbytes
    return found


class _Quantised(nn.Linear):
    """A linear layer that quantises its weight when it gets it.

    LoRA is put beside it as beside any linear layer, so an adapter is the same whether its base was quantised or not.
    """

    inner: nn.Module

    def __init__(
        self,
        library: ModuleType,
        linear: nn.Linear,
        bits: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        nn.Module.__init__(self)  # the weight of a linear layer is never made
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._library, self._bits, self._device = library, bits, device
        sizes = (linear.in_features, linear.out_features)
        if bits == 4:
            self.inner = library.nn.Linear4bit(
                *sizes, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
            )
            # On processors with bfloat16 products it would pack weights anew once it is asked and does not learn,
            # which rounds their scales and fails on rows of fewer than 64 or columns that are no multiple of 32.
            setattr(self.inner, "support_avx512bf16_for_cpu", False)  # noqa: B010 - typed as a module
        else:
            self.inner = library.nn.Linear8bitLt(
                *sizes, bias=False, has_fp16_weights=False, threshold=6.0, device="meta"
            )
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """As it is packed."""
        packed: Any = self.inner.weight
        return packed

    def take_weight(self, weight: Tensor) -> None:
        """Quantises `weight` [out, in]."""
        if self._bits == 4:
            packed = self._library.nn.Params4bit(
                weight, requires_grad=False, quant_type="nf4", module=self.inner
            )
        else:
            # It is quantised on the way from the CPU to the device, and on no other.
            packed = self._library.nn.Int8Params(
                weight.cpu(), requires_grad=False, has_fp16_weights=False
            )
        self.inner.weight = packed
        self.inner.to(self._device)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        out: Tensor = self.inner(input).to(input.dtype)
        return out if self.bias is None else out + self.bias
