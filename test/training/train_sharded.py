# SPDX-License-Identifier: Apache-2.0
"""One of two processes that share a sharded nano model (FSDP2 over gloo) and have unlike batches; started by a test."""

from __future__ import annotations

import torch
import torch.distributed as dist
from batches.test_batches import batch_of, chat, learner_of, pointed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sa2va_model.testing import nano_model
from sa2va_training.objectives.objectives import Totals


def main() -> None:
    """Gradients of text on one process and masks on the other are those of one process with both."""
    torch.set_num_threads(1)
    totals, samples = Totals(20, 3, 3), (chat(), pointed(1))
    alone = nano_model()
    whole = learner_of(alone)
    for sample in samples:
        whole(batch_of(alone, [sample]), totals)["loss"].backward()
    wanted = {n: p.grad for n, p in whole.named_parameters() if p.grad is not None}
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    model = nano_model()
    learner = learner_of(model)
    batch = batch_of(model, [samples[dist.get_rank()]])
    for layer in model.mllm.language_model.base_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(learner, mesh=mesh)
    (learner(batch, totals)["loss"] * 2).backward()  # the mean over two processes
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            found = parameter.grad.full_tensor()
            assert torch.allclose(found, wanted[name], atol=1e-4), name
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
