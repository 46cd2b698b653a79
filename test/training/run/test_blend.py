# SPDX-License-Identifier: Apache-2.0
"""Weights between before and after training, and how far the way is gone."""

from __future__ import annotations

import pytest
import torch

from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_training.run.blend import SHARES, Line, chosen
from sa2va_training.run.settings import PartSettings
from sa2va_training.run.trainables import prepare


def moved(mode: str) -> tuple[Sa2VA, tuple[str, ...]]:
    """A nano model whose trained parameters have moved, and their names."""
    model = nano_model()
    trained = prepare(model, PartSettings(mode=mode, rank=2, alpha=4))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in trained.names:
            place = model.get_parameter(name)
            place.add_(0.05 * torch.randn(place.shape, generator=generator))
    return model.eval(), trained.names


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_the_ends_of_the_line_are_the_models_and_weights_move_straight(mode: str) -> None:
    plain = nano_model()
    model, names = moved(mode)
    line = Line(model, names, plain)
    layer = model.mllm.language_model.model.layers[0].self_attn.q_proj
    given = torch.randn(3, layer.in_features)
    head = model.text_hidden_fcs[2].weight
    seen = {}
    for share in (0.0, 0.25, 1.0):
        line.go(share)
        with torch.no_grad():
            seen[share] = torch.cat([layer(given).flatten(), head.flatten()])
    with torch.no_grad():
        first = plain.mllm.language_model.model.layers[0].self_attn.q_proj(given)
        start = torch.cat([first.flatten(), plain.text_hidden_fcs[2].weight.flatten()])
    assert torch.allclose(seen[0.0], start, atol=1e-6)
    assert not torch.allclose(seen[1.0], start, atol=1e-2)
    assert torch.allclose(seen[0.25], 0.75 * seen[0.0] + 0.25 * seen[1.0], atol=1e-5)


def test_no_further_back_than_needed_and_to_the_best_where_nothing_is_enough() -> None:
    model, names = moved("full")
    line = Line(model, names, nano_model())
    head = model.text_hidden_fcs[2].weight
    after = head.detach().clone()
    worths = dict(zip(SHARES, (0.5, 0.6, 0.7, 0.72, 0.75, 0.73, 0.7), strict=True))

    def search(wanted: float) -> tuple[float, int]:
        values = iter(worths.values())
        share, tried = chosen(line, lambda: next(values), wanted)
        assert [one.share for one in tried] == list(SHARES)[: len(tried)]
        return share, len(tried)

    assert search(0.4) == (1.0, 1)
    assert torch.equal(head, after)
    assert search(0.65) == (0.8, 3)
    start = nano_model().text_hidden_fcs[2].weight
    assert torch.allclose(head, torch.lerp(start, after, 0.8))
    assert search(0.9) == (0.6, 7)
    assert torch.allclose(head, torch.lerp(start, after, 0.6))
