# SPDX-License-Identifier: Apache-2.0
"""One stage of a comparison with recorded answers: a difference and how large it may be."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

TOLERANCE = 1e-4
"""Of logits, states and embeddings in float32, absolute."""


@dataclass(frozen=True)
class GoldenStage:
    """The largest absolute difference of one stage; whole numbers must be equal."""

    name: str
    largest_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """NaN does not pass."""
        return self.largest_difference <= self.tolerance


def within(name: str, ours: Tensor, gold: Tensor, tolerance: float = TOLERANCE) -> GoldenStage:
    """Compare real numbers by their largest difference."""
    if ours.shape != gold.shape:
        shapes = f"shape {list(ours.shape)}, recorded {list(gold.shape)}"
        return GoldenStage(f"{name} ({shapes})", float("inf"), tolerance)
    return GoldenStage(name, largest(ours, gold), tolerance)


def equal(name: str, ours: Tensor, gold: Tensor) -> GoldenStage:
    """Count the elements that differ; none may."""
    if ours.shape != gold.shape:
        return GoldenStage(name, float("inf"), 0.0)
    return GoldenStage(name, float((ours.cpu() != gold).sum()), 0.0)


def largest(ours: Tensor, gold: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape."""
    if not ours.numel():
        return 0.0
    return float((ours.double().cpu() - gold.double().cpu()).abs().max())
