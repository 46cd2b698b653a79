# SPDX-License-Identifier: Apache-2.0
"""SaSaSa2VA's way with a clip (arXiv 2509.16972), for evaluation: a hundred frames as ten clips of ten.

The language model is shown each clip as two pictures (`keyframes.mosaics`) and answers "Clip_1 [SEG], … Clip_10 [SEG]".
Every frame is decoded with the embedding of its clip, without memory. Ways to sample differ in which frames are shown,
which clip a frame belongs to, and in what becomes of clips that are not a hundred frames long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.io.given import FramesLike, as_frames
from sa2va_model.keyframes import MOMENTS, mosaics
from sa2va_model.mllm import chat as prompts
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Prompt

CLIPS = 10
SHOWN = CLIPS * MOMENTS
SAMPLINGS = ("uniform", "uniform_plus", "q_frame", "wrap_around", "wrap_around_plus")
QUESTION = "<image>\nPlease segment {}."


@dataclass(frozen=True)
class Sampling:
    """What becomes of a clip's frames.

    Attributes:
        shown: the frames that the language model sees, 100.
        decoded: frames that are decoded one after the other, with repeats; masks of the same one are averaged.
        clips: the clip of each of them, 0..9.
        tracked: the decoded frames are prompts, memory carries the masks on to all later frames.
    """

    shown: tuple[int, ...]
    decoded: tuple[int, ...]
    clips: tuple[int, ...]
    tracked: bool = False


def sample(total: int, kind: str, chosen: Sequence[int] | None = None) -> Sampling:
    """How a clip of `total` frames is sampled.

    Args:
        kind: one of `SAMPLINGS`. "uniform": evenly, each frame has the clip of its time. "uniform_plus": the same, but
            frames of a short clip are decoded as often as they are shown, and averaged. "wrap_around": the frames
            repeated in order up to a hundred; of a long clip the first hundred, the rest is tracked.
            "wrap_around_plus": the same for short clips, long ones evenly. "q_frame": chosen by another model; of
            a long clip the first hundred frames are prompts, as in the official code, and the rest is tracked.
        chosen: 100 frames, ascending, for "q_frame".

    Raises:
        InputError: an unknown kind, no frames, or not a hundred chosen ones.
    """
    if kind not in SAMPLINGS:
        raise InputError(f"sampling is {kind!r}; expected one of {', '.join(SAMPLINGS)}")
    if total < 1:
        raise InputError("clip: no frames given; expected at least one")
    evenly = tuple(i * total // SHOWN for i in range(SHOWN))
    wrapped = tuple(sorted(i % total for i in range(SHOWN)))
    shown = {"wrap_around": wrapped, "q_frame": _hundred(chosen, total, kind)}.get(kind, evenly)
    if kind == "wrap_around_plus" and total <= SHOWN:
        shown = wrapped
    tens, every = tuple(i // MOMENTS for i in range(SHOWN)), tuple(range(total))
    in_time = tuple(i * CLIPS // total for i in every)
    if total == SHOWN:
        return Sampling(shown, every, tens)
    if kind == "uniform" or (total > SHOWN and kind.endswith("_plus")):
        return Sampling(shown, every, in_time)
    if total > SHOWN:
        return Sampling(shown, every[:SHOWN], tens, tracked=True)
    if kind.startswith("wrap_around"):
        return Sampling(shown, every, tuple(shown.index(i) // MOMENTS for i in every))
    return Sampling(shown, shown, tens)


def _hundred(chosen: Sequence[int] | None, total: int, kind: str) -> tuple[int, ...]:
    if kind != "q_frame":
        return ()
    given = tuple(chosen or ())
    if (
        len(given) != SHOWN
        or list(given) != sorted(given)
        or not 0 <= given[0] <= given[-1] < total
    ):
        raise InputError(
            f"q_frame: {len(given)} frames are chosen; expected {SHOWN} of 0 to {total - 1}, ascending"
        )
    return given


def ten(embeddings: Tensor) -> Tensor:
    """[K, d] embeddings of an answer as those of ten clips: cut, or the last one repeated."""
    missing = CLIPS - len(embeddings)
    if missing <= 0:
        return embeddings[:CLIPS]
    return torch.cat([embeddings, embeddings[-1:].expand(missing, -1)])


@torch.inference_mode()
def segment_clip(
    model: Sa2VA,
    frames: FramesLike,
    expression: str,
    sampling: str = "uniform",
    chosen: Sequence[int] | None = None,
) -> tuple[str, np.ndarray]:
    """One expression on a clip.

    Args:
        frames: of one size.
        sampling, chosen: see `sample`.

    Returns:
        The answer, and the masks: bool [T, H, W], empty if the model points at nothing.

    Raises:
        InputError: as `sample`, or an empty expression.
    """
    frames, asked = as_frames(frames), prompts.clean_expression(expression)
    plan = sample(len(frames), sampling, chosen)
    question = asked if "?" in asked else QUESTION.format(asked)
    if "<image>" not in question:
        question = f"<image>\n{question}"
    reply = model.reply(question, mosaics([frames[i] for i in plan.shown]), clip=True)
    masks = np.zeros((len(frames), *frames[0].shape[:2]), bool)
    if len(reply.embeddings):
        embeddings = ten(reply.embeddings)[list(plan.clips)]
        follow = _tracked if plan.tracked else _averaged
        follow(model, frames, plan, embeddings, masks)
    return reply.text, masks


def _averaged(
    model: Sa2VA, frames: Sequence[np.ndarray], plan: Sampling, embeddings: Tensor, out: np.ndarray
) -> None:
    """Every frame is decoded alone, with all the embeddings that it has."""
    segmenter = model.segmenter
    for t in sorted(set(plan.decoded)):
        features = model.encode_image(frames[t])
        plain = segmenter.without_memory(features)
        own = [e for e, frame in zip(embeddings, plan.decoded, strict=True) if frame == t]
        logits = [
            segmenter.decode(features, plain, Prompt(embedding=e)).logits
            for e in torch.stack(own).unique_consecutive(dim=0)
        ]
        counts = torch.stack(own).unique_consecutive(dim=0, return_counts=True)[1]
        weights = (counts / counts.sum()).view(-1, 1, 1, 1).to(logits[0])
        out[t] = _mask(model, (torch.cat(logits) * weights).sum(0, keepdim=True), frames[t])


def _tracked(
    model: Sa2VA, frames: Sequence[np.ndarray], plan: Sampling, embeddings: Tensor, out: np.ndarray
) -> None:
    """The first frames are prompted, each with the embedding of its clip; memory follows from there."""
    tracker = OnlineTracker(
        model.segmenter,
        TrackerConfig(max_objects=1, max_conditioning=len(plan.decoded), clip_length=len(frames)),
    )
    for t, frame in enumerate(frames):
        if t < len(embeddings):
            tracker.add("0", Prompt(embedding=embeddings[t]))
        seen = tracker.step(model.encode_image(frame))["0"]
        out[t] = _mask(model, seen.logits, frame)


def _mask(model: Sa2VA, logits: Tensor, frame: np.ndarray) -> np.ndarray:
    size = model.segmenter.config.image_size
    shown: np.ndarray = (images.masks_to_image(logits, size, *frame.shape[:2])[0] > 0).cpu().numpy()
    return shown
