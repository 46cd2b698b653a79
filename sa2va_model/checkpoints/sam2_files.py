# SPDX-License-Identifier: Apache-2.0
"""Stock SAM-2 and SAM-2.1 of any size, from the `.pt` files as they are published: `{"model": state_dict}`.

The size and the generation are read off the tensors. The published configurations of the four sizes differ in the
image encoder only; SAM-2.1 has tensors that 2.0 lacks. SAM-2 computes at any image size that is a multiple of 32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sa2va_model.checkpoints.meta_init import unallocated
from sa2va_model.checkpoints.pickled_files import load_pickled
from sa2va_model.config import Sam2Config
from sa2va_model.errors import InputError
from sa2va_model.segmentation.sam2 import Sam2

_COMMON = Sam2Config(
    object_score_gate=True,
    binarize_prompted=True,
    rounded_normalisation=False,
    window_spec=(8, 4, 14, 7),
)
SIZES: dict[str, Sam2Config] = {
    "tiny": replace(
        _COMMON, embed_dim=96, num_heads=1, stages=(1, 2, 7, 2), global_blocks=(5, 7, 9)
    ),
    "small": replace(
        _COMMON, embed_dim=96, num_heads=1, stages=(1, 2, 11, 2), global_blocks=(7, 10, 13)
    ),
    "base+": replace(
        _COMMON,
        embed_dim=112,
        num_heads=2,
        stages=(2, 3, 16, 3),
        global_blocks=(12, 16, 20),
        background_size=(14, 14),
    ),
    "large": replace(
        _COMMON,
        embed_dim=144,
        num_heads=2,
        stages=(2, 6, 36, 4),
        global_blocks=(23, 33, 43),
        window_spec=(8, 4, 16, 8),
    ),
}
"""The published sizes (SAM 2.0), as `sam2_hiera_{t,s,b+,l}.yaml` with the video predictor's own overrides."""


def stock_config(size: str, *, generation: str = "2.1", image_size: int = 1024) -> Sam2Config:
    """A published configuration by name.

    Raises:
        InputError: an unknown size.
    """
    if size not in SIZES:
        raise InputError(f"SAM-2 size is {size!r}; expected one of {', '.join(SIZES)}")
    return replace(SIZES[size], image_size=image_size, pointer_positions=generation == "2.1")


def load_stock(
    path: str | Path,
    *,
    image_size: int = 1024,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Sam2:
    """Loads a published SAM-2 or SAM-2.1.

    Args:
        image_size: side of the square that images are squashed to, pixels.

    Raises:
        InputError: no such file, not a checkpoint of SAM-2, an unknown size, a missing or unknown tensor.
    """
    tensors = read_stock(Path(path))
    config = replace(recognise(tensors, str(path)), image_size=image_size)
    with unallocated():
        segmenter = Sam2(config).eval()
    own = segmenter.sam2_model.state_dict()
    missing, unknown = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing:
        raise InputError(f"{path}: tensor {missing[0]!r} is missing ({len(missing)} in all)")
    if unknown:
        raise InputError(
            f"{path}: tensor {unknown[0]!r} has no place in SAM-2 ({len(unknown)} in all)"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{path}: tensor {name!r} has shape {list(tensor.shape)}; expected {list(own[name].shape)}"
            )
    segmenter.sam2_model.load_state_dict(dict(tensors), assign=True)
    return segmenter.to(device, dtype).requires_grad_(False)


def read_stock(path: Path) -> dict[str, Tensor]:
    """The tensors of a published file; nothing but tensors is unpickled.

    Raises:
        InputError: no such file, or something else than a SAM-2 checkpoint.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; expected a SAM-2 checkpoint such as sam2.1_hiera_tiny.pt"
        )
    content = load_pickled(path)
    tensors = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise InputError(
            f"{path}: has no state dict named 'model'; expected a published SAM-2 checkpoint"
        )
    return dict(tensors)


def recognise(tensors: Mapping[str, Tensor], where: str = "checkpoint") -> Sam2Config:
    """The configuration of a published checkpoint, from the shapes of its tensors.

    Raises:
        InputError: no published size has these shapes.
    """
    widths: dict[int, int] = {}
    for name, tensor in tensors.items():
        block = re.fullmatch(r"image_encoder\.trunk\.blocks\.(\d+)\.attn\.proj\.weight", name)
        if block:
            widths[int(block[1])] = tensor.shape[0]
    if not widths:
        raise InputError(f"{where}: has no Hiera image encoder; expected a SAM-2 checkpoint")
    ordered = [widths[i] for i in sorted(widths)]
    stages = tuple(ordered.count(width) for width in sorted(set(ordered)))
    for config in SIZES.values():
        if (config.embed_dim, config.stages) == (ordered[0], stages):
            return replace(config, pointer_positions="obj_ptr_tpos_proj.weight" in tensors)
    raise InputError(
        f"{where}: the image encoder has stages {stages} from width {ordered[0]}; "
        f"expected SAM-2's {', '.join(f'{n} {c.stages} from {c.embed_dim}' for n, c in SIZES.items())}"
    )
