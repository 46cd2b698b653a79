# SPDX-License-Identifier: Apache-2.0
"""How SAM-2 is computed: one frozen profile that says in which numbers, and with whose code."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Literal

import torch

from sa2va_model.config import Sam2Config
from sa2va_model.errors import InputError

Arithmetic = Literal["reference", "float32", "bfloat16"]
PROFILES: tuple[str, ...] = ("auto", "reference", "float32", "bfloat16")


@dataclass(frozen=True)
class RuntimeProfile:
    """How SAM-2 is computed.

    Attributes:
        arithmetic: `reference` = the modules of the `sam2` package, one object after the other, in the order of its
            own predictor: for comparisons to the last bit. `float32` = the same numbers by exact
            rewrites. `bfloat16` = matrix products and what they are added to in bfloat16, sums inside a kernel
            in float32.
        graphs: replay captured CUDA graphs, one for each bucket of objects (CUDA only).
    """

    arithmetic: Arithmetic = "float32"
    graphs: bool = False


LARGE = 256
"""Hidden channels from which on bfloat16 pays on a CPU; all published sizes have them."""
REFERENCE = RuntimeProfile("reference")
FLOAT32 = RuntimeProfile("float32")
BFLOAT16 = RuntimeProfile("bfloat16")


def pick_profile(name: str, device: torch.device, config: Sam2Config) -> RuntimeProfile:
    """A profile by its name.

    `auto` is bfloat16 where the device multiplies it in hardware and the model is large enough to gain: with the tiny
    model's small matrices it saves a tenth of the time, and masks of a few cells pay for it (docs/log.md).

    Raises:
        InputError: an unknown name.
    """
    if name not in PROFILES:
        raise InputError(f"profile is {name!r}; expected one of {', '.join(PROFILES)}")
    cuda = device.type == "cuda"
    if name == "reference":
        return REFERENCE
    if name == "auto":
        large = config.hidden_dim >= LARGE
        name = "bfloat16" if cuda or (large and has_bfloat16_units()) else "float32"
    return RuntimeProfile("bfloat16" if name == "bfloat16" else "float32", graphs=cuda)


def has_bfloat16_units() -> bool:
    """This CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); elsewhere bfloat16 is slower than float32."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in probes)
