# SPDX-License-Identifier: Apache-2.0
"""Sizes and switches of a segmenter: what all kinds share, and what SAM-2, SAM 3's tracker and EdgeTAM add.

Prompt encoder, mask decoder, memory attention, memory encoder and memory are the same modules in every kind; kinds
differ in the image encoder, in sizes and in some rules of memory, which are fields here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sa2va_model.errors import InputError


@dataclass(frozen=True)
class SegmenterConfig:
    """What all kinds have.

    Attributes:
        image_size: side of the square the image is squashed to, pixels.
        memory_dim: channels of one spatial memory.
        memory_frames: conditioning slot plus recent frames (`num_maskmem`).
        max_pointers: object pointers of so many frames are read, beside those of prompted frames.
        attended_prompts: how many prompted frames are attended as such, the nearest in time; one more counts as a
            tracked frame, for as long as that would be read. 0 = all are.
        object_score_gate: erase the mask where the object score is negative, as stock SAM-2 and SAM 3 do. The
            official Sa2VA code does not for SAM-2, and those checkpoints leave the score head untrained.
        binarize_prompted: binarise masks that answer a prompt before they enter memory, as
            the `sam2` package's video predictor does.
        multimask: three candidate masks, the best by predicted IoU is taken.
        stability_fallback: single-mask output falls back to the candidates when it is unstable.
        pointer_positions: temporal codes on object pointers and the no-object memory (SAM 2.1, SAM 3).
        clip_codes: those codes depend on the length of a clip that is shorter than `max_pointers`, where it is known.
        rounded_normalisation: ImageNet mean and std rounded to bfloat16, as the official code does.
        half_normalisation: pixels are brought to -1..1 instead, as SAM 3 itself was trained.
        guided_radius: masks follow the edges of the picture (`io/guided_filter.py`), which are looked for within so
            many of the decoder's cells to each side; memory keeps what the decoder drew. 0 = masks are interpolated
            alone, as the official code does.
    """

    SECTION: ClassVar[str] = ""
    """Its name in a `config.json` of ours."""
    STRIDE: ClassVar[int] = 16
    """Pixels of one cell of the coarsest feature map, to the side."""
    SIDES: ClassVar[int] = 32
    """`image_size` is a multiple of this."""

    image_size: int = 1024
    hidden_dim: int = 256
    memory_dim: int = 64
    memory_frames: int = 7
    max_pointers: int = 16
    memory_layers: int = 4
    memory_mlp_dim: int = 2048
    decoder_mlp_dim: int = 2048
    attended_prompts: int = 0
    object_score_gate: bool = False
    binarize_prompted: bool = False
    multimask: bool = True
    stability_fallback: bool = True
    pointer_positions: bool = False
    clip_codes: bool = False
    rounded_normalisation: bool = True
    half_normalisation: bool = False
    guided_radius: int = 0

    def __post_init__(self) -> None:
        self._expect("image_size", self.image_size > 0 and self.image_size % self.SIDES == 0,
                     f"a multiple of {self.SIDES}")  # fmt: skip
        self._expect("memory_dim", self.memory_dim > 0 and self.hidden_dim % self.memory_dim == 0,
                     f"a divisor of hidden_dim {self.hidden_dim}")  # fmt: skip
        self._expect("attended_prompts", self.attended_prompts >= 0, "0 (all) or more")
        self._expect("guided_radius", self.guided_radius >= 0, "0 (none) or more")

    def _expect(self, field: str, good: bool, expected: str) -> None:
        """InputError about a field unless it is `good`."""
        if not good:
            raise InputError(
                f"{self.SECTION}.{field} is {getattr(self, field)}; expected {expected}"
            )

    @property
    def feature_size(self) -> int:
        """Side of the coarsest feature map that the decoder sees."""
        return self.image_size // self.STRIDE

    @property
    def mask_size(self) -> int:
        """Side of the decoder's mask logits."""
        return 4 * self.feature_size

    @property
    def memory_mask_size(self) -> int:
        """Side of the masks that the memory encoder takes."""
        return 16 * self.feature_size

    @property
    def memory_cells(self) -> int:
        """Vectors of one spatial memory."""
        return self.feature_size**2


