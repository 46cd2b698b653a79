# SPDX-License-Identifier: Apache-2.0
"""How a clip begins: with what the language model says, or with the truth, so that its errors do not count."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.segmentation.types import ImageFeatures, Prompt
from sa2va_sim.hard_clips import HardClip

VISIBLE = 0.25  # share of itself from which on an object can be named
ASKED = (0, 2, 4)  # frames on which the sentence is said until it is understood


def fit_embedding(
    model: Sa2VA, features: ImageFeatures, mask: np.ndarray, steps: int = 60
) -> Tensor:
    """The [SEG] embedding that says a true mask best, by gradient descent: [C].

    Args:
        mask: bool [H, W].
    """
    segmenter = model.sam2
    size = (segmenter.config.mask_size,) * 2
    # Tensors of inference mode cannot take part in gradients; their copies can.
    with torch.inference_mode(False), torch.enable_grad():
        shown = ImageFeatures(
            features.top.clone(), features.position.clone(), tuple(h.clone() for h in features.high)
        )
        truth = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=size, mode="area")
        embedding = torch.zeros(segmenter.config.hidden_dim, requires_grad=True)
        optimizer = torch.optim.Adam([embedding], lr=0.08)
        plain = segmenter.without_memory(shown)
        for _ in range(steps):
            decoded = segmenter.decode(shown, plain, Prompt(embedding=embedding))
            logits = decoded.candidates[:, :1].clamp(-20, 20)
            share = logits.sigmoid()
            dice = 1 - (2 * (share * truth).sum() + 1) / (share.sum() + truth.sum() + 1)
            loss = dice + F.binary_cross_entropy_with_logits(logits, truth)
            loss = loss + F.softplus(-decoded.object_scores).mean()
            embedding.grad = torch.autograd.grad(loss, embedding)[0]  # the weights' are not needed
            optimizer.step()
    return embedding.detach()


def first_prompt(
    model: Sa2VA, clip: HardClip, features: list[ImageFeatures], start: str
) -> tuple[int, Prompt] | None:
    """The frame and the prompt with which tracking begins; None where the words were not understood.

    Args:
        start: words, mask or embedding (fitted to the true mask).
    """
    truth = clip.instances[0] == clip.target
    if start == "mask":
        return 0, Prompt(mask=torch.from_numpy(truth))
    if start == "embedding":
        return 0, Prompt(embedding=fit_embedding(model, features[0], truth))
    for frame in ASKED:
        reply = model.ground([clip.rgb[frame]], clip.expression)
        if reply.found:
            return frame, Prompt(embedding=reply.embeddings[0].clone())
    return None


class TruthfulWords:
    """Stands in for the language model: finds the target whenever it is to be seen, and never anything else.

    Used as `model.ground` by `LiveTracker`; frames are recognised by their array.
    """

    def __init__(self, model: Sa2VA, clip: HardClip, embedding: Tensor) -> None:
        self._model, self._clip = model, clip
        self._embedding = embedding[None]

    def __call__(self, frames: list[np.ndarray], expression: str) -> GroundingResult:
        """The reply for the newest of the frames."""
        reply = GroundingResult.__new__(GroundingResult)
        number = next(i for i, rgb in enumerate(self._clip.rgb) if rgb is frames[-1])
        found = self._clip.visible[number] >= VISIBLE
        values = {
            "text": "Sure, [SEG]." if found else "I cannot see that.",
            "raw": "",
            "phrases": (),
            "embeddings": self._embedding if found else self._embedding[:0],
            "generated": None,
        }
        for name, value in values.items():
            object.__setattr__(reply, name, value)
        return reply
