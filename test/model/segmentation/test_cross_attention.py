# SPDX-License-Identifier: Apache-2.0
"""Attention to memories of different length: PyTorch's path everywhere, the kernel where Triton and CUDA are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sa2va_model.segmentation.backends.fused.triton_kernels import cross_attention as subject
from sa2va_model.segmentation.backends.fused.triton_kernels.cross_attention import (
    Tiling,
    attend_masked,
    attend_triton,
    cross_attention,
    split_count,
)


def expected(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, bias: Tensor | None
) -> Tensor:
    """In float64, object by object, over the used tokens only."""
    rows = []
    for n in range(len(key)):
        used = torch.ones(key.shape[1], dtype=torch.bool)
        if lengths is not None:
            used[int(lengths[n]) :] = False
        if bias is not None:
            used[: bias.shape[1]] &= bias[n].cpu() > -torch.inf
        if not used.any():
            rows.append(torch.zeros(query.shape[1], value.shape[2], dtype=torch.float64))
            continue
        q, k, v = (x[n].cpu().double() for x in (query, key, value))
        scores = q @ k[used].T
        if bias is not None:
            row = torch.zeros(key.shape[1], dtype=torch.float64)
            row[: bias.shape[1]] = bias[n].cpu()
            scores += row[used]
        rows.append(scores.softmax(-1) @ v[used])
    return torch.stack(rows)


def inputs(
    count: int, rows: int, length: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries that all objects share, keys of 256 channels and values of 64."""
    generator = torch.Generator().manual_seed(length)
    query = torch.randn(1, rows, 256, generator=generator) / 4
    key, value = (torch.randn(count, length, wide, generator=generator) for wide in (256, 64))
    query, key, value = (x.to(device, dtype) for x in (query, key, value))
    return query.expand(count, -1, -1), key, value


def uses(length: int, device: str = "cpu") -> list[tuple[Tensor | None, Tensor | None]]:
    """Lengths and biases for four objects: all, some, one and no tokens; unused tokens before used ones."""
    lengths = torch.tensor([length, length // 2 + 3, 1, 0], dtype=torch.int32, device=device)
    bias = torch.randn(4, length, generator=torch.Generator().manual_seed(1)).to(device)
    bias[0, : length // 2] = -torch.inf
    bias[1] = -torch.inf
    first = bias[:, : length // 3 + 1]  # the first tokens only, as many for each object
    return [(None, None), (lengths, None), (None, bias), (lengths, bias), (lengths, first)]


def error(out: Tensor, want: Tensor) -> float:
    """Relative to the whole; NaN is no small number."""
    return float((out.cpu().double() - want).norm() / want.norm())


@pytest.mark.parametrize("case", range(5))
def test_reads_the_used_tokens_only(case: int) -> None:
    query, key, value = inputs(4, 30, 75)
    lengths, bias = uses(75)[case]
    out = cross_attention(query, key, value, lengths, bias)
    assert out.shape == (4, 30, 64)
    assert error(out, expected(query, key, value, lengths, bias)) < 1e-5


def test_order_of_tokens_does_not_matter() -> None:
    query, key, value = inputs(1, 20, 40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    one = cross_attention(query, key, value)
    assert error(cross_attention(query, key[:, order], value[:, order]), one.double()) < 1e-5


def test_what_lies_beyond_the_length_is_not_read() -> None:
    query, key, value = inputs(2, 10, 50)
    lengths = torch.tensor([20, 33], dtype=torch.int32)
    before = cross_attention(query, key, value, lengths)
    key[0, 20:], value[1, 33:] = 1e4, 1e4
    assert torch.equal(cross_attention(query, key, value, lengths), before)


@pytest.mark.parametrize(
    ("objects", "length", "splits"),
    [(1, 28736, 4), (2, 28736, 2), (4, 28736, 1), (16, 28736, 1), (1, 64, 1), (1, 1024, 2)],
)
def test_few_objects_are_split_until_the_gpu_is_full(
    objects: int, length: int, splits: int
) -> None:
    assert split_count(objects, 4096, length, 132, Tiling(queries=128, keys=64)) == splits


@pytest.mark.skipif(
    subject.triton is None or not torch.cuda.is_available(), reason="needs Triton and a CUDA GPU"
)
@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("splits", [0, 1, 3])
def test_kernel_equals_the_reference(case: int, splits: int) -> None:
    query, key, value = inputs(4, 300, 1000, "cuda", torch.bfloat16)
    lengths, bias = uses(1000, "cuda")[case]
    out = attend_triton(query, key, value, lengths, bias, Tiling(splits=splits))
    want = expected(query, key, value, lengths, bias)
    assert error(out, want) < 1e-2
    assert error(attend_masked(query, key, value, lengths, bias), want) < 1e-2
