# SPDX-License-Identifier: Apache-2.0
"""Every number that makes one Sa2VA differ from another: the tiny model, a nano model and 26B share all code.

`ModelConfig` is read from a checkpoint's `config.json` (`load.py`): the official fields as published,
plus `sam2_config`, which official checkpoints lack because their code fixes SAM-2 to the large size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.mllm.families.qwen_config import QwenConfig, qwen_from_dict, qwen_to_dict
from sa2va_model.segmentation.kinds import segmenter_from_dict
from sa2va_model.segmenter_config import Sam2Config, SegmenterConfig

INTERNVL_CLASS, QWEN_CLASS = "Sa2VAChatModel", "Sa2VAChatModelQwen"
"""`architectures` of published checkpoints; `model_type` is the same for both."""


NOT_READ = {
    "Sa2VAChatModelLlava": "Sa2VA on LLaVA-1.5; Sa2VA-4B or -8B loads",
    "SaSaSa2VAChatModel": "SaSaSa2VA, which has another protocol for clips; Sa2VA-4B or -26B loads",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2.5-VL without Sa2VA, or SAMTok; Sa2VA-Qwen2_5-VL-3B or -7B loads",
    "Qwen3VLForConditionalGeneration": "Qwen3-VL without Sa2VA, or SAMTok; Sa2VA-Qwen3-VL-4B loads",
}
"""What else is published, by `architectures`, and what loads instead."""


@dataclass(frozen=True)
class VisionConfig:
    """InternViT (`vision_config` of an official checkpoint).

    Attributes:
        stem: channels of stride-2 convolutions before the tokens; empty = one patch convolution, as
            published. A convolutional stem is what lets a small ViT train from scratch.
        stem_blocks: residual blocks after each of them and after the last one (see `stem.ResidualStem`).
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    qkv_bias: bool = True
    qk_normalization: bool = False
    norm_type: str = "layer_norm"
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    initializer_factor: float = 0.1
    stem: tuple[int, ...] = ()
    stem_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise InputError(
                f"vision_config.image_size is {self.image_size}; "
                f"expected a multiple of patch_size {self.patch_size}"
            )
        if self.norm_type not in ("layer_norm", "rms_norm"):
            raise InputError(
                f"vision_config.norm_type is {self.norm_type!r}; expected 'layer_norm' or 'rms_norm'"
            )
        if self.stem and 2 ** (len(self.stem) + 1) != self.patch_size:
            raise InputError(
                f"vision_config.stem has {len(self.stem)} entries; "
                f"patch_size {self.patch_size} needs log2(patch_size) - 1"
            )
        strides = len(self.stem) + 1 if self.stem else 0
        if len(self.stem_blocks) != strides:
            raise InputError(
                f"vision_config.stem_blocks is {self.stem_blocks}; "
                f"expected one count for each of the {strides} strided convolutions"
            )


