# SPDX-License-Identifier: Apache-2.0
"""InternViT from transformers' class, in the sizes and with the options of `vision_config`.

Letters: T tiles, h w token grid, c channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.models.internvl import InternVLVisionConfig, InternVLVisionModel

from sa2va_model.conv_stem import ResidualStem
from sa2va_model.errors import InputError
from sa2va_model.mllm.llm import CONFIG_ERRORS, one_line
from sa2va_model.mllm.models.efficientnet import PATCH, EfficientNet, TokenMixer
from sa2va_model.mllm.tensor_map import TensorMap, stacked

_LAYER, _OUR_LAYER = "vision_model.encoder.layers.#.", "vision_model.encoder.layer.#."
_EMBEDDED = "vision_model.embeddings."
TENSORS = TensorMap(
    (
        (_EMBEDDED + "class_embedding", _EMBEDDED + "cls_token"),
        (_EMBEDDED + "position_embedding", _EMBEDDED + "position_embeddings"),
        (_EMBEDDED + "patch_embedding.*", _EMBEDDED + "patch_embeddings.projection.*"),
        (_LAYER + "ls1", _OUR_LAYER + "lambda_1"),
        (_LAYER + "ls2", _OUR_LAYER + "lambda_2"),
        (_LAYER + "norm1.*", _OUR_LAYER + "layernorm_before.*"),
        (_LAYER + "norm2.*", _OUR_LAYER + "layernorm_after.*"),
        (_LAYER + "attn.proj.*", _OUR_LAYER + "attention.projection_layer.*"),
        (_LAYER + "attn.*", _OUR_LAYER + "attention.*"),
        (_LAYER + "mlp.*", _OUR_LAYER + "mlp.*"),
    ),
    (
        stacked(
            _LAYER + "attn.qkv.*",
            tuple(f"{_OUR_LAYER}attention.{letter}_proj.*" for letter in "qkv"),
        ),
    ),
)
"""Names in the files and in transformers' class."""


EYE = "efficientnet_lite0"


class EyedStem(ResidualStem):
    """A stem beside a network that has seen photographs: the tokens are the sum of what both see."""

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], width: int) -> None:
        super().__init__(channels, blocks, width)
        self.eye = EfficientNet()
        self.mixer = TokenMixer(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, width, S / 16, S / 16]."""
        # On a CPU both are quicker where a cell's channels lie side by side, depthwise kernels by a third.
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        x = pixels
        for layer in list(self)[: self._last + 1]:
            x = layer(x)
        mixed: Tensor = self.mixer(self.eye(pixels))
        return x + mixed


@dataclass(frozen=True)
class VisionConfig:
    """InternViT (`vision_config` of an official checkpoint).

    Attributes:
        stem: channels of stride-2 convolutions before the tokens; empty = one patch convolution, as
            published. A convolutional stem is what lets a small ViT train from scratch.
        stem_blocks: residual blocks after each of them and after the last one (see `stem.ResidualStem`).
        eye: "efficientnet_lite0" = its features are added to the stem's (patches of 16 pixels); "" = none.
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
    eye: str = ""

    def __post_init__(self) -> None:
        if not self.patch_size or self.image_size % self.patch_size:
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
        if self.eye and (self.eye != EYE or not self.stem or self.patch_size != PATCH):
            raise InputError(
                f"vision_config.eye is {self.eye!r}; expected {EYE!r} beside a stem and a patch_size of {PATCH}"
            )
        strides = len(self.stem) + 1 if self.stem else 0
        if len(self.stem_blocks) != strides:
            raise InputError(
                f"vision_config.stem_blocks is {self.stem_blocks}; "
                f"expected one count for each of the {strides} strided convolutions"
            )


def vision_model(config: VisionConfig) -> InternVLVisionModel:
    """InternViT with random weights: 300M and, with RMS norms and normalised queries and keys, 6B.

    Raises:
        InputError: sizes that do not fit each other.
    """
    try:
        model = InternVLVisionModel(
            InternVLVisionConfig(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size,
                attention_bias=config.qkv_bias,
                use_qk_norm=config.qk_normalization,
                norm_type=config.norm_type,
                layer_norm_eps=config.layer_norm_eps,
                hidden_act=config.hidden_act,
                image_size=config.image_size,
                patch_size=config.patch_size,
                layer_scale_init_value=config.initializer_factor,
                use_mean_pooling=True,
                attn_implementation="sdpa",
            )
        )
    except CONFIG_ERRORS as error:
        raise InputError(f"vision_config: {one_line(error)}") from error
    if config.qk_normalization:
        # The published code gives them the configured epsilon, transformers' class a fixed one.
        for layer in model.encoder.layer:
            for norm in (layer.attention.q_norm, layer.attention.k_norm):
                norm.variance_epsilon = config.layer_norm_eps
    if config.stem:
        stem = EyedStem if config.eye else ResidualStem
        model.embeddings.patch_embeddings.projection = stem(
            (*config.stem, config.hidden_size), config.stem_blocks, config.hidden_size
        )
    return model


def pixel_shuffle(tokens: Tensor, ratio: float, version: str) -> Tensor:
    """Trades resolution for channels: [T, h, w, c] to [T, h·ratio, w·ratio, c/ratio²] (InternVL)."""
    count, height, width, channels = tokens.shape
    tokens = tokens.reshape(count, height, int(width * ratio), int(channels / ratio))
    tokens = tokens.permute(0, 2, 1, 3).contiguous()
    tokens = tokens.reshape(
        count, int(width * ratio), int(height * ratio), int(channels / ratio**2)
    )
    # Version 1 of the published code leaves rows and columns exchanged.
    return tokens if version == "v1" else tokens.permute(0, 2, 1, 3).contiguous()
