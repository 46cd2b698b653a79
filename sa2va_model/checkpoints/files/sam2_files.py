# SPDX-License-Identifier: Apache-2.0
"""Stock segmenters from the `.pt` files as they are published: SAM-2 and SAM-2.1 of any size, SAM 3, EdgeTAM.

Kind, size and generation are read off the tensors. The published configurations of SAM-2's four sizes differ in the
image encoder only; SAM-2.1 has tensors that 2.0 lacks. `sam3.pt` holds a detector, whose image encoder is shared, and
the tracker, which alone is taken. SAM-2 computes at any image size that is a multiple of 32, SAM 3 at one of 14,
EdgeTAM at one of 256.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sa2va_model.checkpoints.files.pickled_files import load_pickled
from sa2va_model.checkpoints.files.tensor_names import OURS, Names
from sa2va_model.checkpoints.meta_init import unallocated
from sa2va_model.config.segmenter import EdgeTamConfig, Sam2Config, Sam3Config, SegmenterConfig
from sa2va_model.errors import InputError
from sa2va_model.segmentation.kinds import EDGETAM, MODULES, SAM3, kind_of
from sa2va_model.segmentation.kinds import recognise as recognise_kind
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
SAM3_SIZES: dict[str, Sam3Config] = {
    "sam3": Sam3Config(half_normalisation=True, rounded_normalisation=False)
}
"""SAM 3's tracker as it is published, with its own preprocessing."""
EDGETAM_SIZES: dict[str, EdgeTamConfig] = {"edgetam": EdgeTamConfig()}
"""EdgeTAM as it is published."""
OTHERS: dict[str, Sam3Config | EdgeTamConfig] = {**SAM3_SIZES, **EDGETAM_SIZES}


def stock_config(
    size: str, *, generation: str = "2.1", image_size: int | None = None
) -> SegmenterConfig:
    """A published configuration by name.

    Args:
        generation: 2.0 or 2.1; of SAM-2.
        image_size: side of the square that images are squashed to, pixels; None = as published.

    Raises:
        InputError: an unknown size.
    """
    config: SegmenterConfig
    if size in SIZES:
        config = replace(SIZES[size], pointer_positions=generation == "2.1")
    elif size in OTHERS:
        config = OTHERS[size]
    else:
        known = ", ".join((*SIZES, *OTHERS))
        raise InputError(f"size of a segmenter is {size!r}; expected one of {known}")
    return replace(config, image_size=image_size or config.image_size)


def load_stock(
    path: str | Path,
    *,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Sam2:
    """Loads a published SAM-2, SAM-2.1, SAM 3's tracker or EdgeTAM.

    Args:
        image_size: side of the square that images are squashed to, pixels; None = as published.

    Raises:
        InputError: no such file, no such checkpoint, an unknown size, a missing or unknown tensor.
    """
    tensors = read_stock(Path(path))
    config = recognise(tensors, str(path))
    config = replace(config, image_size=image_size or config.image_size)
    with unallocated():
        segmenter = Sam2(config).eval()
    own, given = segmenter.sam2_model.state_dict(), _as_ours(tensors, config)
    missing, unknown = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    if missing:
        raise InputError(f"{path}: tensor {missing[0]!r} is missing ({len(missing)} in all)")
    if unknown:
        title = kind_of(config).title
        raise InputError(
            f"{path}: tensor {unknown[0]!r} has no place in {title} ({len(unknown)} in all)"
        )
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{path}: tensor {name!r} has shape {list(tensor.shape)}; expected {list(own[name].shape)}"
            )
    segmenter.sam2_model.load_state_dict(given, assign=True)
    return segmenter.to(device, dtype).requires_grad_(False)


def _as_ours(tensors: Mapping[str, Tensor], config: SegmenterConfig) -> dict[str, Tensor]:
    """A published file's tensors under the names of our modules."""
    names, ours = Names.of_segmenter(config), {}
    for name, tensor in tensors.items():
        if names.needed(MODULES + name):
            ours.update(names.cut(MODULES + name, tensor))
    return {name.removeprefix(OURS): tensor.contiguous() for name, tensor in ours.items()}


