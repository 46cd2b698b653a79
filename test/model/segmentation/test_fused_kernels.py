# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels compute, against PyTorch's own functions; the kernels themselves where there is a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sa2va_model.segmentation.backends.fused.rotation import PairRotation, Rotation
from sa2va_model.segmentation.backends.fused.triton_kernels import layer_norm, rotate
from sa2va_model.segmentation.rotary_codes import square_codes

needs_gpu = pytest.mark.skipif(
    layer_norm.triton is None or not torch.cuda.is_available(), reason="needs Triton and a CUDA GPU"
)
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [4, 64, 144, 576])
def test_normalisation_with_gelu(device: str, channels: int) -> None:
    x = torch.randn(3, 7, channels, device=device)
    weight, bias = torch.randn(2, channels, device=device)
    got = layer_norm.normalise(x, weight, bias, 1e-6, gelu=True)
    assert torch.allclose(got, F.gelu(F.layer_norm(x, (channels,), weight, bias, 1e-6)), atol=1e-5)


@needs_gpu
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_sum_and_its_normalisation(kind: torch.dtype) -> None:
    x, more = torch.randn(2, 5, 9, 144, device="cuda").to(kind)
    weight, bias = torch.randn(2, 144, device="cuda")
    total, normal = layer_norm.add_and_normalise(x, more, weight, bias, 1e-6)
    want = F.layer_norm((x + more).float(), (144,), weight, bias, 1e-6)
    assert torch.equal(total, x + more)
    assert float((normal.float() - want).abs().max()) < (1e-4 if kind == torch.float32 else 0.05)


@pytest.mark.parametrize("device", DEVICES)
def test_rotation_in_place_leaves_the_first_rows_and_the_neighbours(device: str) -> None:
    turn = Rotation(square_codes(32, 5).to(device))
    rows = torch.randn(3, 4 + 2 * 25, 96, device=device)
    before, middle = rows.clone(), rows[..., 32:64]
    assert turn.turn(middle, 4).data_ptr() == middle.data_ptr()
    want = turn(before[:, 4:, 32:64].unflatten(1, (2, 25))).flatten(1, 2)
    assert torch.allclose(middle[:, 4:], want, atol=1e-5)
    rows[:, 4:, 32:64] = before[:, 4:, 32:64]
    assert torch.equal(rows, before), "nothing else was written"
    assert not rotate.fused(torch.zeros(1, 2, 48)), "a CPU has no kernel"


@torch.inference_mode()
def test_pairs_turn_as_halves_do_and_in_place_in_a_slice_of_longer_rows() -> None:
    codes = square_codes(32, 5)
    pairs, halves = PairRotation(codes), Rotation(codes)
    rows = torch.randn(3, 4 + 2 * 25, 96)
    before, order = rows.clone(), halves.order(32)
    assert sorted(order.tolist()) == pairs.order(32).tolist()
    pairs.turn(rows[..., 32:64], 4)
    middle = before[:, 4:, 32:64].unflatten(1, (2, 25))
    want = halves(middle[..., order]).flatten(1, 2)
    assert torch.allclose(rows[:, 4:, 32:64][..., order], want, atol=1e-5)
    assert torch.allclose(pairs(middle)[..., order].flatten(1, 2), want, atol=1e-5)
    rows[:, 4:, 32:64] = before[:, 4:, 32:64]
    assert torch.equal(rows, before), "nothing else was written"
