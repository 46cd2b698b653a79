# SPDX-License-Identifier: Apache-2.0
"""The modules of the `sam2` package as they are: for training, and for comparisons to the last bit."""

from __future__ import annotations

from sa2va_model.errors import InputError
from sa2va_model.segmentation.backends.base import Backend, Segmenter, SegmenterRequest
from sa2va_model.segmentation.backends.profile import REFERENCE as PROFILE


def _make(request: SegmenterRequest) -> Segmenter:
    own = request.weights.config.image_size
    if request.image_size not in (None, own):
        raise InputError(
            f"resolution is {request.image_size}; the reference profile computes at {own}"
        )
    return request.weights


REFERENCE = Backend({"reference": PROFILE}, _make)
