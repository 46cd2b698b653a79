# SPDX-License-Identifier: Apache-2.0
"""Where and how large it is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sa2va_cli.bench.random_models import random_model
from sa2va_model.checkpoints.files.sam2_files import stock_config
from sa2va_model.device import prepare, synchronize
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.testing import nano_model, wake


@dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        small: nano sizes and few frames, to see that everything runs.
        clip: a folder of frames (.jpg) with a truth (.png of the same name) for some of them, or None.
    """

    device: torch.device
    small: bool = False
    clip: Path | None = None

    @property
    def side(self) -> int:
        """Of SAM-2's image, pixels."""
        return 64 if self.small else 1024

    def sam2(self, size: str, device: torch.device | None = None) -> Sam2:
        """A published SAM-2.1, or `sam3`, with random weights, the same wherever it is."""
        torch.manual_seed(0)
        third = size == "sam3"
        if self.small:
            return nano_model(segmenter="sam3" if third else "sam2").sam2.to(device or self.device)
        model = Sam2(stock_config(size, image_size=None if third else self.side)).eval()
        wake(model)
        return model.to(device or self.device)

    def sa2va(self, size: str) -> Sa2VA:
        """A published Sa2VA with random weights, computed in the fastest way."""
        prepare(self.device)
        kind = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        model = (
            nano_model().to(self.device) if self.small else random_model(size, self.device, kind)
        )
        model.use_profile("auto")
        return model

    def count(self, full: int, small: int = 2) -> int:
        """How often, or how many."""
        return small if self.small else full

    def pictures(self, count: int, height: int, width: int) -> list[np.ndarray]:
        """uint8 [H, W, 3] noise."""
        size = (height // 4, width // 4) if self.small else (height, width)
        random = np.random.default_rng(0)
        return [random.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]

    def milliseconds(self, work: Callable[[], object]) -> float:
        """Of one call, with all that it launched."""
        synchronize(self.device)
        begin = time.perf_counter()
        work()
        synchronize(self.device)
        return (time.perf_counter() - begin) * 1e3


def middle(values: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {
        "median": round(float(np.median(values)), 2),
        "p95": round(float(np.percentile(values, 95)), 2),
    }
