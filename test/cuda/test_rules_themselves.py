# SPDX-License-Identifier: Apache-2.0
"""A fault of each kind, planted: the emulation must see it. `FAULTS` and the tests below are the list of kinds.

| kind | planted where | seen as |
|---|---|---|
| types mixed in a kernel | kernels; norm weights of the tracker | `bfloat16 and float32` |
| host beside device | kernels; a backward pass; a loss | `on cuda:0 and on cpu` |
| two devices | kernels | `on cuda:0 and cuda:1` |
| attention's layout | kernels | `an expanded query` |
| waiting in a capture | the tracker's memory attention | `waits for the device` |
| waiting on the way | a frame of the tracker | `waits` above the frame's budget |
| capture on another device | the turns of the tracker's graphs | masks that stay as they were |
| a graph that outlives its memory | the tracker's banks | `reads memory that nobody has`, other masks |
| an address used again | the key of the tracker's graphs | the same |
| two captures at once | graphs | refused |
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import stand_in
import torch
import torch.nn.functional as F
from emulated_cuda import Cuda
from graph_tape import Graph
from torch import Tensor

from sa2va_cli.bench.tracker_race import moving_squares, ours
from sa2va_model.segmentation.backends.fused import cuda_graphs, kernels
from sa2va_model.segmentation.backends.fused.bank_pool import BankPool
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.backends.fused.triton_kernels import cross_attention
from sa2va_model.segmentation.backends.profile import BFLOAT16, RuntimeProfile
from sa2va_model.segmentation.memory_bank import MemoryBank
from sa2va_model.testing import nano_model

GRAPHS = RuntimeProfile("float32", graphs=True)


def on_gpu(count: int = 3, index: int = 0) -> Tensor:
    return torch.ones(count, device=f"cuda:{index}")


class HostGradient(torch.autograd.Function):
    """A backward pass that takes a tensor from the host."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.full((3,), 2.0)


def backward_with_a_host_tensor() -> None:
    HostGradient.apply(on_gpu().requires_grad_()).sum().backward()


def expanded_query() -> Tensor:
    query = on_gpu(32).view(1, 1, 4, 8).expand(2, -1, -1, -1)
    key, value = (torch.ones(2, 1, 5, width, device="cuda") for width in (8, 4))
    return F.scaled_dot_product_attention(query, key, value)


FAULTS: list[tuple[str, Callable[[], Any], str]] = [
    ("host operand", lambda: on_gpu() + torch.ones(3), "on cuda:0 and on cpu"),
    ("host loss", lambda: torch.stack([on_gpu().sum(), torch.tensor(1.0)]), "on cuda:0 and on cpu"),
    ("host gradient", backward_with_a_host_tensor, "on cuda:0 and on cpu"),
    ("product of types", lambda: on_gpu()[None] @ on_gpu().bfloat16()[:, None], "bfloat16 and"),
    ("norm of types", lambda: F.layer_norm(on_gpu().bfloat16(), (3,), on_gpu()), "bfloat16 and"),
    ("two devices", lambda: on_gpu() + on_gpu(index=1), "on cuda:0 and cuda:1"),
    ("layout", expanded_query, "an expanded query"),
]


