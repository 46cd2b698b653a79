# SPDX-License-Identifier: Apache-2.0
"""In which numbers SAM-2 is computed: one frozen profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.device import has_bfloat16_units

Arithmetic = Literal["reference", "float32", "bfloat16", "onnx"]


@dataclass(frozen=True)
class RuntimeProfile:
    """How SAM-2 is computed.

    Attributes:
        arithmetic: `reference` = the modules of the `sam2` package, one object after the other, in the order of its
            own predictor: for comparisons to the last bit. `float32` = the same numbers by exact
            rewrites. `bfloat16` = matrix products and what they are added to in bfloat16, sums inside a kernel
            in float32. `onnx` = exported graphs in ONNX Runtime, in the numbers that they were exported in.
        graphs: replay captured CUDA graphs, one for each bucket of objects, where the device can.
        compiled: the image encoder goes through `torch.compile`, which takes a minute once and saves a third of its
            time (CUDA only).
    """

    arithmetic: Arithmetic = "float32"
    graphs: bool = False
    compiled: bool = False


LARGE = 256
"""Hidden channels from which on bfloat16 pays; all published sizes have them."""
REFERENCE = RuntimeProfile("reference")
FLOAT32 = RuntimeProfile("float32")
BFLOAT16 = RuntimeProfile("bfloat16")


def fastest_profile(device: torch.device, config: SegmenterConfig) -> str:
    """The profile that `auto` means.

    It is bfloat16 where the device multiplies it in hardware and the model is large enough to gain: with the tiny
    model's small matrices it saves a tenth of the time, and masks of a few cells pay for it (docs/log.md).
    """
    pays = config.hidden_dim >= LARGE and has_bfloat16_units(device)
    return "bfloat16" if pays else "float32"
