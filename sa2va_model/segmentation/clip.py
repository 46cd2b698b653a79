# SPDX-License-Identifier: Apache-2.0
"""From prompt embeddings to masks at the size of the user's images, on one image or a whole clip.

Letters: K embeddings, T frames, d width of a prompt for SAM-2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sa2va_model.io import preprocessing as images
from sa2va_model.segmentation.backends.base import Segmenter
from sa2va_model.segmentation.tracker import NOT_FINITE, OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Decoded, ImageFeatures, Prompt

Encode = Callable[[np.ndarray], ImageFeatures]


@dataclass(frozen=True)
class Masks:
    """Masks of K objects on one image.

    Attributes:
        masks: bool [K, H, W].
        scores: float32 [K], predicted quality, 0..1.
        visible: bool [K]; False where a trained object score says that the object is not there.
    """

    masks: np.ndarray
    scores: np.ndarray
    visible: np.ndarray


def decode_embeddings(
    segmenter: Segmenter, features: ImageFeatures, embeddings: Tensor, picture: np.ndarray
) -> Masks:
    """Masks of [K, d] embeddings on one picture [H, W, 3], without memory, in one run of the decoder."""
    if not len(embeddings):
        empty = np.zeros(0, np.float32)
        return Masks(np.zeros((0, *picture.shape[:2]), bool), empty, empty.astype(bool))
    plain = segmenter.without_memory(features)
    decoded = segmenter.decode_tokens(
        features,
        plain.expand(len(embeddings), -1, -1, -1),
        extra=embeddings[:, None].to(plain.device, plain.dtype),
        multimask=segmenter.config.multimask,
    )
    return at_image_size(segmenter, decoded, picture)


def decode_prompt(
    segmenter: Segmenter, features: ImageFeatures, prompt: Prompt, picture: np.ndarray
) -> Masks:
    """The mask of one visual prompt on one picture [H, W, 3]."""
    if prompt.mask is not None:
        decoded = segmenter.adopt_mask(features, prompt.mask)
    else:
        decoded = segmenter.decode(features, segmenter.without_memory(features), prompt)
    return at_image_size(segmenter, decoded, picture)


def at_image_size(segmenter: Segmenter, decoded: Decoded, picture: np.ndarray) -> Masks:
    """A decoder's answer as the user sees it on a picture [H, W, 3]."""
    masks = images.masks_on(decoded.logits, segmenter.config, picture)
    visible = (decoded.object_scores[:, 0] > 0).cpu().numpy()
    if not segmenter.config.object_score_gate:
        visible = np.ones(len(visible), bool)
    scores = decoded.quality.float().cpu().numpy()
    if not np.isfinite(scores).all():
        raise FloatingPointError(NOT_FINITE)
    return Masks(masks, scores, visible)


def follow_clip(
    segmenter: Segmenter,
    encode: Encode,
    frames: Sequence[np.ndarray],
    embeddings: Tensor,
    keyframes: Sequence[int],
) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Masks of [K, d] embeddings on all frames of a clip: keyframes are prompted, the others tracked.

    [K, F, d] embeddings are one for each keyframe; of fewer the last one serves the keyframes that are left.

    Every keyframe is prompted alone, then memory carries the masks to the frames between and behind them; frames
    before the first keyframe are tracked backwards. With the first frames as keyframes this is the official flow.

    Args:
        frames: uint8 [H, W, 3]; sizes may differ.
        keyframes: ascending.

    Returns:
        For each object the masks of all frames, bool [H, W] each; and the scores, float32 [K, T].
    """
    masks = [[np.zeros(frame.shape[:2], bool) for frame in frames] for _ in embeddings]
    scores = np.zeros((len(embeddings), len(frames)), np.float32)
    if not len(embeddings) or not len(keyframes):
        return masks, scores
    rest = [t for t in range(len(frames)) if t not in set(keyframes)]
    later = [t for t in rest if t > keyframes[0]]
    earlier = [t for t in reversed(rest) if t < keyframes[0]]
    if not rest:
        _decode_each(segmenter, encode, frames, embeddings, (masks, scores))
        return masks, scores
    kept: dict[int, ImageFeatures] = {}
    for part in (later, earlier):
        if not part:
            continue
        tracker = OnlineTracker(
            segmenter,
            TrackerConfig(
                max_objects=len(embeddings),
                max_conditioning=len(keyframes),
                clip_length=len(frames),
            ),
        )
        if embeddings.ndim == 2:
            for k, embedding in enumerate(embeddings):
                tracker.add(str(k), Prompt(embedding=embedding), frames=len(keyframes))
        for n, t in enumerate((*keyframes, *part)):
            if embeddings.ndim == 3 and n < len(keyframes):
                for k, each in enumerate(embeddings):
                    tracker.add(str(k), Prompt(embedding=each[min(n, len(each) - 1)]))
            features = kept.get(t)
            if features is None:
                features = encode(frames[t])
            if earlier and t in keyframes:  # needed once more for the other direction
                kept[t] = features
            for name, seen in tracker.step(features).items():
                shown = at_image_size(segmenter, seen.decoded, frames[t])
                masks[int(name)][t], scores[int(name), t] = shown.masks[0], shown.scores[0]
    return masks, scores


def _decode_each(
    segmenter: Segmenter,
    encode: Encode,
    frames: Sequence[np.ndarray],
    embeddings: Tensor,
    out: tuple[list[list[np.ndarray]], np.ndarray],
) -> None:
    """A clip of keyframes only: no memory is read, so none is written."""
    masks, scores = out
    for t, frame in enumerate(frames):
        given = embeddings
        if embeddings.ndim == 3:
            given = embeddings[:, min(t, embeddings.shape[1] - 1)]
        shown = decode_embeddings(segmenter, encode(frame), given, frame)
        scores[:, t] = shown.scores
        for k, mask in enumerate(shown.masks):
            masks[k][t] = mask