@pytest.mark.parametrize(("plant", "words"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
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
        assert on_gpu().to("cuda:1").device.index == 1
        with torch.cuda.device(1):
            assert torch.ones(3, device="cuda").device.index == 1
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert not gpu.faults
    assert sum(gpu.waits.values()) == 3


def test_two_captures_at_once_are_refused() -> None:
    first = Graph()
    first.capture_begin()
    with pytest.raises(AssertionError, match="a second capture"):
        Graph().capture_begin()
    first.capture_end()


def test_the_host_is_not_in_a_graph_and_a_kernel_is() -> None:
    with Cuda():
        given, graph, counted = on_gpu(), Graph(), torch.zeros(())
        graph.capture_begin()
        counted += 1
        doubled = given * 2
        graph.capture_end()
        given.fill_(4.0)
        graph.replay()
        assert doubled.tolist() == [8.0, 8.0, 8.0]
        assert counted == 1
        other, elsewhere = on_gpu(index=1), Graph()
        elsewhere.capture_begin()  # on cuda:0
        stale = other * 2
        elsewhere.capture_end()
        other.fill_(4.0)
        elsewhere.replay()
        assert stale.tolist() == [2.0, 2.0, 2.0]


def test_memory_that_nobody_has_any_more() -> None:
    with Cuda() as gpu:
        given, graph = on_gpu(), Graph()
        view = given[1:]
        graph.capture_begin()
        made = view * 2
        graph.capture_end()
        del given
        graph.replay()
        assert Graph.reads_freed == gpu._freed, "a view keeps its memory"
        del view
        graph.replay()
    assert made is not None
    assert "a graph reads memory that nobody has" in gpu.report()


def tracked(profile: RuntimeProfile, clips: int = 1, index: int = 0) -> tuple[Cuda, list[Tensor]]:
    frames, prompts = moving_squares(3 + clips, 64, 2)
    out = []
    with Cuda() as gpu:
        segmenter = FusedSam2(gpu.move(nano_model(seed=1).sam2, index), profile)
        for _ in range(clips):
            out.append(torch.cat([masks.cpu() for masks in ours(segmenter, frames, prompts)]))
    return gpu, out


@pytest.fixture(scope="module")
def right() -> list[Tensor]:
    """Masks of two clips without graphs."""
    return tracked(RuntimeProfile("float32"), 2)[1]


def test_float32_weights_of_a_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    def norm(self: kernels.Norm, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._shape, *self._affine[torch.float32], self._eps)

    monkeypatch.setattr(kernels.Norm, "__call__", norm)
    try:
        gpu, _ = tracked(BFLOAT16)
    except RuntimeError as refused:
        pytest.skip(f"the CPU refuses it, too: {refused}")
    assert "native_layer_norm: bfloat16 and float32" in gpu.report()


@pytest.mark.parametrize("graphs", [True, False])
def test_a_wait(monkeypatch: pytest.MonkeyPatch, graphs: bool) -> None:
    """In a capture it is a fault, elsewhere it is counted."""
    attend = cross_attention.cross_attention

    def counted(query: Tensor, key: Tensor, *rest: Any) -> Tensor:
        assert float(key.float().sum()) != 0.5  # read back
        return attend(query, key, *rest)

    where = "sa2va_model.segmentation.backends.fused.memory_attention.cross_attention"
    monkeypatch.setattr(where, counted)
    gpu, _ = tracked(RuntimeProfile("float32", graphs=graphs))
    seen = gpu.report() if graphs else str(gpu.waits)
    assert "_local_scalar_dense: waits for the device" in seen


@pytest.mark.parametrize("planted", [False, True])
def test_capture_on_another_device(
    monkeypatch: pytest.MonkeyPatch, right: list[Tensor], planted: bool
) -> None:
    """A model on `cuda:1` whose graphs are captured on `cuda:0` repeats what it saw first."""
    if planted:
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    assert stand_in.current_device() == 0
    gpu, [masks, _] = tracked(GRAPHS, 2, index=1)
    assert (float((masks - right[0]).abs().max()) > 1e-3) == planted
    assert planted or not gpu.faults, gpu.report()


@pytest.mark.parametrize("planted", [False, True])
def test_a_graph_that_outlives_its_memory(
    monkeypatch: pytest.MonkeyPatch, right: list[Tensor], planted: bool
) -> None:
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

    monkeypatch.setattr(BankPool, "lend", lend)
    if planted:
        monkeypatch.setattr(cuda_graphs.Graphs, "run", by_address)
    gpu, [_, second] = tracked(GRAPHS, 2)
    assert (float((second - right[1]).abs().max()) > 1e-3) == planted
    assert ("a graph reads memory that nobody has" in gpu.report()) == planted
    assert planted or not gpu.faults, gpu.report()
