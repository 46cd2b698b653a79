# SPDX-License-Identifier: Apache-2.0
"""One sample → one record for each question about it: plain JSON, from which `report.py` makes the figures.

Tasks: "refer" (an expression on an image), "track" (on a clip), "grounded" (caption with masks), "caption" (image or
region), "answer" (short answers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa2va_model.mllm.chat import IMAGE_PLACEHOLDER, parse_answer
from sa2va_training.data.masks import encode_mask
from sa2va_training.data.sample import Referring, Sample
from sa2va_training.evaluation.facts import facts_of
from sa2va_training.evaluation.predictor import FollowedClip, Predictor, joined
from sa2va_training.metrics.answers import is_right
from sa2va_training.metrics.clips import clip_score
from sa2va_training.metrics.events import follow_events
from sa2va_training.metrics.overlap import overlap

Json = dict[str, Any]
CAPTION_KINDS = ("caption", "region caption", "region description")
UNSCORED_KINDS = ("chat", "region conversation")
"""Free conversation: no published measure without a judge model."""


@dataclass(frozen=True)
class Look:
    """What the picture sheet shows of a question.

    Attributes:
        rgb: one frame, uint8 [H, W, 3].
        truth, guess: bool [H, W] on it, None where there are none.
        asked, said: in words.
    """

    rgb: np.ndarray
    truth: np.ndarray | None
    guess: np.ndarray | None
    asked: str
    said: str


@dataclass(frozen=True)
class Scored:
    """A question's record, its picture, and its masks for export (bool [T, H, W])."""

    record: Json
    look: Look
    masks: np.ndarray | None = None


def score_sample(
    sample: Sample, predictor: Predictor, *, keep_masks: bool = False, live: float = 0.0
) -> Iterator[Scored]:
    """Asks everything about a sample.

    Args:
        live: clips are followed frame by frame, to tell what happened when; frames per second of those that do not say
            when their frames were taken. 0 = they are not.
        keep_masks: also put predicted and true masks of clips into the records (Ref-DAVIS17's own protocol).

    Raises:
        InputError: pictures or masks cannot be read.
    """
    frames = sample.read_frames()
    if sample.referrings and sample.clip:
        yield from _clip(sample, frames, predictor, keep_masks, live)
    elif sample.referrings:
        yield from _image(sample, frames[0], predictor)
    elif sample.targets:
        yield _grounded(sample, frames, predictor)
    elif sample.turns and sample.kind not in UNSCORED_KINDS:
        yield _spoken(sample, frames, predictor)


def _image(sample: Sample, rgb: np.ndarray, predictor: Predictor) -> Iterator[Scored]:
    known = [
        r
        for r in sample.referrings
        if r.absent or (r.target is not None and r.target.masks[0] is not None)
    ]
    guesses = predictor.refer_image(rgb, [r.text for r in known]) if known else []
    for referring, guess in zip(known, guesses, strict=True):
        truth = _truth(referring, 1, rgb)[0]
        both = overlap(guess, truth)
        record = _head(sample, "refer", referring) | {
            "intersection": both.intersection,
            "union": both.union,
            "marked": bool(guess.any()),
            "facts": facts_of(referring.text, truth[None]),
        }
        said = f"IoU {both.iou:.2f}" if both.union else "nothing, rightly"
        yield Scored(record, Look(rgb, truth, guess, referring.text, said))


