# SPDX-License-Identifier: Apache-2.0
"""SAM 3's tracker: a stream against the rules written down once more, and its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_utils import get_1d_sine_pe, select_closest_cond_frames
from torch import Tensor

from sa2va_model.checkpoints.files import sam2_files
from sa2va_model.checkpoints.files.sam2_files import load_stock, stock_config
from sa2va_model.checkpoints.files.tensor_names import OURS, Names
from sa2va_model.checkpoints.presets import NANO_SEGMENTERS
from sa2va_model.config.segmenter import Sam3Config
from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.io.preprocessing import sam_pixels
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.clip import follow_clip
from sa2va_model.segmentation.kinds import MODULES
from sa2va_model.segmentation.sam2 import Sam2, same_encoder
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import ImageFeatures, Prompt
from sa2va_model.testing import nano_model
from sa2va_model.tracking.config import PropagationConfig
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.live import LiveConfig, LiveTracker

KEYFRAMES, SIDE = 5, 112


@cache
def weights() -> Sam2:
    return nano_model(seed=1, segmenter="sam3").sam2


@cache
def pixels() -> Tensor:
    """Forty frames that change slowly."""
    generator = torch.Generator().manual_seed(5)
    steps = 0.2 * torch.randn(40, 3, SIDE, SIDE, generator=generator)
    steps[0] *= 5
    return steps.cumsum(0)


def features(segmenter: Sam2) -> list[ImageFeatures]:
    with torch.inference_mode():
        return [segmenter.encode_image(frame[None]) for frame in pixels()]


def embedding(seed: int) -> Prompt:
    return Prompt(embedding=torch.randn(32, generator=torch.Generator().manual_seed(seed)))


@torch.inference_mode()
def offline(frames: list[ImageFeatures], prompt: Prompt, length: int) -> Iterator[Tensor]:
    """Mask logits of one object, all memories of which are kept: the official rules without a bank.

    Args:
        length: of the clip.
    """
    segmenter = weights()
    sam, places = segmenter.sam2_model, segmenter.memory_position(torch.device("cpu"))
    prompted: dict[int, tuple[Tensor, Tensor]] = {}
    tracked: dict[int, tuple[Tensor, Tensor]] = {}
    for t, image in enumerate(frames):
        if t < KEYFRAMES:
            decoded = segmenter.decode(image, segmenter.without_memory(image), prompt)
        else:
            near, far = select_closest_cond_frames(t, prompted, 4)
            passing, reach = far | tracked, min(length, 16) - 1
            read = [(memory, 6) for memory, _ in near.values()]
            read += [(passing[t - d][0], d - 1) for d in range(1, 7) if t - d in passing]
            told = [(pointer, t - i) for i, (_, pointer) in near.items()]
            told += [(passing[t - d][1], d) for d in range(1, reach + 1) if t - d in passing]
            codes = get_1d_sine_pe(torch.tensor([d for _, d in told]) / reach, dim=32)
            codes = sam.obj_ptr_tpos_proj(codes).repeat_interleave(4, 0)
            values = [memory.float() for memory, _ in read]
            values.append(torch.cat([p.view(4, 8) for p, _ in told]))
            positions = [places + sam.maskmem_tpos_enc[code, 0] for _, code in read]
            conditioned = segmenter.attend(
                image,
                torch.cat(values)[:, None],
                torch.cat([*positions, codes])[:, None],
                len(codes),
            )
            decoded = segmenter.decode(image, conditioned)
        memory = segmenter.encode_memory(image, decoded, prompted=t < KEYFRAMES)
        kept = (memory[0].bfloat16(), decoded.pointers[0])
        (prompted if t < KEYFRAMES else tracked)[t] = kept
        yield decoded.logits


def test_a_stream_follows_the_official_rules() -> None:
    """Objects come and go; each has the masks of a clip of its own, which is longer than any code."""
    fused, reference = FusedSam2(weights()), features(weights())
    starts, ends = {"a": 0, "b": 3, "c": 9}, {"a": 40, "b": 25, "c": 40}
    wanted = {
        name: offline(reference[starts[name] : ends[name]], embedding(n), 40)
        for n, name in enumerate(starts)
    }
    tracker, widest = OnlineTracker(fused), 0.0
    for t, image in enumerate(features(fused)):
        for n, name in enumerate(starts):
            if t == starts[name]:
                tracker.add(name, embedding(n), frames=KEYFRAMES)
            if t == ends[name]:
                tracker.remove(name)
        for name, seen in tracker.step(image).items():
            expected = next(wanted[name])
            assert torch.allclose(seen.logits, expected, atol=1e-4)
            widest = max(widest, float(expected.std()))
    assert widest > 0.05, "the random model must give masks that vary"


def test_a_short_clip_is_told_its_length() -> None:
    """Codes of pointers depend on the length of a clip below 16 frames; masks of this random model hardly do."""
    frames = features(weights())[:12]
    wanted = torch.cat(list(offline(frames, embedding(0), 12)))
    apart = {}
    for told in (12, None):
        tracker = OnlineTracker(weights(), TrackerConfig(clip_length=told))
        tracker.add("a", embedding(0), frames=KEYFRAMES)
        ours = torch.cat([tracker.step(image)["a"].logits for image in frames])
        apart[told] = float((ours - wanted).abs().max())
    assert apart[12] <= 1e-4
    assert apart[None] > 10 * apart[12]


def test_a_clip_is_followed_as_long_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int | None] = []
    monkeypatch.setattr(
        "sa2va_model.segmentation.memory_bank.MemoryBank.belongs_to_clip",
        lambda self, length: told.append(length),
    )
    image = np.zeros((20, 30, 3), np.uint8)
    given = embedding(0).embedding
    assert given is not None
    segmenter = weights()

    def encode(frame: np.ndarray) -> ImageFeatures:
        with torch.inference_mode():
            return segmenter.encode_image(sam_pixels(frame, segmenter.config))

    follow_clip(segmenter, encode, [image] * 7, given[None], range(5))
    assert told == [7]


def test_a_hidden_object_has_no_mask() -> None:
    """The gate: below an object score of 0 the mask is empty and so is what is remembered."""
    segmenter = weights()
    bias = segmenter.sam2_model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    old = bias.detach().clone()
    try:
        bias.data.fill_(-50.0)
        tracker = OnlineTracker(segmenter)
        tracker.add("a", embedding(0))
        seen = [tracker.step(image)["a"] for image in features(segmenter)[:3]]
    finally:
        bias.data.copy_(old)
    assert all(float(one.logits.max()) == -1024.0 for one in seen)


# Files.


def stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nano `sam3.pt` in the published layout: the tracker, and a detector with the image encoder."""
    own = NANO_SEGMENTERS["sam3"]
    assert isinstance(own, Sam3Config)
    config = replace(own, half_normalisation=True, rounded_normalisation=False)
    monkeypatch.setitem(sam2_files.SAM3_SIZES, "nano", config)
    state = {OURS + name: tensor for name, tensor in weights().sam2_model.state_dict().items()}
    official = Names.of_segmenter(config).official(state)
    tensors: dict[str, Tensor] = {}
    for name, tensor in official.items():
        plain = name.removeprefix(MODULES).replace(".g_weight", ".gamma")
        half = "detector." if plain.startswith("backbone.") else "tracker."
        tensors[half + plain] = tensor
    vision = "detector.backbone.vision_backbone."
    tensors |= {
        "detector.transformer.decoder.norm.weight": torch.ones(4),
        f"{vision}convs.0.conv_1x1.bias": torch.ones(4),
        f"{vision}sam2_convs.3.conv_1x1.bias": torch.ones(4),
        f"{vision}trunk.blocks.0.attn.freqs_cis": torch.ones(4, 4, dtype=torch.complex64),
    }
    torch.save(tensors, tmp_path / "sam3.pt")
    return tmp_path / "sam3.pt"


