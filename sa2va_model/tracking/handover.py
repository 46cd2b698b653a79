# SPDX-License-Identifier: Apache-2.0
"""Vision: which SAM-2 finds what the words mean, and which one follows it.

`propagation="sa2va"`: both are the checkpoint's own, as in the official code. `"handover"`: the checkpoint's tuned
decoder finds; its mask becomes a mask prompt of a stock SAM-2 with the decoder that the memory was trained with
(Sa2VA-i, arXiv 2509.19082, section 3), which may be of another size. If both have the same image encoder, an image is
encoded once; else the finder encodes only the images on which something is looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.checkpoints.files.sam2_files import load_stock
from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.io import preprocessing as images
from sa2va_model.segmentation.backends.base import SharesEncoder
from sa2va_model.segmentation.backends.registry import pick_runtime
from sa2va_model.segmentation.memory_policy import MemoryPolicy
from sa2va_model.segmentation.sam2 import same_encoder
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Decoded, ImageFeatures, Prompt
from sa2va_model.segmentation_half import SegmentingModel
from sa2va_model.tracking.config import PropagationConfig


@dataclass(frozen=True)
class FollowedFeatures(ImageFeatures):
    """The follower's features of one image, and the finder's from the moment they are needed on."""

    finder: Callable[[], ImageFeatures] | None = None


class Vision:
    """SAM-2 for one stream; what it shares with the model's other tasks is there once."""

    def __init__(self, model: SegmentingModel, config: PropagationConfig | None = None) -> None:
        self.config = config or PropagationConfig()
        self.handover = self.config.kind == "handover"
        profile, size = self.config.profile, self.config.resolution or None
        self.finder = model.segmenter_of(profile, None if self.handover else size)
        self.follower, self.shared = self.finder, True
        if self.handover:
            own, device = model.sam2, model.sam2.device
            stock = load_stock(self.config.stock, image_size=size, device=device, dtype=own.dtype)
            self.shared = same_encoder(own, stock)
            name = model.profile if profile == "auto" else profile
            runtime = pick_runtime(name, device, stock.config)
            self.follower = runtime.segmenter(stock, encoder=self.finder if self.shared else None)

    def encode(self, image: np.ndarray) -> ImageFeatures:
        """What the follower sees of a uint8 [H, W, 3] image."""
        follower, finder = self.follower, self.finder
        # With one encoder for both, the finder's rounding of the normalisation is kept: it was tuned with it.
        pixels = self._pixels(image, finder.config if self.shared else follower.config)
        if not self.handover:
            return follower.encode_image(pixels)
        if (
            self.shared
            and isinstance(follower, SharesEncoder)
            and isinstance(finder, SharesEncoder)
        ):
            levels = follower.encode_levels(pixels)
            plain = follower.features_of(levels)
            other = cache(lambda: finder.features_of(levels))
        else:
            plain = follower.encode_image(pixels)
            other = cache(lambda: finder.encode_image(self._pixels(image, finder.config)))
        return FollowedFeatures(plain.top, plain.position, plain.high, other)

    def _pixels(self, image: np.ndarray, config: SegmenterConfig) -> Tensor:
        pixels = images.sam_pixels(image, config, self.follower.device)
        return pixels.to(self.follower.dtype)

    def tracker(
        self, config: TrackerConfig | None = None, policy: MemoryPolicy | None = None
    ) -> OnlineTracker:
        """A tracker that follows; embeddings are translated for it where another model found them."""
        config = config or TrackerConfig()
        if self.handover:
            # The finder's mask has no pointer that the follower's memory understands.
            config = replace(config, reuse_embedding=False)
        translate = self._translate if self.handover else None
        return OnlineTracker(self.follower, config, policy, translate)

    @torch.inference_mode()
    def decode(self, prompt: Tensor | Prompt, features: ImageFeatures) -> Decoded:
        """What a [SEG] embedding [C], or another prompt, shows on an image, without memory.

        Masks have the follower's size.
        """
        finder = self.finder
        if isinstance(features, FollowedFeatures) and features.finder is not None:
            features = features.finder()
        plain = finder.without_memory(features)
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(embedding=prompt)
        decoded = finder.decode(features, plain, prompt)
        size = (self.follower.config.mask_size,) * 2
        if decoded.logits.shape[-2:] == size:
            return decoded
        return replace(
            decoded,
            logits=_resize(decoded.logits, size),
            candidates=_resize(decoded.candidates, size),
        )

    def _translate(self, prompt: Prompt, features: ImageFeatures) -> Prompt:
        """A [SEG] embedding as a mask prompt: what the finder sees there, at the size of the finder's image."""
        if prompt.embedding is None:
            return prompt
        found = self.finder.image_logits(self.decode(prompt.embedding, features).logits)
        return Prompt(mask=found[0, 0] > 0)


def _resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