def _clip(
    sample: Sample,
    frames: Sequence[np.ndarray],
    predictor: Predictor,
    keep_masks: bool,
    live: float,
) -> Iterator[Scored]:
    asked = [r.text for r in sample.referrings]
    stamps = sample.stamps or tuple(t / live for t in range(len(frames)) if live)
    if live:
        followed = predictor.follow_clip(frames, asked, stamps)
    else:
        followed = [FollowedClip(guess, ()) for guess in predictor.refer_clip(frames, asked)]
    foreground = _foreground(sample, frames)
    for referring, seen in zip(sample.referrings, followed, strict=True):
        guess = seen.masks
        record = _head(sample, "track", referring)
        middle = len(frames) // 2
        if referring.target is None and not referring.absent:
            look = Look(frames[middle], None, guess[middle], referring.text, "truth is secret")
            yield Scored(record | {"secret": True}, look, guess)
            continue
        truth = _truth(referring, len(frames), frames[0])
        known = list(referring.target.annotated if referring.target else range(len(frames)))
        if seen.known is not None:
            known = [t for t in known if seen.known[t]]
        if not known:
            continue
        score = clip_score(
            guess[known], truth[known], None if foreground is None else foreground[known]
        )
        record |= {
            "j": score.j,
            "f": score.f,
            "accuracy": score.accuracy,
            "robustness": score.robustness,
            "frames": len(known),
            "marked": bool(guess[known].any()),
            "facts": facts_of(referring.text, truth[known]),
        }
        if live:
            record["events"] = follow_events(guess[known], truth[known], [stamps[t] for t in known])
            record["events"] |= _told(seen, truth, known)
        if keep_masks:
            record["masks"] = [encode_mask(mask) for mask in guess]
            record["truth"] = [encode_mask(mask) for mask in truth]
        middle = known[len(known) // 2]
        said = f"J&F {score.j_and_f:.2f}"
        yield Scored(
            record, Look(frames[middle], truth[middle], guess[middle], referring.text, said), guess
        )


def _told(seen: FollowedClip, truth: np.ndarray, known: Sequence[int]) -> dict[str, float]:
    """What was said of the frames beside masks: how late, of how many, and whether the state was right."""
    out: dict[str, float] = {}
    if seen.steps:
        half, late = (float(q) for q in np.quantile(seen.steps, (0.5, 0.95)))
        out |= {"latency": half, "latency p95": late}
    if seen.known is not None:
        said = np.flatnonzero(seen.known)
        out["skipped"] = 1 - len(said) / float(said[-1] - said[0] + 1)
    if seen.tracking is not None:
        out["told"] = float((seen.tracking[known] == truth[known].any((1, 2))).mean())
    return out


def _grounded(sample: Sample, frames: Sequence[np.ndarray], predictor: Predictor) -> Scored:
    question = _question(sample)
    said = predictor.answer(frames, question, list(sample.read_regions()))
    _, phrases = parse_answer(sample.turns[-1].text)
    named = {phrase.mask: phrase.text for phrase in phrases}
    truth = sample.read_masks()
    record = _head(sample, "grounded") | {
        "text": said.text,
        "references": list(sample.references),
        "truth": [encode_mask(mask[0]) for mask in truth],
        "phrases": [named.get(k, "") for k in range(len(truth))],
        "masks": [encode_mask(mask[0]) for mask in said.masks],
        "said": list(said.phrases),
    }
    look = Look(frames[0], joined(truth[:, 0]), joined(said.masks[:, 0]), sample.kind, said.text)
    return Scored(record, look)


def _spoken(sample: Sample, frames: Sequence[np.ndarray], predictor: Predictor) -> Scored:
    question = _question(sample)
    regions = sample.read_regions()
    said = predictor.answer(frames, question, list(regions))
    references = list(sample.references) or [sample.turns[-1].text]
    record = _head(sample, "caption" if sample.kind in CAPTION_KINDS else "answer")
    record |= {"text": said.text, "references": references}
    if record["task"] == "answer":
        record["right"] = is_right(said.text, references)
    blank = np.full((64, 64, 3), 255, np.uint8)
    rgb = frames[len(frames) // 2] if frames else blank
    shown = joined(regions) if len(regions) else None
    return Scored(record, Look(rgb, shown, None, question, f"{said.text} (true: {references[0]})"))


def _head(sample: Sample, task: str, referring: Referring | None = None) -> Json:
    part = "" if referring is None else f"|{referring.id}"
    kind = sample.kind if referring is None else referring.kind
    return {
        "id": f"{sample.id}{part}",
        "task": task,
        "kind": kind,
        "asked": _question(sample) if referring is None else referring.text,
    }


def _question(sample: Sample) -> str:
    """The last thing the user says, without the mark of the picture."""
    asked = [turn.text for turn in sample.turns if turn.role == "user"]
    return asked[-1].replace(IMAGE_PLACEHOLDER, "").strip() if asked else ""


def _truth(referring: Referring, count: int, rgb: np.ndarray) -> np.ndarray:
    """bool [T, H, W]."""
    height, width = rgb.shape[:2]
    if referring.target is None:
        return np.zeros((count, height, width), bool)
    return referring.target.read(height, width)


def _foreground(sample: Sample, frames: Sequence[np.ndarray]) -> np.ndarray | None:
    if not sample.foreground:
        return None
    height, width = frames[0].shape[:2]
    empty = np.zeros((height, width), bool)
    return np.stack([empty if m is None else m.read(height, width) for m in sample.foreground])
