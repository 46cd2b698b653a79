# SPDX-License-Identifier: Apache-2.0
"""What training has to know about a family of language halves beyond what answering needs.

Pictures become visual tokens in two parts: what is computed by layers that are usually frozen (and may be kept), and
the projector behind them. Rows of tokens have positions, and the language model gives states for words and for masks.

Letters: N pictures (tiles or frames), K visual tokens of all of them, B rows, S tokens of a row, A axes of positions,
C hidden size of the language model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sa2va_model.mllm.base import Mllm
from sa2va_training.batches.features import Features
from sa2va_training.batches.patches import Pictures

if TYPE_CHECKING:
    from sa2va_training.batches.batch import Batch


@dataclass(frozen=True)
class Shown:
    """One frame as the vision model takes it.

    Attributes:
        pictures: its N tiles, or itself.
        tokens: visual tokens that stand for it.
    """

    pictures: Pictures
    tokens: int


@dataclass(frozen=True)
class VisualTokens:
    """What the language model is given of all pictures of a batch.

    Attributes:
        tokens: [K, C].
        deep: [K, C] for each of the first layers (DeepStack of Qwen3-VL).
    """

    tokens: Tensor
    deep: tuple[Tensor, ...] = ()

    def __getitem__(self, rows: Tensor) -> VisualTokens:
        return VisualTokens(self.tokens[rows], tuple(level[rows] for level in self.deep))


@dataclass(frozen=True)
class States:
    """Of every token, [B, S, C].

    Attributes:
        words: after the final norm, what the head reads.
        masks: what `text_hidden_fcs` reads at `[SEG]`.
    """

    words: Tensor
    masks: Tensor


class Family(ABC):
    """A language half in training.

    Attributes:
        language, vision, projector: how the names of its parameters begin in `model.named_parameters()`; the first
            prefix that fits counts.
        patches: likewise the part of `vision` that makes patches of pixels.
        regions: whether questions can be about regions.
        lead: what stands between images and the words behind them.
        idle: names of parameters that nothing reads begin so; they are never trained.
        without_lora: pattern of the modules of `mllm.language_model` that read no words; None = there are none.
    """

    language: tuple[str, ...]
    vision: tuple[str, ...]
    projector: tuple[str, ...]
    patches: tuple[str, ...]
    idle: tuple[str, ...] = ()
    regions = True
    lead = "\n"
    without_lora: str | None = None

    def __init__(self, mllm: Any) -> None:
        self.mllm: Mllm = mllm

    @abstractmethod
    def shown(self, frame: np.ndarray, *, clip: bool) -> Shown:
        """A frame uint8 [H, W, 3] for the vision model; `clip` = it is one of several."""

    @abstractmethod
    def stacked(self, frames: Sequence[Shown]) -> Pictures:
        """Frames of a batch together, in order; none is fine."""

    @abstractmethod
    def block(self, counts: Sequence[int]) -> str:
        """The places of visual tokens in the text, given how many each frame has."""

    def positions(self, ids: Sequence[int], frames: Sequence[Shown]) -> Tensor:
        """Of the tokens of a row's beginning, long [A, L]; the next token's is the largest plus one."""
        return torch.arange(len(ids))[None]

    @abstractmethod
    def features(self, pictures: Pictures) -> Features:
        """What the layers before the projector make of pictures; rows in the order of the pictures."""

    @abstractmethod
    def project(self, features: Features, pictures: Pictures) -> VisualTokens:
        """Features through the projector."""

    @abstractmethod
    def states(self, batch: Batch, seen: VisualTokens | None) -> States:
        """The language model reads a batch with these visual tokens, as many as the rows have places for."""

    def vision_bytes(self, width: int) -> int:
        """About what the vision model's activations of one frame take, with numbers of `width` bytes."""
        return 0


def needing_gradient(embeddings: Tensor) -> Tensor:
    """Embeddings with a gradient, text alone too: sharded layers then finish in one order everywhere."""
    if torch.is_grad_enabled() and not embeddings.requires_grad:
        embeddings.requires_grad_(True)
    return embeddings
