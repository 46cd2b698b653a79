# SPDX-License-Identifier: Apache-2.0
"""J and F against hand-made masks and against a second, slow implementation written from the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sa2va_training.metrics.jf import (
    Scores,
    boundary,
    boundary_accuracy,
    boundary_pixels,
    disk,
    frame_jf,
    region_similarity,
)


def slow_boundary(mask: np.ndarray) -> set[tuple[int, int]]:
    """Boundary pixels, one comparison at a time."""
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if y == height - 1:
                neighbours = [(y, x + 1)]
            elif x == width - 1:
                neighbours = [(y + 1, x)]
            inside = [(v, u) for v, u in neighbours if v < height and u < width]
            if any(mask[v, u] != mask[y, x] for v, u in inside):
                found.add((y, x))
    return found


def slow_f(prediction: np.ndarray, truth: np.ndarray) -> float:
    """F by distances between all pairs of boundary pixels: no dilation, no image operation."""
    ours, theirs = slow_boundary(prediction), slow_boundary(truth)
    if not ours and not theirs:
        return 1.0
    if not ours or not theirs:
        return 0.0
    limit = math.ceil(0.008 * math.sqrt(sum(side * side for side in truth.shape)))

    def matched(these: set[tuple[int, int]], those: set[tuple[int, int]]) -> float:
        near = [any((y - v) ** 2 + (x - u) ** 2 <= limit**2 for v, u in those) for y, x in these]
        return sum(near) / len(near)

    precision, recall = matched(ours, theirs), matched(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blob(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Some rectangles and a disk, partly on the image border."""
    height, width = shape
    mask = np.zeros(shape, bool)
    for _ in range(rng.integers(1, 4)):
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[y : y + rng.integers(1, height // 2), x : x + rng.integers(1, width // 2)] ^= True
    v, u = np.ogrid[:height, :width]
    cy, cx, r = rng.integers(0, height), rng.integers(0, width), rng.integers(2, height // 3)
    return mask | ((v - cy) ** 2 + (u - cx) ** 2 <= r * r)


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_slow_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(20, 70)), int(rng.integers(20, 260)))  # tolerance of 1 to 3 pixels
    truth = blob(rng, shape)
    moved = np.roll(truth, (int(rng.integers(0, 5)), int(rng.integers(0, 5))), (0, 1))
    for prediction in (moved, blob(rng, shape), truth):
        assert {tuple(p) for p in np.argwhere(boundary(prediction)).tolist()} == slow_boundary(
            prediction
        )
        assert boundary_accuracy(prediction, truth) == pytest.approx(
            slow_f(prediction, truth), abs=1e-12
        )
        both, either = (prediction & truth).sum(), (prediction | truth).sum()
        assert region_similarity(prediction, truth) == pytest.approx(both / either, abs=1e-12)


def test_known_values() -> None:
    truth = np.zeros((100, 100), bool)
    truth[20:60, 20:60] = True  # tolerance: ceil(0.008 * 141.4) = 2 pixels
    near, far = np.zeros_like(truth), np.zeros_like(truth)
    near[22:62, 20:60] = True  # two down: all of its boundary lies within two pixels
    far[20:60, 30:70] = True  # ten right
    assert frame_jf(truth, truth).j_and_f == 1.0
    assert region_similarity(near, truth) == pytest.approx(38 / 42)
    assert boundary_accuracy(near, truth) == 1.0
    assert region_similarity(far, truth) == pytest.approx(30 / 50)
    assert 0.3 < boundary_accuracy(far, truth) < 0.95


def test_empty_masks_score_as_davis_does() -> None:
    empty, full = np.zeros((30, 40), bool), np.ones((30, 40), bool)
    some = empty.copy()
    some[5:9, 5:9] = True
    assert (frame_jf(empty, empty).j, frame_jf(empty, empty).f) == (1.0, 1.0)
    assert (frame_jf(empty, some).j, frame_jf(empty, some).f) == (0.0, 0.0)
    assert (frame_jf(some, empty).j, frame_jf(some, empty).f) == (0.0, 0.0)
    # a mask that fills the image has no boundary: J is 0 against an empty one, F is 1
    assert (frame_jf(full, empty).j, frame_jf(full, empty).f) == (0.0, 1.0)


def test_tolerance_and_disk_are_those_of_the_definition() -> None:
    assert boundary_pixels((480, 854)) == 8
    assert boundary_pixels((720, 1280)) == 12
    assert boundary_pixels((720, 1280), 3) == 3
    assert int(disk(8).sum()) == 197  # scikit-image's disk; OpenCV's ellipse has 213
    assert disk(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


def test_void_pixels_do_not_count() -> None:
    truth, prediction, void = (np.zeros((40, 40), bool) for _ in range(3))
    truth[10:20, 10:20] = True
    prediction[10:20, 10:30] = True
    void[:, 20:] = True
    assert frame_jf(prediction, truth, void).j_and_f == 1.0
    assert frame_jf(prediction, truth).j == pytest.approx(0.5)


def test_scores_average_over_frames_and_sizes_must_agree() -> None:
    scores = Scores()
    assert math.isnan(scores.mean().j)
    mask = np.zeros((20, 20), bool)
    mask[4:9, 4:9] = True
    scores.add(mask, mask)
    scores.add(~mask & False, mask)
    assert len(scores) == 2
    assert scores.mean().j_and_f == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"\(20, 20\).*\(10, 20\)"):
        frame_jf(mask, mask[:10])
