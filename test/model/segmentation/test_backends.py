# SPDX-License-Identifier: Apache-2.0
"""Who computes SAM-2: one registry, one place that picks, one segmenter for all tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.device import CPU
from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.segmentation.backends.base import Backend, Segmenter, SegmenterRequest
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.backends.fused.stem import Convolution
from sa2va_model.segmentation.backends.fused.trunk import Trunk
from sa2va_model.segmentation.backends.profile import FLOAT32
from sa2va_model.segmentation.backends.registry import BACKENDS, pick_runtime, profile_names
from sa2va_model.segmentation.types import ImageFeatures
from sa2va_model.testing import nano_model
from sa2va_model.tracking.live import LiveConfig, LiveTracker


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


class Mirrored(FusedSam2):
    """Sees every image in a mirror."""

    images = 0

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        Mirrored.images += 1
        return super().encode_image(pixels.flip(-1))


def mirrored(request: SegmenterRequest) -> Segmenter:
    assert request.traits == CPU
    return Mirrored(request.weights, request.profile, image_size=request.image_size)


def test_a_new_backend_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads by the name of its profile, and all tasks and the live tracker see with it."""
    monkeypatch.setitem(BACKENDS, "mirror", Backend({"mirrored": replace(FLOAT32)}, mirrored))
    save_model(nano_model(seed=1), tmp_path, dtype=None)
    plain, other = (load_model(tmp_path, "cpu", profile=p) for p in ("float32", "mirrored"))
    assert isinstance(other.segmenter, Mirrored)
    image = picture()
    [wanted] = plain.segment(np.ascontiguousarray(image[:, ::-1]), "the mug").masks
    [seen] = other.segment(image, "the mug").masks
    assert np.mean(seen != wanted) < 1e-2
    before = Mirrored.images
    tracker = LiveTracker(other, LiveConfig())
    tracker.prompt(box=(10, 10, 40, 40))
    tracker.process(Frame(image, 0.0, 0))
    tracker.close()
    assert Mirrored.images == before + 1
    with pytest.raises(InputError, match="profile is 'quick'; expected one of auto"):
        load_model(tmp_path, "cpu", profile="quick")


def test_the_fast_way_is_the_default(tmp_path: Path) -> None:
    save_model(nano_model(seed=1), tmp_path, dtype=None)
    model = load_model(tmp_path, "cpu")
    assert isinstance(model.segmenter, FusedSam2)
    assert load_model(tmp_path, "cpu", profile="reference").segmenter is not model.segmenter
    assert isinstance(nano_model().segmenter, type(nano_model().sam2)), (
        "built by hand: for training"
    )


def test_all_tasks_share_one_segmenter_and_its_weights() -> None:
    model = nano_model(seed=1)
    model.use_profile("auto")
    live = LiveTracker(model, LiveConfig())
    used = live._tracker._segmenter
    live.close()
    assert used is model.segmenter is model.segmenter_of("float32")
    assert used is not model.segmenter_of("auto", 96)
    stem = model.sam2.sam2_model.image_encoder.trunk.patch_embed.proj.weight
    assert isinstance(used, FusedSam2)
    assert isinstance(used._trunk, Trunk)
    assert isinstance(used._trunk._embed, Convolution)
    own = used._trunk._embed.proj.weight
    assert own.data_ptr() == stem.data_ptr(), "no second copy where none is needed"
    model.forget()
    assert model.segmenter is not used, "weights may have been changed"


def test_a_reference_segmenter_has_the_size_of_its_weights() -> None:
    model = nano_model()
    runtime = pick_runtime("reference", torch.device("cpu"), model.config.sam2)
    assert runtime.segmenter(model.sam2) is model.sam2
    with pytest.raises(InputError, match="resolution is 512; the reference profile computes at 64"):
        runtime.segmenter(model.sam2, image_size=512)


def test_names() -> None:
    assert profile_names() == ("auto", "reference", "float32", "bfloat16", "compiled")


def test_another_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a GPU is seen, nothing is put on it unless it was asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("a context was made"))
    model = nano_model()
    assert {t.device.type for t in model.state_dict().values()} == {"cpu"}
