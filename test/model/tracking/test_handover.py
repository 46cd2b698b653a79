# SPDX-License-Identifier: Apache-2.0
"""Who finds and who follows: the checkpoint's own SAM-2, or a stock one that is handed the mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_model.checkpoints.presets import nano_config
from sa2va_model.config.model import Sam2Config
from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.backends.fused.trunk import Trunk
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import nano_model, wake
from sa2va_model.tracking import handover as subject
from sa2va_model.tracking.config import PropagationConfig
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracks import TrackState

HANDOVER = PropagationConfig(kind="handover", stock="stock.pt", profile="float32")
SIZE = (60, 80)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> Sa2VA:
    return nano_model(seed=1)


def use_stock(monkeypatch: pytest.MonkeyPatch, stock: Sam2) -> None:
    """A published file that holds `stock`; published sizes are too large for these tests."""

    def load(path: str, *, image_size: int, device: torch.device, dtype: torch.dtype) -> Sam2:
        assert path == HANDOVER.stock
        return stock.to(device, dtype)

    monkeypatch.setattr(subject, "load_stock", load)


def other_stock(config: Sam2Config) -> Sam2:
    torch.manual_seed(9)
    stock = Sam2(replace(config, object_score_gate=True, binarize_prompted=True)).eval()
    wake(stock)
    return stock


def twin(segmenter: Sam2) -> Sam2:
    """The same encoder and another decoder, as a checkpoint tuned from that stock model has."""
    stock = other_stock(segmenter.config)
    encoder = segmenter.sam2_model.image_encoder.state_dict()
    stock.sam2_model.image_encoder.load_state_dict(encoder)
    return stock


def test_the_found_mask_is_a_mask_prompt_for_the_stock_model(
    model: Sa2VA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handover = find with one model, give the mask to a tracker of the other."""
    stock = other_stock(replace(nano_config(300).sam2, image_size=96, pointer_positions=True))
    use_stock(monkeypatch, stock)
    vision = Vision(model, HANDOVER)
    assert not vision.shared
    embedding = torch.randn(
        model.config.sam2.hidden_dim, generator=torch.Generator().manual_seed(0)
    )
    tracker = vision.tracker()
    tracker.add("a", Prompt(embedding=embedding))
    finder, follower = FusedSam2(model.sam2), FusedSam2(stock)
    by_hand = OnlineTracker(follower)
    with torch.inference_mode():
        for t in range(5):
            image = picture(t)
            seen = tracker.step(vision.encode(image))["a"]
            features = follower.encode_image(subject.images.sam_pixels(image, stock.config))
            if t == 0:
                own = finder.encode_image(subject.images.sam_pixels(image, model.config.sam2))
                plain = finder.without_memory(own)
                found = finder.decode(own, plain, Prompt(embedding=embedding)).logits
                found = torch.nn.functional.interpolate(found, size=(24, 24), mode="bilinear")
                by_hand.add("a", Prompt(mask=finder.image_logits(found)[0, 0] > 0))
            wanted = by_hand.step(features)["a"]
            assert seen.prompted == (t == 0)
            assert torch.allclose(seen.logits, wanted.logits, atol=1e-4)


def test_one_encoder_serves_both_where_it_is_the_same(
    model: Sa2VA, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = twin(model.sam2)
    use_stock(monkeypatch, stock)
    vision = Vision(model, HANDOVER)
    assert vision.shared
    runs = []
    encode = Trunk.__call__

    def counted(trunk: Trunk, pixels: torch.Tensor) -> list[torch.Tensor]:
        runs.append(pixels.shape)
        return encode(trunk, pixels)

    monkeypatch.setattr(Trunk, "__call__", counted)
    with torch.inference_mode():
        features = vision.encode(picture())
        decoded = vision.decode(torch.zeros(model.config.sam2.hidden_dim), features)
        assert len(runs) == 1, "found and followed on one pass of the image encoder"
        own = FusedSam2(model.sam2)
        plain = own.encode_image(subject.images.sam_pixels(picture(), model.config.sam2))
        wanted = own.decode(
            plain, own.without_memory(plain), Prompt(embedding=decoded.logits.new_zeros(32))
        )
    assert torch.allclose(decoded.logits, wanted.logits, atol=1e-4)


def test_nothing_found_is_not_remembered(model: Sa2VA, monkeypatch: pytest.MonkeyPatch) -> None:
    use_stock(monkeypatch, other_stock(nano_config(300).sam2))
    vision = Vision(model, HANDOVER)
    monkeypatch.setattr(
        vision, "_translate", lambda p, f: Prompt(mask=torch.zeros(8, 8, dtype=torch.bool))
    )
    tracker = vision.tracker()
    tracker.add("a", Prompt(embedding=torch.zeros(32)))
    with torch.inference_mode():
        assert tracker.step(vision.encode(picture()))["a"].prompted
        assert tracker.step(vision.encode(picture())) == {}


def test_a_sentence_is_found_by_one_and_followed_by_the_other(
    model: Sa2VA, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_stock(monkeypatch, twin(model.sam2))
    tracker = LiveTracker(model, LiveConfig(propagation=HANDOVER))
    tracker.track("the mug")
    states = []
    for t in range(6):
        result = tracker.process(Frame(picture(3), stamp=t / 10, index=t))
        states += [track.state for track in result.tracks]
    tracker.close()
    assert TrackState.TRACKING in states


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kind": "magic"}, "propagation is 'magic'; expected one of sa2va, handover"),
        ({"kind": "handover"}, "needs a stock SAM-2 file"),
        ({"stock": "x.pt"}, "expected 'handover'"),
        ({"resolution": 300}, "resolution is 300; expected 256, 512, 1024 or 0"),
    ],
)
def test_wrong_settings_are_told(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        PropagationConfig(**wrong)  # type: ignore[arg-type]


def test_an_unknown_profile_is_told(model: Sa2VA) -> None:
    with pytest.raises(InputError, match="profile is 'quick'; expected one of auto"):
        Vision(model, PropagationConfig(profile="quick"))


def test_a_missing_file_is_told(model: Sa2VA, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Vision(model, replace(HANDOVER, stock=str(tmp_path / "no.pt")))