def test_the_published_file_gives_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_stock(stock(tmp_path, monkeypatch))
    ours, theirs = loaded.sam2_model.state_dict(), weights().sam2_model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert loaded.config.object_score_gate
    assert not same_encoder(loaded, weights()), "it sees other pixels"
    white = np.full((4, 4, 3), 255, np.uint8)
    assert float(sam_pixels(white, loaded.config).min()) == 1.0


def test_it_follows_what_another_model_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = stock(tmp_path, monkeypatch)
    model = nano_model(seed=1)
    model.sam2.sam2_model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(20.0)
    config = PropagationConfig(kind="handover", stock=str(file), profile="float32")
    vision = Vision(model, config)
    live = LiveTracker(model, LiveConfig(propagation=config), vision=vision)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    live.prompt(box=(10, 10, 40, 40))
    results = [live.process(Frame(image, 0.1 * t, t)) for t in range(3)]
    live.close()
    assert isinstance(vision.follower.config, Sam3Config)
    assert len(results[-1].tracks) == 1


def test_a_file_of_another_size_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = stock(tmp_path, monkeypatch)
    monkeypatch.delitem(sam2_files.SAM3_SIZES, "nano")
    with pytest.raises(InputError, match=r"3 blocks of width .16.; expected SAM 3's 32 blocks"):
        load_stock(file)
    assert stock_config("sam3").image_size == 1008
    with pytest.raises(InputError, match=r"sam3_config\.image_size is 512; .* multiple of 14"):
        stock_config("sam3", image_size=512)
