# SPDX-License-Identifier: Apache-2.0
"""Exported graphs in ONNX Runtime as a backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sa2va_model.errors import InputError
from sa2va_model.segmentation.backends.base import Backend, Segmenter, SegmenterRequest
from sa2va_model.segmentation.backends.onnx.fingerprint import fingerprint_of
from sa2va_model.segmentation.backends.onnx.manifest import read_manifest
from sa2va_model.segmentation.backends.onnx.model import OnnxSam2
from sa2va_model.segmentation.backends.onnx.providers import (
    ON_GPU,
    ProviderOptions,
    pick_provider,
)
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
        return OnnxSam2(request.weights, path, entry, _settled(wanted, request.weights.device))

    return Backend({ONNX: PROFILE}, make)


def _settled(options: ProviderOptions, device: torch.device) -> ProviderOptions:
    """The options for weights on `device`: tensors stay where the provider computes."""
    name = options.provider
    if name == "auto":
        name = "cuda" if device.type == "cuda" else "cpu"
    if device.type == "cuda" and name not in ON_GPU:
        raise InputError(
            f"provider is {name!r} but the model is on {device}; expected cuda or tensorrt, or --device cpu"
        )
    threads = options.threads or (torch.get_num_threads() if device.type == "cpu" else 0)
    return replace(options, provider=pick_provider(name), threads=threads, device=device.index or 0)
