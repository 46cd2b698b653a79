# SPDX-License-Identifier: Apache-2.0
"""A fault of each kind, planted: the emulation must see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from emulated_cuda import Cuda

from sa2va_cli.bench.tracker_race import moving_squares, ours
from sa2va_model.segmentation.backends.fused import cross_attention, cuda_graphs, kernels
from sa2va_model.segmentation.backends.fused.bank_pool import BankPool
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.backends.profile import BFLOAT16, RuntimeProfile
from sa2va_model.segmentation.memory_bank import MemoryBank
from sa2va_model.testing import nano_model


def on_gpu(count: int = 3) -> torch.Tensor:
    return torch.ones(count, device="cuda")


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lambda: on_gpu() + torch.ones(3), "tensors on cuda:0 and on cpu"),
        (lambda: torch.stack([on_gpu().sum(), torch.tensor(1.0)]), "tensors on cuda:0 and on cpu"),
        (lambda: on_gpu()[None] @ on_gpu().bfloat16()[:, None], "bfloat16 and float32"),
        (lambda: F.layer_norm(on_gpu().bfloat16(), (3,), on_gpu()), "bfloat16 and float32"),
        (
            lambda: F.scaled_dot_product_attention(
                on_gpu(32).view(1, 1, 4, 8).expand(2, -1, -1, -1),
                *(torch.ones(2, 1, 5, width, device="cuda") for width in (8, 4)),
            ),
            "an expanded query",
        ),
    ],
)
def test_kernels(plant: Callable[[], Any], words: str) -> None:
    with Cuda() as gpu:
        try:
            plant()
        except RuntimeError:  # some of it the CPU refuses as well
            assert gpu.faults
    assert words in gpu.report()


def test_what_is_allowed() -> None:
    with Cuda() as gpu:
        _ = on_gpu() + torch.tensor(2.0)
        assert bool(on_gpu().any())
        assert on_gpu().tolist() == [1.0, 1.0, 1.0]
        assert torch.tensor([on_gpu().sum(), 1.0]).tolist() == [3.0, 1.0]
    assert not gpu.faults
    assert sum(gpu.waits.values()) == 3


def tracked(profile: RuntimeProfile, clips: int = 1) -> tuple[Cuda, list[torch.Tensor]]:
    frames, prompts = moving_squares(5, 64, 2)
    out = []
    with Cuda() as gpu:
        segmenter = FusedSam2(gpu.move(nano_model(seed=1).sam2), profile)
        for _ in range(clips):
            out.append(torch.cat([masks.cpu() for masks in ours(segmenter, frames, prompts)]))
    return gpu, out


def test_float32_weights_of_a_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    def norm(self: kernels.Norm, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self._shape, *self._affine[torch.float32], self._eps)

    monkeypatch.setattr(kernels.Norm, "__call__", norm)
    try:
        gpu, _ = tracked(BFLOAT16)
    except RuntimeError as refused:
        pytest.skip(f"the CPU refuses it, too: {refused}")
    assert "native_layer_norm: bfloat16 and float32" in gpu.report()


def test_a_wait_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = cross_attention.cross_attention

    def counted(query: torch.Tensor, key: torch.Tensor, *rest: Any) -> torch.Tensor:
        assert float(key.float().sum()) != 0.5  # read back
        return attend(query, key, *rest)

    where = "sa2va_model.segmentation.backends.fused.memory_attention.cross_attention"
    monkeypatch.setattr(where, counted)
    gpu, _ = tracked(RuntimeProfile("float32", graphs=True))
    assert "_local_scalar_dense: waits for the device" in gpu.report()


def test_a_graph_that_outlives_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs known by an address: the second clip's memory is another one, at the same place."""

    def lend(self: BankPool, user: object, *size: int) -> MemoryBank:
        segmenter = self._segmenter()
        assert segmenter is not None
        return MemoryBank(segmenter, *size)

    run = cuda_graphs.Graphs.run

    def by_address(
        self: cuda_graphs.Graphs, key: Any, *args: Any, owner: Any = None, **rest: Any
    ) -> Any:
        return run(self, (key, 1234 if owner is not None else 0), *args, **rest)

    _, [right, _] = tracked(RuntimeProfile("float32"), 2)
    monkeypatch.setattr(BankPool, "lend", lend)
    _, [_, new] = tracked(RuntimeProfile("float32", graphs=True), 2)
    assert float((new - right).abs().max()) < 1e-3
    monkeypatch.setattr(cuda_graphs.Graphs, "run", by_address)
    _, [_, wrong] = tracked(RuntimeProfile("float32", graphs=True), 2)
    assert float((wrong - right).abs().max()) > 1e-3
