# SPDX-License-Identifier: Apache-2.0
"""The filter that a GPU computes is PIL's, to a count of 255."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sa2va_model.io import preprocessing as subject
from sa2va_model.testing import nano_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [(64, 64), (256, 300), (90, 50), (90, 140)])
def test_resizing_by_tensors_is_resizing_by_pil(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)
    [by_pil], [by_tensors] = (
        resize(image, [size], CPU) for resize in (subject.resize_by_pil, subject.resize_on_device)
    )
    off = (by_pil - by_tensors).abs()
    assert by_tensors.shape == (3, *size)
    assert float(off.max()) <= 1
    assert float((off > 0).float().mean()) < 0.001


def test_both_views_come_from_the_same_resizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: tiles and square within a count of what PIL gives, in normalised units."""
    image = np.random.default_rng(1).integers(0, 256, (200, 420, 3), np.uint8)
    config = nano_model().config
    tiling = config.mllm.tiling
    views = [subject.tiles(image, tiling), subject.sam_pixels(image, config.sam2)]
    monkeypatch.setitem(subject.RESIZERS, "cpu", subject.resize_on_device)
    others = [subject.tiles(image, tiling), subject.sam_pixels(image, config.sam2)]
    for view, other in zip(views, others, strict=True):
        assert view.shape == other.shape
        assert other.is_contiguous()
        assert float((view - other).abs().max()) <= 1.01 / 255 / min(subject.STD)