def read_stock(path: Path) -> dict[str, Tensor]:
    """The segmenter's tensors of a published file; nothing but tensors is unpickled.

    Raises:
        InputError: no such file, or something else than a published checkpoint.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; expected a SAM-2 checkpoint such as sam2.1_hiera_tiny.pt, sam3.pt or edgetam.pt"
        )
    content = load_pickled(path)
    tensors = content.get("model") if isinstance(content, Mapping) else None
    if tensors is None and isinstance(content, Mapping) and _has_tracker(content):
        tensors = content
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise InputError(
            f"{path}: has no state dict named 'model'; expected a published SAM-2 checkpoint"
        )
    return _tracker(tensors) if _has_tracker(tensors) else dict(tensors)


TRACKER, DETECTOR = "tracker.", "detector."
"""The halves of `sam3.pt`; the image encoder is stored with the detector's."""


def _has_tracker(tensors: Mapping[str, object]) -> bool:
    return any(str(name).startswith(TRACKER) for name in tensors)


def _tracker(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SAM 3's tracker out of a file that holds its detector, too."""
    vision = DETECTOR + SAM3.mark
    own = {k.removeprefix(TRACKER): t for k, t in tensors.items() if k.startswith(TRACKER)}
    shared = {k.removeprefix(DETECTOR): t for k, t in tensors.items() if k.startswith(vision)}
    kept = {k: t for k, t in (shared | own).items() if not k.endswith(".freqs_cis")}
    return dict(kept)


def recognise(tensors: Mapping[str, Tensor], where: str = "checkpoint") -> SegmenterConfig:
    """The configuration of a published checkpoint, from the names and shapes of its tensors.

    Raises:
        InputError: no published size has these shapes.
    """
    kind = recognise_kind(tensors, where, begin="")
    if kind is SAM3:
        return _recognise_sam3(tensors, where)
    if kind is EDGETAM:
        return _recognise_edgetam(tensors, where)
    return _recognise_sam2(tensors, where)


def _recognise_sam3(tensors: Mapping[str, Tensor], where: str) -> Sam3Config:
    trunk = f"{SAM3.mark}trunk."
    blocks = {n for n in tensors if n.startswith(f"{trunk}blocks.") and n.endswith(".norm1.weight")}
    widths = {tensors[name].shape[0] for name in blocks}
    for config in SAM3_SIZES.values():
        if (config.depth, {config.embed_dim}) == (len(blocks), widths):
            return config
    sizes = ", ".join(f"{c.depth} blocks of width {c.embed_dim}" for c in SAM3_SIZES.values())
    raise InputError(
        f"{where}: the image encoder has {len(blocks)} blocks of width {sorted(widths)}; expected SAM 3's {sizes}"
    )


def _recognise_edgetam(tensors: Mapping[str, Tensor], where: str) -> EdgeTamConfig:
    """There is one size; a block's first convolution says how wide its stage is."""
    widths: dict[int, int] = {}
    depths: dict[int, int] = {}
    for name, tensor in tensors.items():
        block = re.fullmatch(
            r"image_encoder\.trunk\.body\.stages_(\d+)\.blocks\.\d+\.token_mixer\.conv\.c\.weight",
            name,
        )
        if block:
            stage = int(block[1])
            widths[stage], depths[stage] = tensor.shape[0], depths.get(stage, 0) + 1
    found = [tuple(sizes[i] for i in sorted(sizes)) for sizes in (widths, depths)]
    for config in EDGETAM_SIZES.values():
        if [config.widths, config.depths] == found:
            return config
    own = EdgeTamConfig()
    raise InputError(
        f"{where}: the image encoder has stages {found[1]} of widths {found[0]}; "
        f"expected EdgeTAM's {own.depths} of {own.widths}"
    )


def _recognise_sam2(tensors: Mapping[str, Tensor], where: str) -> Sam2Config:
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
