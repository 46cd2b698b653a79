# SPDX-License-Identifier: Apache-2.0
"""The shapes that graphs are run with: TensorRT plans for a range, the same is told to trtexec."""

from __future__ import annotations

from typing import Any

from sa2va_model.segmentation.backends.onnx.manifest import GraphEntry

OBJECTS = 16
"""At once."""
TOKENS = 24
"""Of the decoder: six of its own, and clicks."""


def limits_of(
    config: dict[str, Any], conditioning: int = 8, distractors: int = 4
) -> dict[str, int]:
    """The most of each dimension that varies: N objects, M memory slots, P pointers, Q tokens.

    Args:
        config: fields of its `SegmenterConfig`.
        conditioning, distractors: slots of an object's memory.
    """
    return {
        "N": OBJECTS,
        "M": config["memory_frames"] - 1 + conditioning + distractors,
        "P": config["max_pointers"] - 1 + conditioning,
        "Q": TOKENS,
    }


def profile_of(entry: GraphEntry, limits: dict[str, int]) -> dict[str, tuple[str, str, str]]:
    """The least, usual and largest shape of each input; empty where nothing varies."""
    letters = {d for dims in entry.inputs.values() for d in dims if isinstance(d, str)}
    if not letters:
        return {}
    usual = {"N": 1, "M": min(8, limits["M"]), "P": limits["P"], "Q": 8}
    least = dict.fromkeys(limits, 1)

    def shape(dims: list[int | str], sizes: dict[str, int]) -> str:
        return "x".join(str(sizes[d] if isinstance(d, str) else d) for d in dims)

    return {
        name: (shape(dims, least), shape(dims, usual), shape(dims, limits))
        for name, dims in entry.inputs.items()
    }
