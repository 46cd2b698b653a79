# SPDX-License-Identifier: Apache-2.0
"""Several processes that train one model: each takes its own pictures, gradients are averaged at every step.

On two cores this is nearly twice as fast as two threads, because the operations of a small model are too short to
be split.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from sa2va_training.run.allocator import keep_memory
from sa2va_training.tiny.settings import StageSettings


@dataclass(frozen=True)
class Team:
    """This process among its peers."""

    rank: int
    size: int

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces gradients by their mean over the team; a part that one member did not use counts as zero there."""
        if self.size == 1:
            return
        flat = torch.cat([_gradient(p).flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for parameter in parameters:
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def agree(self, value: float) -> float:
        """The first member's value, so that all follow one clock."""
        if self.size == 1:
            return value
        shared: Tensor = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def work(settings: StageSettings) -> None:
    """Runs a stage with as many processes as it asks for."""
    if settings.workers == 1:
        _member(0, settings, 0)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    mp.spawn(_member, args=(settings, port), nprocs=settings.workers)


def _member(rank: int, settings: StageSettings, port: int) -> None:
    from sa2va_training.tiny.learner import TinyLearner
    from sa2va_training.tiny.loop import StageRun

    keep_memory()
    cv2.setNumThreads(1)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    if settings.workers > 1:
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
        dist.init_process_group("gloo", rank=rank, world_size=settings.workers)
    # Whatever the stages make on the way (masks, positions, targets) is made where the weights are.
    with torch.device(settings.device):
        StageRun(settings, TinyLearner(), team=Team(rank, settings.workers)).train()
    if settings.workers > 1:
        dist.barrier()
        dist.destroy_process_group()
