# SPDX-License-Identifier: Apache-2.0
"""What goes into SAM-2's mask decoder and what comes out of it.

Letters: N objects, C hidden channels, h = w = image_size / stride, P points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageFeatures:
    """What SAM-2 knows of one image; shared by all objects.

    Attributes:
        top: [1, C, h, w], without any memory.
        position: [1, C, h, w], sine position code of `top`.
        high: ([1, C/8, 4h, 4w], [1, C/4, 2h, 2w]), already projected for the decoder.
    """

    top: Tensor
    position: Tensor
    high: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Prompt:
    """What tells the decoder which object is meant, for one object.

    Exactly one of the three kinds is set.

    Attributes:
        embedding: [C], a projected [SEG] state.
        points: [P, 2], x and y as fractions of the image's width and height; with `labels` [P]: 1 foreground,
            0 background, 2 and 3 the corners of a box.
        mask: bool [H, W], any size.
    """

    embedding: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None

    @staticmethod
    def box(x0: float, y0: float, x1: float, y1: float) -> Prompt:
        """A box by its corners, as fractions of the image's width and height."""
        return Prompt(
            points=torch.tensor([[x0, y0], [x1, y1]], dtype=torch.float32),
            labels=torch.tensor([2, 3], dtype=torch.int32),
        )


@dataclass(frozen=True)
class Decoded:
    """The decoder's answer for N objects.

    Attributes:
        logits: float32 [N, 1, 4h, 4w], the chosen mask.
        candidates: float32 [N, M, 4h, 4w], M = 3 or 1.
        ious: [N, M], predicted quality of each candidate, 0..1.
        best: [N], index of the chosen candidate.
        pointers: [N, C], object pointers.
        object_scores: [N, 1] logits; positive = the object is visible.
        tokens: [N, M, C], what each candidate's pointer is made of; None where the mask was given.
    """

    logits: Tensor
    candidates: Tensor
    ious: Tensor
    best: Tensor
    pointers: Tensor
    object_scores: Tensor
    tokens: Tensor | None = None

    @property
    def quality(self) -> Tensor:
        """Predicted IoU of the chosen candidate, [N]."""
        return self.ious.gather(1, self.best[:, None])[:, 0]
