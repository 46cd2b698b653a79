# SPDX-License-Identifier: Apache-2.0
"""What a segmenter offers, whoever computes it, and what a backend is that makes one.

A backend is one `Backend` in `registry.BACKENDS`; `registry.pick_runtime` is the only place that chooses.

Letters: N objects, C hidden channels, h = w = image_size / stride, S image_size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.device import DeviceTraits
from sa2va_model.segmentation.backends.profile import RuntimeProfile
from sa2va_model.segmentation.types import Decoded, ImageFeatures, Prompt

if TYPE_CHECKING:
    from sa2va_model.segmentation.memory_bank import MemoryBank
    from sa2va_model.segmentation.sam2 import Sam2


VisionTokens = Callable[[Tensor], Tensor]
"""Tiles [T, 3, s, s] to tokens of the language model [T, V, C]."""


class Segmenter(Protocol):
    """SAM-2 in pieces, as the tracker and the tasks use it. `Sam2` says what each piece takes and gives."""

    config: SegmenterConfig

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def dtype(self) -> torch.dtype:
        """Of pixels and embeddings that it takes."""

    @property
    def traits(self) -> DeviceTraits:
        """What its device is good at."""

    @property
    def batched(self) -> bool:
        """Objects are stepped as one batch."""

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Image features without memory; pixels [1, 3, S, S]."""

    def without_memory(self, features: ImageFeatures) -> Tensor:
        """Features for a prompted frame: [1, C, h, w]."""

    def decode(
        self, features: ImageFeatures, conditioned: Tensor, prompt: Prompt | None = None
    ) -> Decoded:
        """Masks of N objects that share a prompt."""

    def decode_tokens(
        self,
        features: ImageFeatures,
        conditioned: Tensor,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        extra: Tensor | None = None,
        dense: Tensor | None = None,
        multimask: bool = False,
    ) -> Decoded:
        """Masks of N objects, each with tokens of its own."""

    def choose(self, decoded: Decoded, best: Tensor) -> Decoded:
        """The same answer with other candidates taken."""

    def adopt_mask(self, features: ImageFeatures, mask: Tensor) -> Decoded:
        """A given mask as the answer."""

    def image_logits(self, logits: Tensor) -> Tensor:
        """Mask logits at the size of the model's image."""

    def lend_bank(
        self, user: object, rows: int, max_conditioning: int, distractor_slots: int
    ) -> MemoryBank:
        """An empty memory, for as long as `user` lives."""

    def encode_memory(
        self, features: ImageFeatures, decoded: Decoded, *, prompted: bool = False
    ) -> Tensor:
        """Spatial memories of N objects on one frame."""

    def attend_memory(
        self, features: ImageFeatures, bank: MemoryBank, rows: Sequence[int]
    ) -> Tensor:
        """Image features conditioned on each object's memory: [N, C, h, w]."""

    def track(self, features: ImageFeatures, bank: MemoryBank, rows: Sequence[int]) -> Decoded:
        """Memory attention and decoder for N objects."""

    def remember(
        self,
        features: ImageFeatures,
        bank: MemoryBank,
        rows: Sequence[int],
        decoded: Decoded,
        recent: Tensor,
        distractor: Tensor | None,
    ) -> None:
        """Encodes N masks and writes them to memory where they are admitted."""

    def warm_up(self, bank: MemoryBank) -> None:
        """Does now what would else delay the first frames with that bank."""


@runtime_checkable
class SharesEncoder(Protocol):
    """A segmenter whose image encoder's levels can serve another one of the same backend."""

    def encode_levels(self, pixels: Tensor) -> list[Tensor]:
        """The backbone alone."""

    def features_of(self, levels: Sequence[Tensor]) -> ImageFeatures:
        """Features for this segmenter's decoder."""


@dataclass(frozen=True)
class SegmenterRequest:
    """What a backend is asked for.

    Attributes:
        weights: SAM-2 as it was loaded.
        profile: one of the backend's own.
        traits: of the device that the weights are on.
        image_size: side of the image, pixels; None = the model's own.
        encoder: a segmenter of the same backend whose image encoder is the same and may be shared.
    """

    weights: Sam2
    profile: RuntimeProfile
    traits: DeviceTraits
    image_size: int | None = None
    encoder: Segmenter | None = None


@dataclass(frozen=True)
class Backend:
    """Who computes SAM-2.

    Attributes:
        profiles: what users call the ways in which it computes.
        make: a segmenter with these weights.
        vision: for a language half that sees tiles (`TiledMllm`) what computes their tokens, [T, 3, s, s] to [T, V, C],
            in place of its modules; None = they do.
    """

    profiles: Mapping[str, RuntimeProfile]
    make: Callable[[SegmenterRequest], Segmenter]
    vision: Callable[[tuple[nn.Module, ...]], VisionTokens | None] = lambda parts: None


@dataclass(frozen=True)
class Runtime:
    """All that was decided about computing SAM-2: by whom, in which numbers, for what kind of device."""

    backend: Backend
    profile: RuntimeProfile
    traits: DeviceTraits

    def segmenter(
        self, weights: Sam2, *, image_size: int | None = None, encoder: Segmenter | None = None
    ) -> Segmenter:
        """A segmenter with these weights; arguments as in `SegmenterRequest`."""
        return self.backend.make(
            SegmenterRequest(weights, self.profile, self.traits, image_size, encoder)
        )
