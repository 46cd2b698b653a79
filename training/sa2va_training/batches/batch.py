# SPDX-License-Identifier: Apache-2.0
"""A batch: the tensors of one forward pass, and which of its tokens may look at which.

`collate.py` makes it of samples, `learner.py` goes from it to losses; clips (`memory.py`) come as one, too. Questions
that do not see each other are branches of one row, told apart by a label per token (`owner`).

Letters: B samples, S tokens of the longest row, A axes of positions (1, or 3 with M-RoPE), N tiles, K visual tokens of
all of them, F frames for SAM-2, M answered `[SEG]`, P mask pairs (one `[SEG]` on one frame), h = w side of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from sa2va_training.batches.patches import Pictures
from sa2va_training.objectives.names import NamedThings

IGNORED = -100
PADDING = -1


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    Attributes:
        ids, labels, owner: long [B, S]. `owner` is PADDING, 0 for what all see, k for branch k; `labels` are what to
            predict at each place, or IGNORED.
        positions: long [A, B, S].
        tiles: N pictures as the family's vision model takes them; `tile_keys` [N] name them.
        visual: long, which of the K visual tokens stand at the image tokens of `ids`, in order.
        pixels: float32 [F, 3, S, S]; `pixel_keys` [F] name them.
        seg: long [M, 2], row and place of every answered `[SEG]`.
        pairs: long [P, 2], index into `seg` and into `pixels`.
        masks: float32 [P, h, w], the share of each cell that the object covers.
        seen: bool [P], the object is there.
        owners: long [P], which sample of the batch the pair belongs to.
        first: bool [B, S], the places that predict the first token of an answer.
        seeds: [B], one number per sample, for its random points.
        kept: bool [M], the model is to answer as it did before it was trained; only rehearsed pictures, no collages.
        things: what has a name.
    """

    ids: Tensor
    labels: Tensor
    owner: Tensor
    positions: Tensor
    tiles: Pictures
    tile_keys: tuple[str, ...]
    visual: Tensor
    pixels: Tensor
    pixel_keys: tuple[str, ...]
    seg: Tensor
    pairs: Tensor
    masks: Tensor
    seen: Tensor
    owners: Tensor
    first: Tensor
    seeds: tuple[int, ...]
    kept: Tensor
    things: NamedThings

    def weights(self, decision: float) -> Tensor:
        """What every place counts in the text loss, [B, S]: 0 = not graded, `decision` where an answer begins."""
        graded = (self.labels != IGNORED).float()
        return graded * (1 + (decision - 1) * self.first)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        moved: dict[str, Any] = {
            f.name: getattr(self, f.name).to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        moved["things"] = self.things.to(device)
        moved["tiles"] = self.tiles.to(device)
        return replace(self, **moved)


def attention(owner: Tensor, dtype: torch.dtype) -> Tensor:
    """What may look at what.

    Args:
        owner: long [B, S].

    Returns:
        long [B, S] of ones and zeros where rows are plain conversations, else additive [B, 1, S, S].
    """
    if int(owner.max()) <= 0:
        return (owner != PADDING).long()
    length = owner.shape[1]
    place = torch.arange(length, device=owner.device)
    key, query = owner[:, None, :], owner[:, :, None]
    seen = (place[None, :] <= place[:, None]) & (key != PADDING) & ((key == 0) | (key == query))
    # Padding looks at itself, so that no row of the softmax is empty.
    seen |= torch.eye(length, dtype=torch.bool, device=owner.device)
    mask = torch.zeros(seen.shape, dtype=dtype, device=owner.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
