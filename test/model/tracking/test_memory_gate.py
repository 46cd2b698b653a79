# SPDX-License-Identifier: Apache-2.0
"""Evidence, existence, motion prior and distractor memory, each against a small world where the answer is known."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sa2va_model.checkpoints.calibration import Calibration, EvidenceWeights
from sa2va_model.errors import InputError
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import ImageFeatures, Prompt
from sa2va_model.testing import nano_model
from sa2va_model.tracking.config import GateConfig
from sa2va_model.tracking.judgement.distractors import DistractorRule
from sa2va_model.tracking.judgement.evidence import area_change, look
from sa2va_model.tracking.judgement.existence_filter import ExistenceFilter
from sa2va_model.tracking.judgement.memory_gate import MemoryGate
from sa2va_model.tracking.judgement.motion import (
    STABLE,
    BoxFilter,
    CameraMotion,
    box_overlaps,
    boxes,
)

CPU = torch.device("cpu")


def square(x: int, y: int, side: int, size: int = 48) -> torch.Tensor:
    """Logits [1, 1, size, size] of a square."""
    logits = torch.full((1, 1, size, size), -5.0)
    logits[..., y : y + side, x : x + side] = 5.0
    return logits


# --- existence ----------------------------------------------------------------------------------------


def test_one_denial_does_not_outweigh_what_is_seen() -> None:
    existence = ExistenceFilter(2.5, weight=0.3)
    for _ in range(20):
        existence.observe(3.0, 0.1)
    existence.update(-2.5)
    assert existence.log_odds > 0
    existence.observe(3.0, 0.1)
    existence.update(-2.5)
    assert existence.log_odds > -1.5


def test_denials_win_where_the_mask_is_doubtful_too() -> None:
    existence = ExistenceFilter(2.5, weight=0.3)
    for _ in range(3):
        existence.update(-2.5)
        for _ in range(3):
            existence.observe(0.0, 0.1)
    assert existence.log_odds < 0


def test_existence_never_becomes_certain_and_forgets() -> None:
    existence = ExistenceFilter(0.0, weight=0.5)
    for _ in range(1000):
        existence.observe(4.0, 0.1)
    assert existence.log_odds < 7.0
    existence.observe(math.nan, 600.0)
    assert abs(existence.log_odds) < 0.1, "after ten minutes without news nothing is known"


def test_nothing_known_and_nothing_there_differ() -> None:
    unknown, empty = ExistenceFilter(2.0, 0.3), ExistenceFilter(2.0, 0.3)
    unknown.observe(math.nan, 0.1)
    empty.observe(-math.inf, 0.1)
    assert unknown.log_odds > 1.8
    assert empty.log_odds < 1.0


# --- motion ----------------------------------------------------------------------------------------


def test_boxes_of_masks() -> None:
    logits = torch.cat([square(12, 24, 6), torch.full((1, 1, 48, 48), -1.0)])
    expected = torch.tensor([[12, 24, 18, 30], [0, 0, 0, 0]]) / 48
    assert torch.allclose(boxes(logits), expected)
    assert torch.allclose(
        box_overlaps(boxes(logits)[0], boxes(square(15, 24, 6))[0]), torch.tensor(1 / 3)
    )


def test_the_filter_expects_a_moving_box_where_it_will_be() -> None:
    motion, rows = BoxFilter(2, CPU), torch.tensor([0, 1])
    seen = torch.ones(2, dtype=torch.bool)
    for t in range(STABLE + 5):
        expected = motion.predict(rows)
        moving = torch.tensor([0.1 + 0.01 * t, 0.2, 0.2 + 0.01 * t, 0.4])
        box = torch.stack([moving, torch.tensor([0.5, 0.5, 0.6, 0.6])])
        if t > STABLE:
            assert bool(motion.ready(rows).all())
            assert float(box_overlaps(expected, box).min()) > 0.9
        motion.update(rows, box, seen)
    motion.forget(0)
    assert motion.ready(rows).tolist() == [False, True]


def test_unseen_frames_move_the_filter_on_but_teach_it_nothing() -> None:
    motion, row = BoxFilter(1, CPU), torch.tensor([0])
    for t in range(STABLE + 3):
        motion.predict(row)
        box = torch.tensor([[0.1 + 0.01 * t, 0.2, 0.2 + 0.01 * t, 0.4]])
        motion.update(row, box, torch.tensor([True]))
    for _ in range(5):
        expected = motion.predict(row)
        motion.update(row, torch.tensor([[0.9, 0.9, 1.0, 1.0]]), torch.tensor([False]))
    assert abs(float(expected[0, 0]) - (0.1 + 0.01 * (STABLE + 7))) < 0.01
    assert not bool(motion.ready(row))


def test_the_camera_moves_or_only_an_object_does() -> None:
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (200, 320, 3)).astype(np.uint8), (0, 0), 2)
    wide = cv2.normalize(wide, None, 0, 255, cv2.NORM_MINMAX)
    still, pan = CameraMotion(), CameraMotion()
    told_still, told_pan = [], []
    for t in range(12):
        image = wide[20:140, 20:180].copy()
        image[40:70, 5 * t : 5 * t + 30] = (200, 30, 30)
        told_still.append(still.update(image))
        told_pan.append(pan.update(np.ascontiguousarray(wide[20:140, 20 + 3 * t : 180 + 3 * t])))
    assert not any(told_still)
    assert all(told_pan[1:])


# --- distractors -----------------------------------------------------------------------------------


def run_rule(
    rival: torch.Tensor, *, sure: float = 2.0, frames: int = 30, side: int = 8
) -> list[int]:
    """Frames on which a distractor is resolved."""
    rule, row = DistractorRule(1, CPU, sure=1.0), torch.tensor([0])
    out = []
    for t in range(frames):
        own = square(10, 10, side if t < 20 else side * 2)
        chosen = rule(row, own, rival, torch.tensor([sure]), torch.tensor([True]))
        out += [t] if bool(chosen) else []
    return out


def test_a_rival_elsewhere_is_remembered_now_and_then() -> None:
    told = run_rule(square(30, 30, 8), frames=20)
    assert told
    assert min(np.diff(told)) > 5


def test_no_rival_no_sureness_or_another_size_is_no_distractor() -> None:
    assert run_rule(square(10, 10, 8), frames=20) == []
    assert run_rule(square(30, 30, 8), sure=0.0, frames=20) == []
    assert not [t for t in run_rule(square(30, 30, 8)) if 20 <= t < 25], (
        "twice as large is suspicious"
    )


# --- signs and policy ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segmenter() -> Sam2:
    return nano_model(seed=1).sam2


def painted(segmenter: Sam2, *places: tuple[int, int, float]) -> ImageFeatures:
    """Features of an image with bright squares: x, y in eighths, and brightness."""
    pixels = torch.zeros(1, 3, 64, 64)
    for x, y, value in places:
        pixels[..., 8 * y : 8 * y + 16, 8 * x : 8 * x + 16] = value
    with torch.inference_mode():
        return segmenter.encode_image(pixels)


def test_a_look_tells_things_apart(segmenter: Sam2) -> None:
    side = segmenter.config.mask_size
    cell = side // 8
    shown = painted(segmenter, (1, 1, 3.0), (5, 5, -3.0))
    one, other = (square(k * cell, k * cell, 2 * cell, side) for k in (1, 5))
    moved = painted(segmenter, (4, 1, 3.0), (5, 5, -3.0))
    again = square(4 * cell, cell, 2 * cell, side)
    own = look(shown, one)[0]
    assert float(own @ own) == pytest.approx(1.0, abs=1e-4)
    assert float(own @ look(moved, again)[0]) > float(own @ look(shown, other)[0]) + 0.2


def test_a_change_of_area_counts_both_ways() -> None:
    own = torch.tensor([0.02, 0.02, 0.02])
    change = area_change(torch.tensor([0.02, 0.04, 0.01]), own, 2304)
    assert float(change[0]) == 0
    assert float(change[1]) == pytest.approx(float(change[2]), rel=0.1)


def test_only_evidence_is_remembered(segmenter: Sam2) -> None:
    """With evidence that is never enough the memory stays that of the prompt; without the gate it does not."""
    scenes = [painted(segmenter, (1 + t % 3, 2, 2.0)) for t in range(8)]

    def run(admit: float, config: GateConfig) -> torch.Tensor:
        trust = MemoryGate(segmenter, 2, Calibration(admit=admit), config)
        tracker = OnlineTracker(segmenter, TrackerConfig(max_objects=2), trust)
        tracker.add("a", Prompt.box(0.1, 0.2, 0.5, 0.6))
        for scene in scenes[:-1]:
            tracker.step(scene)
        return tracker.step(scenes[-1])["a"].logits

    shut, alone = run(99.0, GateConfig(gate=True)), OnlineTracker(segmenter)
    alone.add("a", Prompt.box(0.1, 0.2, 0.5, 0.6))
    alone.step(scenes[0])
    assert torch.allclose(shut, alone.step(scenes[-1])["a"].logits, atol=1e-4)
    assert not torch.allclose(shut, run(-99.0, GateConfig(gate=True)), atol=1e-2)


def test_objects_in_one_batch_keep_their_own_evidence(segmenter: Sam2) -> None:
    """Rows do not mix: with others beside it, an object has the evidence that it has alone."""
    prompts = {"a": Prompt.box(0.1, 0.2, 0.5, 0.6), "b": Prompt.box(0.5, 0.5, 0.9, 0.9)}
    config = GateConfig(gate=True, distractors=True, motion=True)

    def run(names: list[str]) -> dict[str, float]:
        trust = MemoryGate(segmenter, 4, Calibration(), config)
        settings = TrackerConfig(max_objects=4, distractor_slots=2)
        tracker = OnlineTracker(segmenter, settings, trust)
        for name in names:
            tracker.add(name, prompts[name])
        for t in range(6):
            tracker.step(painted(segmenter, (1 + t % 2, 2, 2.0), (5, 5, -2.0)))
        return {name: float(trust.evidence[tracker.row(name)]) for name in names}

    both = run(["a", "b"])
    for name in ("a", "b"):
        assert both[name] == pytest.approx(run([name])[name], abs=0.05)


# --- calibration -----------------------------------------------------------------------------------


def weigh_down(folder: Path, value: float) -> None:
    """Weights whose last number is `value`."""
    tensor = torch.zeros(1 << 18)
    tensor[-1] = value
    save_file({"weight": tensor}, folder / "model.safetensors")


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    weigh_down(tmp_path, 0.0)
    values = Calibration(memory=EvidenceWeights(1.0, 2.0, 3.0, -4.0, 0.5), regain=3.25)
    values.write(tmp_path, {"clips": 3})
    assert Calibration.read(tmp_path) == values
    assert Calibration.read(tmp_path / "elsewhere") == Calibration()
    assert Calibration.of(asdict(values)) == values


def test_a_calibration_is_not_used_for_other_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weigh_down(tmp_path, 0.0)
    values = Calibration(regain=3.25)
    values.write(tmp_path, {})
    assert Calibration.read(tmp_path) == values
    weigh_down(tmp_path, 1.0)
    assert Calibration.read(tmp_path) == Calibration()
    assert "made for other weights" in caplog.text


@pytest.mark.parametrize(
    "text", ["{}", "not json", '{"values": {"regian": 1}}', '{"values": {"memory": {"x": 1}}}']
)
def test_a_spoilt_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(
        InputError, match=r"expected what benchmarks/hard_set/calibrate\.py writes|not valid JSON"
    ):
        Calibration.read(tmp_path)
