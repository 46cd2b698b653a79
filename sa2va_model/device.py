# SPDX-License-Identifier: Apache-2.0
"""What a kind of device is good at, and how it is waited for: the one place that asks for its type.

Code that computes in two ways takes a `DeviceTraits`, so that a test on a CPU can run either of them.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

CAPTURE = threading.RLock()
"""Held while a CUDA graph is captured: PyTorch allows one capture in a process at a time, and nobody may
wait for the whole device or give memory back meanwhile."""


@dataclass(frozen=True)
class DeviceTraits:
    """How to compute on one kind of device.

    Attributes:
        batched: objects are stepped as one batch; else one after the other, which is what recorded answers rest on.
        reads_back: reading a value waits for nothing, so that work may depend on it.
        packed_products: oneDNN's packed matrix products are tried, where they are the quickest.
        records: a stage's operators are recorded, and run without Python between them.
        layouts: kernels differ by how tensors lie: small ones are laid out for each as it likes them best.
        fused_attention: PyTorch's fused attention is quick in every type, and takes a mask.
        captures: hundreds of launches can be captured as one graph.
        encodes_ahead: the next image of a stream is encoded on another thread while objects are followed on this one.
        half: type of the language half where none is asked for.
    """

    batched: bool = True
    reads_back: bool = False
    packed_products: bool = False
    records: bool = False
    layouts: bool = False
    fused_attention: bool = True
    captures: bool = False
    encodes_ahead: bool = False
    half: torch.dtype = torch.float32


CPU = DeviceTraits(
    batched=False,
    reads_back=True,
    packed_products=True,
    records=True,
    layouts=True,
    fused_attention=False,
    encodes_ahead=True,
)
CUDA = DeviceTraits(captures=True, half=torch.bfloat16)
TRAITS = {"cpu": CPU, "cuda": CUDA}
OTHER = DeviceTraits()


def traits_of(device: torch.device) -> DeviceTraits:
    """What `device` is good at."""
    return TRAITS.get(device.type, OTHER)


def has_bfloat16_units(device: torch.device) -> bool:
    """`device` multiplies bfloat16 in hardware, and is quicker with it than with float32.

    CUDA from compute capability 8 on; CPUs with AVX512-BF16 or AMX, but for those that take twice as long (log.md).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in probes) and _pays_on_cpu()


@cache
def _pays_on_cpu() -> bool:
    """A product takes less time in bfloat16 than in float32: the best of a few, 20 ms in all."""

    def seconds(dtype: torch.dtype) -> float:
        factor = torch.ones(512, 512, dtype=dtype, device="cpu")
        times = []
        for _ in range(6):  # the first prepares
            begin = time.perf_counter()
            torch.mm(factor, factor)
            times.append(time.perf_counter() - begin)
        return min(times)

    return seconds(torch.bfloat16) < seconds(torch.float32)


def prepare(device: torch.device) -> torch.device:
    """Settles what holds for the whole process before a model is put on `device`; returns it.

    cuDNN's attention is not asked: it plans every new shape anew, for 25 to 400 ms, and the lengths of prompts differ.
    """
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def require_float32(device: torch.device) -> None:
    """Has float32 mean float32 on `device` from now on: cuDNN's convolutions use TF32 unless told otherwise."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Work in this context waits for nothing that others launch on `device`, but for what was launched before."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))  # which loaded the weights
    with torch.cuda.stream(stream):
        yield


class Turns:
    """Has threads take turns at something on a device, each with streams of its own.

    What a turn launches begins after what the turn before launched, so that tensors may be shared and freed in turns.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._last: Any = None

    @contextmanager
    def take(self, device: torch.device) -> Iterator[None]:
        """One turn."""
        with self._lock:
            if device.type != "cuda":
                yield
                return
            with torch.cuda.device(device):
                self._last = self._last or torch.cuda.Event()
                torch.cuda.current_stream().wait_event(self._last)
                try:
                    yield
                finally:
                    self._last.record()


def hand_over(tensor: Tensor) -> Tensor:
    """`tensor`, which this thread's stream made, for use on the device's default stream; its memory waits for that."""
    if tensor.device.type == "cuda":
        tensor.record_stream(torch.cuda.default_stream(tensor.device))
    return tensor


def read_back(*tensors: Tensor) -> list[np.ndarray]:
    """Tensors of one device as arrays, whatever their shapes and types: the host waits once, not for each of them."""
    if not tensors or tensors[0].device.type == "cpu":
        return [tensor.numpy() for tensor in tensors]
    parts = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]
    together = torch.cat(parts).cpu()
    pieces = together.split([len(part) for part in parts])
    return [
        piece.clone().view(tensor.dtype).view(tensor.shape).numpy()
        for piece, tensor in zip(pieces, tensors, strict=True)
    ]


def finish(device: torch.device) -> None:
    """Waits for what this thread launched."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def synchronize(device: torch.device) -> None:
    """Waits for everything that was launched on `device`; never call it while a graph may be captured."""
    if device.type == "cuda":
        with CAPTURE:
            torch.cuda.synchronize(device)


def free_unused() -> None:
    """Gives memory that no tensor uses back to all devices."""
    if torch.cuda.is_initialized():
        with CAPTURE:
            torch.cuda.empty_cache()


def held_bytes(device: torch.device) -> int | None:
    """Memory that tensors hold on `device` now; None where that is the host's."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def most_bytes(device: torch.device) -> int | None:
    """The most memory that tensors held on `device` so far; None where that is the host's."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
