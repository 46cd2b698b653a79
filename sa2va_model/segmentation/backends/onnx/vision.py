# SPDX-License-Identifier: Apache-2.0
"""The language half's view of tiles, its vision tower with the projector, as an exported graph."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sa2va_model.errors import InputError
from sa2va_model.segmentation.backends.onnx.fingerprint import fingerprint_of
from sa2va_model.segmentation.backends.onnx.graph import Graph, settled
from sa2va_model.segmentation.backends.onnx.manifest import FILE, Manifest
from sa2va_model.segmentation.backends.onnx.providers import ProviderOptions


class OnnxVision:
    """Tiles [T, 3, s, s] to tokens [T, V, C], one tile after the other: the graph is static.

    Args:
        folder: of the manifest, which has a vision tower.
        parts: what was exported.

    Raises:
        InputError: the graph is of other weights.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, parts: nn.ModuleList, options: ProviderOptions
    ) -> None:
        assert manifest.vision is not None
        if fingerprint_of(parts) != manifest.vision.fingerprint:
            raise InputError(
                f"{folder / FILE}: holds the vision tower of {manifest.source!r}, not of this model; expected a folder "
                "that sa2va export made of the same weights"
            )
        device = next(parts.parameters()).device
        self.graph = Graph(folder, manifest.vision.graph, settled(options, device), {})

    def __call__(self, tiles: Tensor) -> Tensor:
        """In the type of the tiles."""
        seen = [self.graph(tile[None])[0] for tile in tiles.float()]
        return torch.cat(seen).to(tiles.dtype)
