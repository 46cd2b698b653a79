# SPDX-License-Identifier: Apache-2.0
"""The teacher code: a fixed vector that says which object is meant, as a stand-in for a trained [SEG] embedding.

Frozen and seeded, so that the mask decoder (which learns to read it) and the language model (which learns to write
it) can be trained apart, at the same time, and be plugged together. Used in training only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sa2va_sim.words.vocabulary import COLOURS, SHAPES

SEED = 20261122
_FREQUENCIES = (1.0, 1.0, 0.7, 0.4)  # weights of sin and cos of pi * 2^k * box
_FEATURES = 4 + 8 * len(_FREQUENCIES)


class TeacherCode(nn.Module):
    """Box, colour and shape as one vector of `width` channels with a standard deviation near 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        generator = torch.Generator("cpu").manual_seed(SEED)
        here = torch.get_default_device()

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device="cpu").to(here)

        # A narrow decoder (tests) has fewer channels than the box has features: then the map is merely random.
        if width >= _FEATURES:
            basis = torch.linalg.qr(draw(width, _FEATURES))[0].T * (width / 18) ** 0.5
        else:
            basis = draw(_FEATURES, width) / 18**0.5
        weights = torch.cat([torch.ones(4), *(torch.full((8,), w) for w in _FREQUENCIES)])
        self.register_buffer("basis", 0.8 * weights[:, None] * basis)
        self.register_buffer("colour", 0.6 * draw(len(COLOURS) + 1, width))
        self.register_buffer("shape", 0.6 * draw(len(SHAPES) + 1, width))
        self.register_buffer("absent", draw(width))

    basis: Tensor
    colour: Tensor
    shape: Tensor
    absent: Tensor

    def forward(
        self, boxes: Tensor, colours: Tensor, shapes: Tensor, keep_box: Tensor | None = None
    ) -> Tensor:
        """Codes [N, width].

        Args:
            boxes: [N, 4] as (cx, cy, w, h) in 0..1.
            colours, shapes: long [N], index of the name, -1 = unknown.
            keep_box: bool [N]; False = the place is not told.
        """
        waves = [
            wave(math.pi * 2**k * boxes)
            for k in range(len(_FREQUENCIES))
            for wave in (torch.sin, torch.cos)
        ]
        place = torch.cat([boxes, *waves], dim=-1) @ self.basis
        if keep_box is not None:
            place = place * keep_box[:, None]
        # Names beyond the toy world's have no code of their own.
        colours = colours.where(colours < len(COLOURS), -1)
        shapes = shapes.where(shapes < len(SHAPES), -1)
        return place + self.colour[colours + 1] + self.shape[shapes + 1]
