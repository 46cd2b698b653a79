# SPDX-License-Identifier: Apache-2.0
"""The kinds of segmenter that checkpoints hold: one entry of a table for each.

Configurations of official checkpoints do not say which segmenter they have; the names of the stored tensors do.
What needs torch is imported when it is asked for, so that a configuration can be read without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sa2va_model.config.fields import typed_fields
from sa2va_model.config.segmenter import EdgeTamConfig, Sam2Config, Sam3Config, SegmenterConfig
from sa2va_model.cut_tensor import CutTensor
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from sa2va_model.segmentation.sam2_modules import MemoryParts

MODULES = "grounding_encoder.sam2_model."
"""Begins the official names of all tensors of a segmenter of any kind."""


@dataclass(frozen=True)
class SegmenterNames:
    """Official names of a segmenter's tensors and ours, both below `sam2_model.`; others are equal.

    Attributes:
        pairs: official, ours; `#` stands for a layer number and `*` for the rest of a name.
        cuts: tensors that have another layout.
        unused: what begins so is stored and used for nothing.
    """

    pairs: tuple[tuple[str, str], ...]
    cuts: tuple[CutTensor, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class SegmenterKind:
    """What makes one kind of segmenter another.

    Attributes:
        title: what users call it.
        config: its sizes and switches.
        mark: what the official names of its image encoder's trunk begin with, below `sam2_model.`.
        names: of its tensors.
        encoder: the image encoder as modules.
        fused: its two halves as `backends.fused` computes them: pixels to levels, levels to features.
        small: the field of `config.json` beside golden checkpoints that has their reduced sizes, and who reads it.
        memory: what it has in place of SAM-2's own memory.
    """

    title: str
    config: type[SegmenterConfig]
    mark: str
    names: Callable[[], SegmenterNames]
    encoder: Callable[[Any], nn.Module]
    fused: Callable[[], tuple[Any, Any]]
    small: tuple[str, Callable[[Mapping[str, Any]], SegmenterConfig]] | None = None
    memory: Callable[[Any], MemoryParts | None] = lambda config: None


def _sam2_small(values: Mapping[str, Any]) -> Sam2Config:
    trunk = values["trunk"]
    return Sam2Config(
        image_size=values["image_size"],
        embed_dim=trunk["embed_dim"],
        num_heads=trunk["num_heads"],
        stages=tuple(trunk["stages"]),
        global_blocks=tuple(trunk["global_att_blocks"]),
        window_spec=tuple(trunk["window_spec"]),
        background_size=tuple(trunk["window_pos_embed_bkg_spatial_size"]),
        hidden_dim=values["d"],
        memory_dim=values["mem"],
        memory_layers=values["ma_layers"],
        memory_mlp_dim=values["ffn"],
    )


def _sam3_small(values: Mapping[str, Any]) -> Sam3Config:
    trunk = values["trunk"]
    return Sam3Config(
        image_size=values["image_size"],
        embed_dim=trunk["embed_dim"],
        depth=trunk["depth"],
        num_heads=trunk["num_heads"],
        mlp_dim=int(trunk["embed_dim"] * trunk["mlp_ratio"]),
        window=trunk["window_size"],
        global_blocks=tuple(trunk["global_att_blocks"]),
        position_side=trunk["pretrain_img_size"] // Sam3Config.STRIDE,
        hidden_dim=values["d"],
        memory_dim=values["mem"],
        memory_layers=values["ma_layers"],
        memory_mlp_dim=values["ffn"],
    )


def _sam2_names() -> SegmenterNames:
    # transformers renames what is called gamma when it loads, so the official code calls it otherwise.
    gamma = "memory_encoder.fuser.layers.#."
    return SegmenterNames(((f"{gamma}g_weight", f"{gamma}gamma"),))


def _sam3_names() -> SegmenterNames:
    from sa2va_model.segmentation.sam3.names import NAMES

    return NAMES


def _hiera(config: Sam2Config) -> nn.Module:
    from sa2va_model.segmentation.sam2_modules import image_encoder

    return image_encoder(config)


def _plain_vit(config: Sam3Config) -> nn.Module:
    from sa2va_model.segmentation.sam3.encoder import PlainEncoder

    return PlainEncoder(config)


def _fused_hiera() -> tuple[Any, Any]:
    from sa2va_model.segmentation.backends.fused.trunk import Pyramid, Trunk

    return Trunk, Pyramid


def _fused_plain_vit() -> tuple[Any, Any]:
    from sa2va_model.segmentation.backends.fused.plain_trunk import PlainPyramid, PlainTrunk

    return PlainTrunk, PlainPyramid


def _edgetam_names() -> SegmenterNames:
    from sa2va_model.segmentation.edgetam.names import NAMES

    return NAMES


def _repvit(config: EdgeTamConfig) -> nn.Module:
    from sa2va_model.segmentation.edgetam.encoder import image_encoder

    return image_encoder(config)


def _fused_repvit() -> tuple[Any, Any]:
    from sa2va_model.segmentation.backends.fused.repvit import FoldedRepVit
    from sa2va_model.segmentation.backends.fused.trunk import Pyramid

    return FoldedRepVit, Pyramid


def _latent_memory(config: EdgeTamConfig) -> MemoryParts:
    from sa2va_model.segmentation.edgetam.memory import LatentAttention, perceiver
    from sa2va_model.segmentation.sam2_modules import MemoryParts

    return MemoryParts(lambda: LatentAttention(config), perceiver(config))


SAM2 = SegmenterKind(
    "SAM-2",
    Sam2Config,
    "image_encoder.trunk.blocks.",
    _sam2_names,
    _hiera,
    _fused_hiera,
    ("_sam2_small", _sam2_small),
)
SAM3 = SegmenterKind(
    "SAM 3",
    Sam3Config,
    "backbone.vision_backbone.",
    _sam3_names,
    _plain_vit,
    _fused_plain_vit,
    ("_sam3_small", _sam3_small),
)
EDGETAM = SegmenterKind(
    "EdgeTAM",
    EdgeTamConfig,
    "image_encoder.trunk.body.",
    _edgetam_names,
    _repvit,
    _fused_repvit,
    memory=_latent_memory,
)
KINDS = (SAM2, SAM3, EDGETAM)


def kind_of(config: SegmenterConfig) -> SegmenterKind:
    """The kind that a configuration is of."""
    return next(kind for kind in KINDS if isinstance(config, kind.config))


def recognise(names: Iterable[str], where: str, begin: str = MODULES) -> SegmenterKind | None:
    """Which segmenter a checkpoint holds, by the names of its tensors; None = none that is known.

    Args:
        begin: what the names of a segmenter's tensors begin with.

    Raises:
        InputError: tensors of two kinds.
    """
    listed = list(names)
    counts = {k.title: sum(n.startswith(begin + k.mark) for n in listed) for k in KINDS}
    found = [kind for kind in KINDS if counts[kind.title]]
    if len(found) > 1:
        said = " and ".join(f"{counts[k.title]} tensors of {k.title}" for k in found)
        raise InputError(f"{where}: holds {said}; expected one segmenter")
    return found[0] if found else None


def as_stored(config: SegmenterConfig, names: Iterable[str], where: str) -> SegmenterConfig:
    """The configuration of the segmenter that the stored tensors are of, which official configurations leave open.

    Raises:
        InputError: `config` is for another one, or the tensors are of two.
    """
    kind = recognise(names, where)
    if kind is None or isinstance(config, kind.config):
        return config
    if config != Sam2Config():
        raise InputError(
            f"{where}: config.json has {config.SECTION!r}, which is {kind_of(config).title}'s, "
            f"but the files hold {kind.title}"
        )
    return kind.config()


def segmenter_from_dict(values: Mapping[str, Any], where: str) -> SegmenterConfig:
    """Our section of a `config.json`, that of golden files, or SAM-2 at the large size that official code has built in.

    Raises:
        InputError: an unknown field, so that a typo is not a default, or one with a wrong value.
    """
    written = _section(values)
    if written is None:
        return Sam2Config()
    kind, name = written
    section = values[name]
    if not isinstance(section, Mapping):
        raise InputError(
            f"{where}: field {name!r} is a {type(section).__name__}; expected a JSON object"
        )
    if kind.small and name == kind.small[0]:
        return kind.small[1](section)
    known = sorted(f.name for f in fields(kind.config))
    unknown = sorted(set(section) - set(known))
    if unknown:
        raise InputError(f"{name} has unknown field {unknown[0]!r}; known: {', '.join(known)}")
    return kind.config(**typed_fields(kind.config, section, f"{name}."))


def _section(values: Mapping[str, Any]) -> tuple[SegmenterKind, str] | None:
    """Which segmenter a `config.json` speaks of, and in which field."""
    for kind in KINDS:
        for name in (kind.config.SECTION, *(kind.small or ())[:1]):
            if name in values:
                return kind, name
    return None
