# SPDX-License-Identifier: Apache-2.0
"""Sizes and switches of SAM 3's tracker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sa2va_model.segmentation.config import SegmenterConfig


@dataclass(frozen=True)
class Sam3Config(SegmenterConfig):
    """SAM 3's tracker. Defaults: as the official code of Sa2VA-Qwen3-VL-4B-SAM3 sets it.

    Attributes:
        embed_dim, depth, num_heads, mlp_dim: the plain vision transformer.
        window: side of its attention windows, in cells.
        global_blocks: blocks that attend to the whole image instead.
        position_side: side of its table of position codes, in cells, which is tiled over the image.
    """

    SECTION: ClassVar[str] = "sam3_config"
    STRIDE: ClassVar[int] = 14
    SIDES: ClassVar[int] = 14

    image_size: int = 1008
    attended_prompts: int = 4
    object_score_gate: bool = True
    binarize_prompted: bool = True
    pointer_positions: bool = True
    clip_codes: bool = True
    embed_dim: int = 1024
    depth: int = 32
    num_heads: int = 16
    mlp_dim: int = 4736
    window: int = 24
    global_blocks: tuple[int, ...] = (7, 15, 23, 31)
    position_side: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = self.num_heads > 0 and self.embed_dim % (4 * self.num_heads) == 0
        self._expect("num_heads", heads, f"heads of a multiple of 4 channels of {self.embed_dim}")
        self._expect("window", self.window > 0, "1 or more")
        self._expect("position_side", self.position_side > 0, "1 or more")
        last = self.global_blocks and max(self.global_blocks) == self.depth - 1
        self._expect("global_blocks", bool(last), f"the last one to be {self.depth - 1}")
