# SPDX-License-Identifier: Apache-2.0
"""The rewritten blocks as a backend."""

from __future__ import annotations

from dataclasses import replace

from sa2va_model.segmentation.backends.base import Backend, Segmenter, SegmenterRequest
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.backends.profile import BFLOAT16, FLOAT32


def _make(request: SegmenterRequest) -> Segmenter:
    encoder = request.encoder if isinstance(request.encoder, FusedSam2) else None
    return FusedSam2(
        request.weights,
        request.profile,
        image_size=request.image_size,
        trunk=encoder,
        traits=request.traits,
    )


FUSED = Backend(
    {
        "float32": replace(FLOAT32, graphs=True),
        "bfloat16": replace(BFLOAT16, graphs=True),
        "compiled": replace(BFLOAT16, graphs=True, compiled=True),
    },
    _make,
)
