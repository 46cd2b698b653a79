# SPDX-License-Identifier: Apache-2.0
"""The language half's vision tower with its projector as a graph: one tile at a time, so that nothing varies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sa2va_model.export.graphs import GraphSpec
from sa2va_model.mllm.tiled import TiledMllm


class VisionGraph(nn.Module):
    """tiles [1, 3, s, s], normalised, to tokens [1, V, C] of the language model."""

    def __init__(self, mllm: TiledMllm) -> None:
        super().__init__()
        self.parts = nn.ModuleList(mllm.vision_parts())
        self._see = mllm.visual_tokens

    def forward(self, tiles: Tensor) -> Tensor:
        """As `TiledMllm.visual_tokens`."""
        return self._see(tiles)


def vision_graph(mllm: TiledMllm) -> GraphSpec:
    """The graph; the model is on the CPU in float32."""
    side = mllm.tile_size
    return GraphSpec(VisionGraph(mllm), {"tiles": torch.randn(1, 3, side, side)}, ("tokens",))
