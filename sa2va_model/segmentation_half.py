# SPDX-License-Identifier: Apache-2.0
"""The half of Sa2VA that says where something is: SAM-2 with a checkpoint's weights.

The whole model (`joint.py`) is this and a language model. A robot whose sentences are understood elsewhere has
this half alone; `checkpoints.load_half` reads it.

Letters: K objects, T frames, d width of a prompt for SAM-2.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.config.model import ModelConfig
from sa2va_model.device import Turns
from sa2va_model.io import preprocessing as images
from sa2va_model.io.given import ImageLike, as_image
from sa2va_model.mllm.session import fingerprint
from sa2va_model.results import Answer, GroundingResult, Target, Turn
from sa2va_model.segmentation import clip as clips
from sa2va_model.segmentation.backends.base import Segmenter
from sa2va_model.segmentation.backends.registry import Profile, check_profile, pick_runtime
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import ImageFeatures


class SegmentingModel(nn.Module):
    """A model with a SAM-2, which its subclass makes; `segmenter` is what all else sees with.

    Attributes:
        sam2: SAM-2's weights as modules, for training and for comparisons.
        calibration: what its scores are worth; `load_model` reads the checkpoint's own.
    """

    sam2: Sam2
    calibration = Calibration()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._segmenters: dict[tuple[object, ...], Segmenter] = {}
        self._features: OrderedDict[tuple[object, ...], ImageFeatures] = OrderedDict()
        self._turns, self._making = Turns(), threading.RLock()
        self._profile: Profile = "reference"
        self._with_graphs = True

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sam2.device

    @property
    def profile(self) -> Profile:
        """How SAM-2 is computed, as it was asked for."""
        return self._profile

    def use_profile(self, profile: Profile, *, graphs: bool = True) -> None:
        """Has all tasks compute in this way from now on.

        Args:
            profile: a name of `registry.profile_names`: "auto" = the fastest, "reference" = the modules of the `sam2`
                package and no graphs; or a backend.
            graphs: CUDA graphs, where there is CUDA.

        Raises:
            InputError: an unknown name.
        """
        check_profile(profile)
        self._profile, self._with_graphs = profile, graphs
        self.forget()

    def forget(self) -> None:
        """Drops all that was made of the weights or learnt while it ran; needed after weights were changed."""
        with self._turns.take(self.device), self._making:
            self.forget_frames()
            self._segmenters.clear()

    def forget_frames(self) -> None:
        """Drops what is kept of the last frames, and the memory that it takes."""
        with self._turns.take(self.device):
            self._features.clear()

    @property
    def segmenter(self) -> Segmenter:
        """What the tasks see with: SAM-2 with these weights, computed as the profile says."""
        return self.segmenter_of(self._profile)

    def segmenter_of(self, profile: Profile, image_size: int | None = None) -> Segmenter:
        """The model's SAM-2 in another way; each is made once, of the weights as they are then.

        Args:
            profile: a name of `registry.profile_names`; "auto" = as the model itself computes.
            image_size: side of the image, pixels; None = the model's own.
        """
        name = self._profile if profile == "auto" else profile
        device, config = self.sam2.device, self.config.sam2
        runtime = pick_runtime(name, device, config, graphs=self._with_graphs)
        key = (id(runtime.backend), runtime.profile, image_size or config.image_size, device)
        with self._making:
            known = self._segmenters.get(key)
            if known is None:
                known = runtime.segmenter(self.sam2, image_size=image_size)
                self._segmenters[key] = known
            return known

    @torch.inference_mode()
    def encode_image(self, image: ImageLike) -> ImageFeatures:
        """SAM-2's features of one image."""
        segmenter = self.segmenter
        pixels = images.sam_pixels(as_image(image), self.config.sam2, self.device)
        return segmenter.encode_image(pixels.to(segmenter.device, segmenter.dtype))

    def features(self, image: ImageLike) -> ImageFeatures:
        """The same, kept for the next question about the same image."""
        image = as_image(image)
        key = fingerprint(image)
        kept = self._features.pop(key, None)
        if kept is None:
            kept = self.encode_image(image)
        self._features[key] = kept
        while len(self._features) > max(self.config.keyframes, 1):
            self._features.popitem(last=False)
        return kept

    @torch.inference_mode()
    def follow_clip(
        self, frames: Sequence[np.ndarray], embeddings: Tensor, keyframes: Sequence[int]
    ) -> tuple[list[list[np.ndarray]], np.ndarray]:
        """Masks of K prompts on all frames: keyframes are prompted, the rest is tracked.

        Returns:
            bool [H, W] for each object and frame, and the predicted quality float32 [K, T].
        """
        short = len(frames) <= max(self.config.keyframes, 1)
        encode = self.features if short else self.encode_image
        return clips.follow_clip(self.segmenter, encode, frames, embeddings, keyframes)

    def answers(
        self,
        frames: Sequence[np.ndarray],
        replies: Sequence[tuple[Turn, GroundingResult]],
        keyframes: Sequence[int],
    ) -> list[Answer]:
        """What was said about the same keyframes, with masks on all frames; all objects together."""
        if not replies:
            return []
        given = [
            (reply.embeddings, reply.embeddings[:0] if reply.evidence is None else reply.evidence)
            for _, reply in replies
        ]
        embeddings = torch.cat([part for parts in given for part in parts])
        prompts = embeddings
        every = [r.by_keyframe for _, r in replies if r.by_keyframe is not None and r.found]
        if every:
            prompts = torch.cat(every)
        followed, scores = self.follow_clip(frames, prompts, keyframes)
        found = iter(
            Target(None, embedding, tuple(masks), quality)
            for embedding, masks, quality in zip(embeddings, followed, scores, strict=True)
        )
        out = []
        for (turn, reply), (targets, evidence) in zip(replies, given, strict=True):
            named = {phrase.mask: phrase for phrase in reply.phrases}
            own = [replace(next(found), phrase=named.get(k)) for k in range(len(targets))]
            thought = tuple(next(found) for _ in range(len(evidence)))
            text, phrases = reply.said, reply.phrases
            likeness = reply.likeness
            if likeness is not None:
                like = [one for one in own if likeness.fits(one.masks[keyframes[-1]])]
                if len(like) < len(own):
                    own, phrases, text = like, (), text if like else likeness.refusal
            masks = stacked([list(target.masks) for target in own], frames)
            said = text, phrases, masks, tuple(own), tuple(keyframes), turn
            out.append(Answer(*said, reply.thought, thought))
        return out


class SegmentationHalf(SegmentingModel):
    """SAM-2 alone: it decodes [SEG] embeddings, takes clicks, boxes and masks, and follows."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.sam2 = Sam2(config.sam2)


def stacked(followed: list[list[np.ndarray]], frames: Sequence[np.ndarray]) -> np.ndarray:
    """bool [K, T, H, W] in the size of the first frame, nearest sampling for others."""
    if not len(frames):
        return np.zeros((0, 0, 0, 0), bool)
    height, width = frames[0].shape[:2]
    stacked = np.zeros((len(followed), len(frames), height, width), bool)
    for k, clip in enumerate(followed):
        for t, mask in enumerate(clip):
            rows = np.arange(height) * mask.shape[0] // height
            columns = np.arange(width) * mask.shape[1] // width
            same = mask.shape == (height, width)
            stacked[k, t] = mask if same else mask[rows][:, columns]
    return stacked
