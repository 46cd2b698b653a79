# SPDX-License-Identifier: Apache-2.0
"""What the tasks of `Sa2VA` return: plain values, nothing of the model in them but tensors.

No `[SEG]` in an answer is a result, too: `found` is False and `text` has the model's words.

Letters: K objects that the answer points at, T frames, d width of a prompt for SAM-2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sa2va_model.io.preprocessing import mask_box
from sa2va_model.mllm.chat import Phrase
from sa2va_model.mllm.types import Generated
from sa2va_model.mllm.word_probes import Likeness

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; ends exclusive."""


@dataclass(frozen=True)
class Turn:
    """One question and its answer, for the questions after it.

    Attributes:
        question: the user's words, without any image.
        answer: what the model wrote, `[SEG]` and the like included, without the token that ended it.
    """

    question: str
    answer: str


@dataclass(frozen=True)
class GroundingResult:
    """What the language model wrote.

    Attributes:
        text: without special tokens; `phrases` are spans of it.
        raw: as decoded, special tokens included.
        embeddings: [K, d], one prompt for SAM-2 for each [SEG] of the answer.
        generated: the tokens and states behind it.
        unknown: words of the sentence that the model was never taught.
        note: what was done about them, for people.
        thought: what the model thought aloud before it answered, `[SEG]` and the like included.
        evidence: [E, d], one prompt for each [SEG] of the thought: what it looked at, not what was asked for.
        likeness: how much the newest keyframe looks like what was asked for; None where the model cannot tell.
        by_keyframe: [K, F, d], a prompt of its own for each keyframe; None = `embeddings` are for all of them.
    """

    text: str
    raw: str
    phrases: tuple[Phrase, ...]
    embeddings: Tensor
    generated: Generated
    unknown: tuple[str, ...] = ()
    note: str = ""
    thought: str = ""
    evidence: Tensor | None = None
    likeness: Likeness | None = None
    by_keyframe: Tensor | None = None

    @property
    def said(self) -> str:
        """The model's words, and what it was not asked because it has no words for it."""
        return " ".join(part for part in (self.text, self.note) if part)

    @property
    def in_vain(self) -> str:
        """What people are told where no mask comes of it, though the model may point at something."""
        if not self.found:
            return self.said
        return f"The words point at something, but no mask comes of it. {self.note}".rstrip()

    @property
    def found(self) -> bool:
        """Whether the model pointed at anything."""
        return len(self.embeddings) > 0

    @property
    def label(self) -> str:
        """What the answer names its first object, "" where it names none ("Sure, it is [SEG].")."""
        return next((phrase.text for phrase in self.phrases if phrase.mask == 0), "")


@dataclass(frozen=True)
class Segmentation:
    """What one expression, or one visual prompt, means on one image.

    Attributes:
        masks: bool [K, H, W].
        scores: float32 [K], predicted mask quality, 0..1.
        text: the model's words; with `found=False` they say why there is no mask.
        embeddings: [K, d], the prompts that gave the masks; [0, d] for visual prompts.
        unknown: words that the model was never taught; `text` says what was done about them.
    """

    found: bool
    text: str
    masks: np.ndarray
    scores: np.ndarray
    embeddings: Tensor | None = None
    unknown: tuple[str, ...] = ()

    @cached_property
    def boxes(self) -> tuple[Box | None, ...]:
        """Of each mask; None for an empty one."""
        return tuple(mask_box(mask)[0] for mask in self.masks)


@dataclass(frozen=True)
class Target:
    """One thing that an answer points at: one `[SEG]`.

    Attributes:
        phrase: its words in the answer and where they stand; None where the model named none.
        embedding: [d], its prompt for SAM-2.
        masks: bool [H, W] for each frame, in that frame's own size.
        scores: float32 [T], predicted mask quality, 0..1.
    """

    phrase: Phrase | None
    embedding: Tensor
    masks: tuple[np.ndarray, ...]
    scores: np.ndarray

    @cached_property
    def boxes(self) -> tuple[Box | None, ...]:
        """Of each frame's mask; None where it is empty."""
        return tuple(mask_box(mask)[0] for mask in self.masks)


@dataclass(frozen=True)
class Answer:
    """An answer with its masks on all frames that were given.

    Attributes:
        text: the model's words.
        phrases: spans of `text`, each with the number of its mask.
        masks: bool [K, T, H, W]; T = 1 for an image. Frames of other sizes are brought to that of the first, as the
            official code does; `targets` has each in its own.
        targets: the same one by one, with scores, boxes and embeddings.
        keyframes: which frames the language model saw.
        turn: this question and answer as history of the next.
        thought: what the model thought aloud before it answered.
        evidence: what the thought points at; not in `masks` and `targets`.
    """

    text: str
    phrases: tuple[Phrase, ...]
    masks: np.ndarray
    targets: tuple[Target, ...] = ()
    keyframes: tuple[int, ...] = ()
    turn: Turn = Turn("", "")
    thought: str = ""
    evidence: tuple[Target, ...] = ()

    @property
    def found(self) -> bool:
        """Whether the model pointed at anything."""
        return len(self.masks) > 0

    @property
    def scores(self) -> np.ndarray:
        """float32 [K, T], predicted mask quality, 0..1."""
        return np.array([target.scores for target in self.targets], np.float32)

    @property
    def boxes(self) -> tuple[tuple[Box | None, ...], ...]:
        """Of each object on each frame."""
        return tuple(target.boxes for target in self.targets)

    @property
    def embeddings(self) -> Tensor:
        """[K, d], one prompt for SAM-2 for each object; [0, 0] if there is none."""
        if not self.targets:
            return torch.zeros(0, 0)
        return torch.stack([target.embedding for target in self.targets])
