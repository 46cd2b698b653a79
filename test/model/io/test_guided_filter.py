# SPDX-License-Identifier: Apache-2.0
"""Masks of cells follow the edges of the picture, and nothing else of it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from sa2va_model.checkpoints.presets import NANO_SEGMENTERS
from sa2va_model.errors import InputError
from sa2va_model.io.guided_filter import guided_masks
from sa2va_model.io.preprocessing import masks_on, masks_to_image

SIDE, HEIGHT, WIDTH = 64, 240, 330


def disc(x: float = 0.5, radius: float = 0.1) -> np.ndarray:
    """bool [HEIGHT, WIDTH]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - 0.5 * HEIGHT) ** 2 + (columns - x * WIDTH) ** 2 < (radius * WIDTH) ** 2


def picture(*discs: np.ndarray, noise: float = 4.0) -> np.ndarray:
    """Red discs on a brown table, with a camera's noise."""
    rgb = np.full((HEIGHT, WIDTH, 3), (120, 90, 60), np.float32)
    for one in discs:
        rgb[one] = (200, 40, 30)
    rgb += np.random.default_rng(0).normal(0, noise, rgb.shape)
    return rgb.clip(0, 255).astype(np.uint8)


def cells_of(mask: np.ndarray, blur: float = 1.0) -> np.ndarray:
    """Logits as a decoder draws them: by cells, and not sharp: [1, 64, 64]."""
    share = cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return 8 * (cv2.GaussianBlur(share, None, blur) - 0.5)[None]


def overlap(shown: np.ndarray, truth: np.ndarray) -> float:
    return float((shown & truth).sum() / (shown | truth).sum())


def bilinear(logits: np.ndarray) -> np.ndarray:
    return masks_to_image(torch.from_numpy(logits)[:, None], 256, HEIGHT, WIDTH).numpy() > 0


@pytest.mark.parametrize("radius", [0.04, 0.06, 0.2])
def test_a_mask_ends_where_the_thing_does(radius: float) -> None:
    truth = disc(radius=radius)
    drawn = cells_of(truth, blur=1.5)
    guided = guided_masks(drawn, picture(truth), 3)
    assert guided.shape == (1, HEIGHT, WIDTH)
    assert guided.dtype == bool
    assert overlap(guided[0], truth) > 0.95
    assert overlap(guided[0], truth) > overlap(bilinear(drawn)[0], truth) + 0.01


def test_where_a_picture_shows_nothing_masks_are_what_was_drawn() -> None:
    truth = disc()
    flat = np.full((HEIGHT, WIDTH, 3), 127, np.uint8)
    drawn = cells_of(truth)
    assert overlap(guided_masks(drawn, flat, 3)[0], bilinear(drawn)[0]) > 0.98


def test_a_twin_is_not_marked_for_its_colour() -> None:
    truth = disc(0.3)
    guided = guided_masks(cells_of(truth), picture(truth, disc(0.7)), 3)[0]
    assert not guided[:, WIDTH // 2 :].any()


def test_nothing_stays_nothing() -> None:
    guided = guided_masks(np.full((2, SIDE, SIDE), -9.0, np.float32), picture(disc()), 3)
    assert not guided.any()


def test_grain_of_the_things_colour_is_no_part_of_it() -> None:
    """Red dust beside a red thing, brown dust on it."""
    truth, rng = disc(), np.random.default_rng(1)
    rgb = picture(truth)
    beside, on = (
        np.flatnonzero(where)[rng.choice(where.sum(), 60)]
        for where in (disc(radius=0.13) & ~disc(radius=0.105), disc(radius=0.095))
    )
    rgb.reshape(-1, 3)[beside], rgb.reshape(-1, 3)[on] = (200, 40, 30), (120, 90, 60)
    mask = guided_masks(cells_of(truth), rgb, 3)[0]
    assert overlap(mask, truth) > 0.97
    for part in (mask, ~mask):
        assert cv2.connectedComponents(part.astype(np.uint8))[0] == 2


def test_many_masks_are_each_as_alone_and_all_of_a_picture_can_be_marked() -> None:
    rgb = picture(disc(0.3), disc(0.7))
    drawn = np.concatenate([cells_of(disc(0.3)), np.full((1, SIDE, SIDE), 5.0, np.float32)])
    together = guided_masks(drawn, rgb, 3)
    for one, logits in zip(drawn, together, strict=True):
        np.testing.assert_array_equal(guided_masks(one[None], rgb, 3)[0], logits)
    assert together[1].all()


def test_pictures_may_be_smaller_than_the_cells_or_a_cut_of_others() -> None:
    truth = disc()
    rgb = picture(truth)
    tiny = cv2.resize(rgb, (40, 30), interpolation=cv2.INTER_AREA)
    assert guided_masks(cells_of(truth), tiny, 3).shape == (1, 30, 40)
    wide = np.concatenate([rgb, rgb], 1)[:, :WIDTH]
    assert not wide.flags.c_contiguous
    np.testing.assert_array_equal(
        guided_masks(cells_of(truth), wide, 3), guided_masks(cells_of(truth), rgb, 3)
    )


def test_the_configuration_decides() -> None:
    truth, config = disc(), NANO_SEGMENTERS["sam2"]
    rgb, drawn = picture(truth), torch.from_numpy(cells_of(truth))[:, None]
    plain = masks_on(drawn, config, rgb)
    wanted = masks_to_image(drawn, config.image_size, HEIGHT, WIDTH).numpy() > 0
    np.testing.assert_array_equal(plain, wanted)
    guided = masks_on(drawn.bfloat16(), replace(config, guided_radius=3), rgb)
    expected = guided_masks(drawn[:, 0].bfloat16().float().numpy(), rgb, 3)
    np.testing.assert_array_equal(guided, expected)
    assert masks_on(drawn[:0], replace(config, guided_radius=3), rgb).shape == (0, HEIGHT, WIDTH)
    with pytest.raises(InputError, match=r"guided_radius is -1; expected 0 \(none\) or more"):
        replace(config, guided_radius=-1)
