# SPDX-License-Identifier: Apache-2.0
"""Several processes with one model: each takes its own pictures, gradients are averaged at every step.

On two cores two processes are nearly twice as fast as two threads, because the operations of a small model are too
short to be split. Averaged by hand and not by DDP: a stage enters the learner by many doors, not by `forward` alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn


def average(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes; a part that one of them did not use counts as zero there."""
    if accelerator.num_processes == 1:
        return
    flat = accelerator.reduce(torch.cat([_gradient(p).flatten() for p in parameters]), "mean")
    assert isinstance(flat, Tensor)
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def agree(accelerator: Accelerator, value: float) -> float:
    """The main process' value, so that all follow one clock."""
    return float(broadcast(torch.tensor([value], dtype=torch.float64, device=accelerator.device)))
