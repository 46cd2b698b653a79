# SPDX-License-Identifier: Apache-2.0
"""This process among those that train one model: alone or several, as it was launched.

torchrun --nproc-per-node 2 $(which sa2va) train finetune.yaml
accelerate launch …     plain, DDP, FSDP2 or DeepSpeed
"""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from sa2va_model.errors import InputError
from sa2va_training.run.precision import decided
from sa2va_training.run.settings import Settings


def make_accelerator(settings: Settings) -> Accelerator:
    """The accelerator that the launcher's environment and the settings ask for.

    Raises:
        InputError: several processes were asked for and this one is alone.
    """
    cpu = settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available())
    precision = decided(settings.precision, torch.device("cpu" if cpu else "cuda"))
    return join(cpu=cpu, precision=precision, accumulate=settings.batches.accumulate)


def join(*, cpu: bool, precision: str = "fp32", accumulate: int = 1) -> Accelerator:
    """Meet the other processes of this launch.

    Args:
        precision: "bf16" or "fp32".
        accumulate: forward passes of a step.

    Raises:
        InputError: several processes were asked for and this one is alone.
    """
    # A process may train more than once and in another precision, which accelerate takes for a mistake.
    AcceleratorState._reset_state()
    # Frozen parts have buffers that never change, and all trained parts take part in every pass.
    kwargs = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=False)
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if precision == "bf16" else "no",
        gradient_accumulation_steps=accumulate,
        kwargs_handlers=[kwargs],
        step_scheduler_with_optimizer=False,
    )
    # `accelerate launch` names a meeting place only for several processes, and on CPUs starts one all the same.
    launched = {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys()
    if launched and accelerator.num_processes == 1:
        raise InputError(
            "accelerate launch asked for several processes and started one (on CPUs it needs MPI); "
            "expected torchrun --nproc-per-node N $(which sa2va) train …"
        )
    return accelerator
