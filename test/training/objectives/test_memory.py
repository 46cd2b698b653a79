# SPDX-License-Identifier: Apache-2.0
"""Training of SAM-2's memory: unrolled as the run time tracks, and only where something is to be learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sa2va_model.io import preprocessing as images
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import nano_model
from sa2va_training.batches.asking import Asker
from sa2va_training.batches.batch import Batch
from sa2va_training.batches.collate import Collator
from sa2va_training.data.masks import ArrayMask, EmptyMask
from sa2va_training.data.pictures import ArrayPicture
from sa2va_training.data.sample import ObjectMasks, Referring, Sample
from sa2va_training.objectives.clip_memory import ClipMemory
from sa2va_training.objectives.learner import take
from sa2va_training.objectives.memory import MemoryLearner
from sa2va_training.objectives.objectives import Totals
from sa2va_training.run.settings import DataSettings, LossSettings, PartSettings
from sa2va_training.run.trainables import prepare

FRAMES = 4


def clip(*, hidden_at: int = -1) -> Sample:
    """Two squares that move; the second may be hidden on one frame."""
    rng = np.random.default_rng(0)
    pictures, one, two = [], [], []
    for t in range(FRAMES):
        rgb = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        masks = []
        for x, y, colour in ((4 + 6 * t, 10, (250, 30, 30)), (44 - 6 * t, 38, (30, 30, 250))):
            mask = np.zeros((64, 64), bool)
            mask[y : y + 16, x : x + 16] = True
            rgb[mask] = colour
            masks.append(mask)
        pictures.append(ArrayPicture(rgb, f"frame {t}"))
        one.append(ArrayMask(masks[0]))
        two.append(EmptyMask() if t == hidden_at else ArrayMask(masks[1]))
    referrings = tuple(
        Referring(text, ObjectMasks(tuple(masks), text), "attribute", text)
        for text, masks in (("red", one), ("blue", two))
    )
    return Sample("made", "made: 1", "1", tuple(pictures), clip=True, referrings=referrings)


def batch_of(model: Sa2VA, sample: Sample, seed: int = 0) -> Batch:
    settings = DataSettings(augment="none", frames=FRAMES, stride=1)
    asker = Asker(model.config, settings, 0, scored=False, window=True)
    return Collator(model.mllm)([asker(sample, np.random.default_rng(seed))], [seed])


def learner_of(model: Sa2VA) -> MemoryLearner:
    settings = PartSettings(mode="memory")
    prepare(model, settings)
    return MemoryLearner(model, settings, LossSettings())


@pytest.mark.parametrize("seed", range(4))
def test_every_kind_of_prompt_teaches_memory(seed: int) -> None:
    """Whatever is given on the first frame, gradients reach what tracks, and nothing that is frozen."""
    model = nano_model()
    learner = learner_of(model)
    out = learner(batch_of(model, clip(hidden_at=2), seed), Totals(1, 8, 8))
    out["loss"].backward()
    taught = {n for n, p in learner.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("memory_attention", "memory_encoder", "maskmem_tpos_enc", "obj_ptr_proj"):
        assert any(part in name for name in taught), part
    assert not any("language_model" in name or "image_encoder" in name for name in taught)


def test_memory_is_taught_in_bfloat16_as_well() -> None:
    model = nano_model()
    learner = learner_of(model)
    batch, totals = batch_of(model, clip(), 0), Totals(1, 8, 8)
    exact = learner(batch, totals)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rough = learner(batch, totals)["loss"]
    rough.backward()
    assert rough.dtype == torch.float32
    assert float(rough.detach()) == pytest.approx(float(exact.detach()), rel=0.05)
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_memory_attention_drops_what_it_is_told(share: float) -> None:
    model = nano_model()
    settings = PartSettings(mode="memory", memory_dropout=share)
    prepare(model, settings)
    learner = MemoryLearner(model, settings, LossSettings()).train()
    batch, totals = batch_of(model, clip(), 0), Totals(1, 8, 8)
    one, two = (float(learner(batch, totals)["loss"].detach()) for _ in range(2))
    assert (one == two) == (share == 0)


@torch.no_grad()
def test_unrolled_memory_is_what_the_tracker_remembers() -> None:
    """From the same mask, the same frames give the masks of `OnlineTracker` (which stores bfloat16)."""
    model = nano_model()
    sample = clip()
    frames = [picture.read() for picture in sample.frames]
    target = sample.referrings[0].target
    assert target is not None
    truth = torch.from_numpy(target.read(64, 64)[0])
    tracker = OnlineTracker(model.sam2)
    tracker.add("0", Prompt(mask=truth))
    tracked = [tracker.step(model.encode_image(frame))["0"].logits for frame in frames]
    segmenter = model.sam2
    memory = ClipMemory(segmenter, gated=False)
    found = []
    for t, frame in enumerate(frames):
        pixels = images.sam_pixels(frame, model.config.sam2)
        features = take(segmenter.encode_image(pixels), torch.zeros(1, dtype=torch.long))
        if t == 0:
            decoded = segmenter.adopt_mask(features, truth)
        else:
            values, positions, pointers = memory.tokens()
            conditioned = segmenter.attend(features, values, positions, pointers)
            decoded = segmenter.decode_tokens(
                features, conditioned, multimask=segmenter.config.multimask
            )
        memory.write(features, decoded, prompted=t == 0)
        found.append(decoded.logits)
    for one, other in zip(found, tracked, strict=True):
        both = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))
        assert float(both[0, 1]) > 0.999
        assert (one - other).abs().max() < 0.1 * (other.abs().max() + 1)


def test_what_the_first_frame_does_not_show_is_left_out() -> None:
    model = nano_model()
    learner = learner_of(model)
    batch = batch_of(model, clip(hidden_at=0), seed=2)
    first = int(batch.pairs[:, 1].min())
    shown = int(batch.seen[batch.pairs[:, 1] == first].sum())
    report = learner(batch, Totals(1, 8, 8))["report"]
    assert shown in (1, 2)  # the clip may be played backwards
    assert int(report[7]) <= shown * FRAMES
