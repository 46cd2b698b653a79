# SPDX-License-Identifier: Apache-2.0
"""Exported graphs in ONNX Runtime as a backend."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sa2va_model.segmentation.backends.base import (
    Backend,
    Segmenter,
    SegmenterRequest,
    VisionTokens,
)
from sa2va_model.segmentation.backends.onnx.fingerprint import fingerprint_of
from sa2va_model.segmentation.backends.onnx.graph import settled
from sa2va_model.segmentation.backends.onnx.manifest import read_manifest
from sa2va_model.segmentation.backends.onnx.model import OnnxSam2
from sa2va_model.segmentation.backends.onnx.providers import ProviderOptions, pick_provider
from sa2va_model.segmentation.backends.onnx.vision import OnnxVision
from sa2va_model.segmentation.backends.profile import RuntimeProfile

ONNX = "onnx"
PROFILE = RuntimeProfile("onnx")


def onnx_backend(folder: str | Path, options: ProviderOptions | None = None) -> Backend:
    """A backend that runs the graphs of a folder; give it to `use_profile` or `load_model` as the profile.

    Raises:
        InputError: no such folder, a broken manifest, a missing file, a provider that is not there.
    """
    path, wanted = Path(folder), options or ProviderOptions()
    manifest = read_manifest(path)
    if wanted.provider != "auto":
        pick_provider(wanted.provider)

    def make(request: SegmenterRequest) -> Segmenter:
        size = request.image_size or request.weights.config.image_size
        entry = manifest.find(path, fingerprint_of(request.weights.sam2_model), size)
        return OnnxSam2(request.weights, path, entry, settled(wanted, request.weights.device))

    def vision(parts: tuple[nn.Module, ...]) -> VisionTokens | None:
        if manifest.vision is None:
            return None
        return OnnxVision(path, manifest, nn.ModuleList(parts), wanted)

    return Backend({ONNX: PROFILE}, make, vision)