@dataclass(frozen=True)
class Sam2Config(SegmenterConfig):
    """SAM-2. Defaults: `sam2_hiera_l.yaml` as the official Sa2VA code sets it.

    Attributes:
        stages, global_blocks, window_spec, background_size: the Hiera trunk.
        top_down_levels: FPN levels that receive semantics from coarser ones.
        stem_blocks: residual blocks of a convolutional stem in front of the trunk; 0 = one patch
            convolution, as published.
    """

    SECTION: ClassVar[str] = "sam2_config"

    embed_dim: int = 144
    num_heads: int = 2
    stages: tuple[int, ...] = (2, 6, 36, 4)
    global_blocks: tuple[int, ...] = (23, 33, 43)
    window_spec: tuple[int, ...] = (8, 4, 16, 8)
    background_size: tuple[int, int] = (7, 7)
    top_down_levels: tuple[int, ...] = (2, 3)
    stem_blocks: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        four = len(self.stages) == 4 and min(self.stages) > 0
        self._expect("stages", four, "four block counts")
        wide = len(self.window_spec) == 4 and min(self.window_spec) > 1
        self._expect("window_spec", wide, "four sides of 2 or more")
        last = sum(self.stages) - 1
        known = all(0 <= block <= last for block in self.global_blocks)
        self._expect("global_blocks", known, f"numbers of blocks, up to {last}")
        levels = all(0 <= level < 4 for level in self.top_down_levels)
        self._expect("top_down_levels", levels, "levels 0 to 3")
        self._expect("num_heads", self.num_heads > 0 and self.embed_dim % self.num_heads == 0,
                     f"a divisor of embed_dim {self.embed_dim}")  # fmt: skip


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


@dataclass(frozen=True)
class EdgeTamConfig(SegmenterConfig):
    """EdgeTAM. Defaults: as it is published (`edgetam.yaml` with the video predictor's own overrides).

    Attributes:
        widths, depths: of the four stages of the RepViT trunk.
        top_down_levels: FPN levels that receive semantics from coarser ones.
        global_latents: vectors of a memory that stand for the whole image.
        window_latents: vectors of a memory that stand for a window of it each.
        perceiver_layers: of the perceiver that makes them.
        trained_size: side of the images that it was trained with, pixels.
    """

    SECTION: ClassVar[str] = "edgetam_config"

    memory_layers: int = 2
    object_score_gate: bool = True
    binarize_prompted: bool = True
    rounded_normalisation: bool = False
    widths: tuple[int, ...] = (48, 96, 192, 384)
    depths: tuple[int, ...] = (2, 2, 14, 2)
    top_down_levels: tuple[int, ...] = (2, 3)
    global_latents: int = 256
    window_latents: int = 256
    perceiver_layers: int = 2
    trained_size: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("depths", len(self.depths) == 4 and min(self.depths) > 0, "four block counts")
        wide = len(self.widths) == 4 and sorted(set(self.widths)) == list(self.widths)
        self._expect("widths", wide and self.widths[0] > 1, "four widths, each above the last")
        levels = all(0 <= level < 4 for level in self.top_down_levels)
        self._expect("top_down_levels", levels, "levels 0 to 3")
        self._expect("global_latents", self.global_latents > 0, "1 or more")
        square = self.window_latents > 0 and self.window_side**2 == self.window_latents
        self._expect("window_latents", square, "a square number")
        self._expect("image_size", self.feature_size % self.window_side == 0,
                     f"a multiple of {self.STRIDE * self.window_side}")  # fmt: skip

    @property
    def window_side(self) -> int:
        """Windows of the image to the side."""
        return round(self.window_latents**0.5)

    @property
    def memory_cells(self) -> int:
        """Vectors of one spatial memory."""
        return self.global_latents + self.window_latents