@dataclass(frozen=True)
class ModelConfig:
    """One Sa2VA.

    Attributes:
        vision: InternViT; unused by the Qwen-VL family, which has a vision model of its own.
        llm: the language model's own configuration (`llm_config`, `text_config`), passed on to transformers.
        qwen: the Qwen-VL family; None = the InternVL family, to which what follows about tiles belongs.
        template: chat template name; see `prompts.TEMPLATES`. The Qwen-VL family has the tokenizer's.
        extra_answers: sentences this model was trained to answer a referring question with, beside
            `prompts.ANSWERS`; known ones are checked in one forward.
        keyframes: how many frames of a clip the language model sees and SAM-2 is prompted on (official: 5).
    """

    vision: VisionConfig
    llm: Mapping[str, Any]
    sam2: SegmenterConfig = field(default_factory=Sam2Config)
    template: str = "qwen_chat"
    downsample_ratio: float = 0.5
    pixel_shuffle_version: str = "v2"
    select_layer: int = -1
    dynamic_image_size: bool = True
    use_thumbnail: bool = True
    min_tiles: int = 1
    max_tiles: int = 12
    keyframes: int = 5
    max_new_tokens: int = 2048
    extra_answers: tuple[str, ...] = ()
    qwen: QwenConfig | None = None

    def __post_init__(self) -> None:
        if self.keyframes < 1:
            raise InputError(f"keyframes is {self.keyframes}; expected 1 or more")
        if not 0 < self.downsample_ratio <= 1:
            raise InputError(
                f"downsample_ratio is {self.downsample_ratio}; expected 0 < ratio <= 1"
            )

    @property
    def tied(self) -> bool:
        """Whether the language model's head is its embedding."""
        if self.qwen is not None:
            return self.qwen.tied
        return bool(self.llm.get("tie_word_embeddings", False))

    def untied(self) -> ModelConfig:
        """The same with a head of its own."""
        if self.qwen is not None:
            return replace(self, qwen=self.qwen.untied())
        return replace(self, llm={**self.llm, "tie_word_embeddings": False})

    @property
    def tokens_per_tile(self) -> int:
        """Visual tokens of one tile after pixel shuffle."""
        side = self.vision.image_size // self.vision.patch_size
        return int(side * self.downsample_ratio) ** 2

    @property
    def region_size(self) -> int:
        """Side of the token grid onto which a region prompt is rasterised."""
        return int(self.tokens_per_tile**0.5)


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `values` that are fields of `cls`, lists turned into tuples."""
    names = {f.name for f in fields(cls)}
    return {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in values.items()
        if k in names and v is not None
    }


def _family_class(values: Mapping[str, Any], where: str) -> str:
    """The official class that a `config.json` is for; checkpoints of Qwen-VL may leave `architectures` empty."""
    names = values.get("architectures")
    if not names:
        return QWEN_CLASS if "text_config" in values else INTERNVL_CLASS
    known = (INTERNVL_CLASS, QWEN_CLASS)
    if isinstance(names, list) and names[0] in NOT_READ:
        raise InputError(
            f"{where}: architectures is {names}, which is not read: {NOT_READ[names[0]]}"
        )
    if not isinstance(names, list) or names[0] not in known:
        raise InputError(f"{where}: architectures is {names}; expected {' or '.join(known)}")
    return str(names[0])


def _object(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """The JSON object at `name`."""
    found = values.get(name)
    if not isinstance(found, Mapping):
        said = "is missing" if found is None else f"is a {type(found).__name__}"
        raise InputError(f"{where}: field {name!r} {said}; expected a JSON object")
    return found


def from_dict(
    values: Mapping[str, Any],
    where: str = "config.json",
    processor: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Reads an official or our own `config.json`.

    Args:
        values: the parsed JSON object.
        where: what to call it in errors.
        processor: `preprocessor_config.json`, which checkpoints of the Qwen-VL family have.

    Raises:
        InputError: a needed field is missing or has a value that no code path serves.
    """
    try:
        if _family_class(values, where) == QWEN_CLASS:
            return _qwen_from_dict(values, where, processor or {})
        return _internvl_from_dict(values, where)
    except (TypeError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: a field is missing or has the wrong type ({error})") from error


def _qwen_from_dict(
    values: Mapping[str, Any], where: str, processor: Mapping[str, Any]
) -> ModelConfig:
    qwen = qwen_from_dict(values, where, processor)
    return ModelConfig(
        vision=VisionConfig(),
        llm=dict(qwen.text),
        sam2=segmenter_from_dict(values, where),
        qwen=qwen,
        keyframes=values.get("keyframes", 5),
        max_new_tokens=values.get("max_new_tokens", 2048),
        extra_answers=tuple(values.get("extra_answers", ())),
    )


def _internvl_from_dict(values: Mapping[str, Any], where: str) -> ModelConfig:
    llm, sam2 = _object(values, "llm_config", where), segmenter_from_dict(values, where)
    values = {**values, "vision_config": _object(values, "vision_config", where)}
    vision = VisionConfig(**_known(VisionConfig, values["vision_config"]))
    return ModelConfig(
        vision=vision,
        llm=dict(llm),
        sam2=sam2,
        template=str(values.get("template") or "qwen_chat").replace("-", "_"),
        downsample_ratio=values.get("downsample_ratio", 0.5),
        pixel_shuffle_version=values.get("ps_version", "v2"),
        select_layer=values.get("select_layer", -1),
        dynamic_image_size=values.get("dynamic_image_size", True),
        use_thumbnail=values.get("use_thumbnail", True),
        min_tiles=values.get("min_dynamic_patch", 1),
        # The official code ignores the checkpoint's value here and always uses 12.
        max_tiles=values.get("max_tiles", 12),
        keyframes=values.get("keyframes", 5),
        max_new_tokens=values.get("max_new_tokens", 2048),
        extra_answers=tuple(values.get("extra_answers", ())),
    )


def to_dict(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of our folders: official field names, plus ours."""
    common = {
        "model_type": "sa2va_chat",
        "keyframes": config.keyframes,
        "max_new_tokens": config.max_new_tokens,
        "extra_answers": list(config.extra_answers),
        config.sam2.SECTION: asdict(config.sam2),
    }
    if config.qwen is not None:
        template = {"template": config.template, "architectures": [QWEN_CLASS]}
        return {**common, **template, **qwen_to_dict(config.qwen)}
    return {
        **common,
        "architectures": [INTERNVL_CLASS],
        "template": config.template,
        "force_image_size": config.vision.image_size,
        "downsample_ratio": config.downsample_ratio,
        "ps_version": config.pixel_shuffle_version,
        "select_layer": config.select_layer,
        "dynamic_image_size": config.dynamic_image_size,
        "use_thumbnail": config.use_thumbnail,
        "min_dynamic_patch": config.min_tiles,
        "max_dynamic_patch": config.max_tiles,
        "max_tiles": config.max_tiles,
        "vision_config": {"architectures": ["InternVisionModel"], **asdict(config.vision)},
        "llm_config": dict(config.llm),
    }
