# SPDX-License-Identifier: Apache-2.0
"""What a Sa2VA of the Qwen-VL family has of its own in `config.json` and `preprocessor_config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sa2va_model.errors import InputError

QWEN2_5, QWEN3 = "qwen2_5_vl", "qwen3_vl"
Colour = tuple[float, float, float]
CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)
HALF: Colour = (0.5, 0.5, 0.5)
NORMALISATION = {QWEN2_5: (CLIP_MEAN, CLIP_STD), QWEN3: (HALF, HALF)}
"""Mean and std of the published image processors."""
_OWN_FIELDS = (
    "text_config",
    "vision_config",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "tie_word_embeddings",
)


@dataclass(frozen=True)
class QwenConfig:
    """The vision-language model and its image processor.

    Attributes:
        family: "qwen2_5_vl" or "qwen3_vl".
        values: the fields that transformers' configuration class gets.
        min_pixels, max_pixels: of a frame after resizing; the official code uses 512 and 2048 squares of
            28 pixels for every member of the family, whatever the checkpoint's image processor says.
        mean, std: of the image processor; None = the checkpoint does not say, as published.
        system: the system prompt where the tokenizer has no chat template; None = the family's own.
    """

    family: str
    values: Mapping[str, Any]
    min_pixels: int = 512 * 28 * 28
    max_pixels: int = 2048 * 28 * 28
    mean: Colour | None = None
    std: Colour | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            raise InputError(
                f"min_pixels is {self.min_pixels} and max_pixels {self.max_pixels}; "
                "expected 0 < min_pixels <= max_pixels"
            )
        for name, found in (("mean", self.mean), ("std", self.std)):
            if found is not None and len(found) != 3:
                raise InputError(
                    f"image_{name} is {found}; expected three numbers, one for each colour"
                )

    @property
    def tied(self) -> bool:
        """Whether the language model's head is its embedding; transformers has written that in two places."""
        return any(part.get("tie_word_embeddings", False) for part in (self.values, self.text))

    def untied(self) -> QwenConfig:
        """The same with a head of its own."""
        text = {**self.text, "tie_word_embeddings": False}
        return replace(
            self, values={**self.values, "text_config": text, "tie_word_embeddings": False}
        )

    @property
    def text(self) -> Mapping[str, Any]:
        """The language model's own configuration."""
        found: Mapping[str, Any] = self.values["text_config"]
        return found

    @property
    def vision(self) -> Mapping[str, Any]:
        """The vision model's own configuration."""
        found: Mapping[str, Any] = self.values["vision_config"]
        return found


def family_of(values: Mapping[str, Any], where: str) -> str:
    """Which member of the family a `config.json` describes; `model_type` is the same for all of them.

    Raises:
        InputError: neither the parts' `model_type` nor their fields say.
    """
    text, vision = values["text_config"], values["vision_config"]
    for part in (text, vision):
        for family in (QWEN2_5, QWEN3):
            if str(part.get("model_type", "")).startswith(family):
                return family
    if "deepstack_visual_indexes" in vision:
        return QWEN3
    if "fullatt_block_indexes" in vision:
        return QWEN2_5
    raise InputError(
        f"{where}: text_config.model_type is {text.get('model_type')!r}; expected {QWEN2_5}_text or {QWEN3}_text"
    )


def qwen_from_dict(
    values: Mapping[str, Any], where: str, processor: Mapping[str, Any]
) -> QwenConfig:
    """Reads `config.json` and `preprocessor_config.json`.

    Raises:
        InputError: a field is missing or has a value that no code path serves.
    """
    for name in ("text_config", "vision_config"):
        if not isinstance(values.get(name), Mapping):
            raise InputError(
                f"{where}: field {name!r} is missing; expected a Sa2VA checkpoint of the Qwen-VL family"
            )
    family = family_of(values, where)
    return QwenConfig(
        family=family,
        values={name: values[name] for name in _OWN_FIELDS if values.get(name) is not None},
        min_pixels=values.get("min_pixels") or QwenConfig.min_pixels,
        max_pixels=values.get("max_pixels") or QwenConfig.max_pixels,
        mean=_colour(processor.get("image_mean")),
        std=_colour(processor.get("image_std")),
        system=values.get("system_prompt"),
    )


def _colour(values: Any) -> Colour | None:
    return None if values is None else tuple(float(value) for value in values)  # type: ignore[return-value]


def qwen_to_dict(config: QwenConfig) -> dict[str, Any]:
    """What `qwen_from_dict` reads from `config.json`."""
    own = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    if config.system is not None:
        own["system_prompt"] = config.system  # type: ignore[assignment]
    return {**config.values, **own}


def processor_to_dict(config: QwenConfig) -> dict[str, Any]:
    """`preprocessor_config.json`, as transformers writes it for this family."""
    vision, (mean, std) = config.vision, NORMALISATION[config.family]
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_mean": list(config.mean or mean),
        "image_std": list(config.std or std),
        "size": {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels},
        "patch_size": vision.get("patch_size", 14 if config.family == QWEN2_5 else 16),
        "temporal_patch_size": vision.get("temporal_patch_size", 2),
        "merge_size": vision.get("spatial_merge_size", 2),
    }
