# SPDX-License-Identifier: Apache-2.0
"""Tells the weights that graphs were made of from all others."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


@torch.no_grad()
def fingerprint_of(module: nn.Module) -> str:
    """Of names, shapes and values, which are compared in bfloat16."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{name}{list(values.shape)}".encode())
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]
