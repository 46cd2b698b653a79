# SPDX-License-Identifier: Apache-2.0
"""Puts frames and words into prompts and has them answered; keeps what it read of the last frames.

The frames stand first in every prompt, so that whatever is asked about them begins alike: they are seen once, read
once, and a further question costs one forward of its own few tokens.

Letters: K visual tokens or objects, P prompt tokens up to the last image, C hidden size, d width of a prompt for SAM-2.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.base import Mllm
from sa2va_model.mllm.types import CachedPrefix, Choice, Generated, Inputs, UnreadPrefix
from sa2va_model.mllm.vision import Visual
from sa2va_model.results import GroundingResult, Turn

History = str | Sequence[Turn]
"""Earlier turns; as text, they are what was sent and answered, in the checkpoint's chat template."""


def fingerprint(image: np.ndarray) -> tuple[object, ...]:
    """Equal for equal pixels: frames may come again in other arrays, and cameras reuse their buffers."""
    return (image.shape, zlib.crc32(np.ascontiguousarray(image).data))


@dataclass
class _Seen:
    """What was read of the frames of the last question.

    Attributes:
        key: fingerprints of the frames and how they were shown.
        visual: what the language model sees of them.
        prefix: the prompt up to the last image, once a question was asked.
    """

    key: tuple[object, ...]
    visual: Visual
    prefix: CachedPrefix | None = None


@dataclass(frozen=True)
class _Asked:
    """User turns, ready to be answered.

    Attributes:
        start: what their prompts share; `questions`: what stands behind it.
        prompts: token ids of each prompt, whole.
        earlier: `[SEG]` of the history count, too.
    """

    seen: _Seen | None
    start: UnreadPrefix | CachedPrefix | None
    questions: list[Inputs]
    prompts: list[list[int]]
    earlier: bool


class MllmSession:
    """Asks a language model.

    Args:
        mllm: of any family.
        project: [K, C] states at `[SEG]` to [K, d] prompts.
    """

    def __init__(self, mllm: Mllm, project: Callable[[Tensor], Tensor]) -> None:
        self._mllm, self._project = mllm, project
        self.seen: _Seen | None = None
        self._frames: dict[tuple[object, ...], Visual] = {}  # of the last clip, one by one

    def forget(self) -> None:
        """Drops what is kept of the last frames."""
        self.seen, self._frames = None, {}

    def replies(
        self,
        texts: Sequence[str],
        frames: Sequence[np.ndarray],
        *,
        limit: int,
        clip: bool = False,
        tokens: int | None = None,
        regions: Sequence[np.ndarray] = (),
        history: History = "",
        choose: Choice | None = None,
        expected: Sequence[Sequence[int]] = (),
        exact: bool = True,
        keep_logits: bool = True,
    ) -> list[GroundingResult]:
        """Answers to several user turns about the same frames, each as if it had been asked alone.

        Args: see `Sa2VA.reply`; `tokens`: visual tokens of each frame.
        """
        asked = self._prepare(texts, frames, clip, tokens, regions, history)
        generated, prefix = self._mllm.generator.answer(
            asked.start,
            asked.questions,
            limit,
            expected,
            exact=exact,
            choose=choose,
            keep_logits=keep_logits,
        )
        return self._replied(asked, generated, prefix)

    @staticmethod
    def replies_together(
        asked: Sequence[tuple[MllmSession, Sequence[str], Sequence[np.ndarray]]],
        *,
        limit: int,
        expected: Sequence[Sequence[int]] = (),
    ) -> list[list[GroundingResult]]:
        """`replies` of sessions of one model, each to its own texts about its own frames, in one forward."""
        ready = [
            session._prepare(texts, frames, len(frames) > 1) for session, texts, frames in asked
        ]
        given = asked[0][0]._mllm.generator.answer_together(
            [(one.start, one.questions) for one in ready], limit, expected
        )
        return [
            session._replied(one, *answers)
            for (session, *_), one, answers in zip(asked, ready, given, strict=True)
        ]

    @property
    def read(self) -> tuple[object, ...]:
        """Fingerprints of the frames that a further question costs no reading of; none where there are none."""
        return () if self.seen is None or self.seen.prefix is None else self.seen.key[2:]

    def _prepare(
        self,
        texts: Sequence[str],
        frames: Sequence[np.ndarray],
        clip: bool,
        tokens: int | None = None,
        regions: Sequence[np.ndarray] = (),
        history: History = "",
    ) -> _Asked:
        """Looks at the frames and writes the prompts."""
        seen = None
        if len(frames):
            seen = self._look(frames, clip=clip, tokens=tokens, regions=regions)
            _check_place(texts, history)
        written = [self._prompt(text, seen, regions, history) for text in texts]
        start, cut = self._start(seen, [ids for ids, _ in written])
        questions = [self._question(ids[cut:], _rest(visual, seen)) for ids, visual in written]
        # [SEG] in turns of our own were answered when they were new.
        earlier = isinstance(history, str)
        return _Asked(seen, start, questions, [ids for ids, _ in written], earlier)

    def _replied(
        self, asked: _Asked, generated: Sequence[Generated], prefix: CachedPrefix | None
    ) -> list[GroundingResult]:
        """What was said; what was read of the frames is kept."""
        seen, unread = asked.seen, isinstance(asked.start, UnreadPrefix)
        if seen is not None and unread and not self._too_long(asked.prompts):
            seen.prefix = prefix
        return [
            self._reply(ids if asked.earlier else None, answer, pointing=seen is not None)
            for ids, answer in zip(asked.prompts, generated, strict=True)
        ]

    def _look(
        self,
        frames: Sequence[np.ndarray],
        *,
        clip: bool,
        tokens: int | None,
        regions: Sequence[np.ndarray],
    ) -> _Seen:
        """Visual tokens of the frames; those of the last question are kept."""
        if regions and (clip or len(frames) > 1):
            raise InputError("regions: given with a clip; expected a single image")
        shown = [np.ascontiguousarray(images.check_rgb(frame)) for frame in frames]
        prints = [fingerprint(frame) for frame in shown]
        key = (clip, tokens, *prints)
        if self.seen is not None and self.seen.key == key:
            return self.seen
        visual = self._see(shown, prints) if clip else self._mllm.look(shown, clip=False)
        self.seen = _Seen(key, visual if tokens is None else _pooled(visual, tokens))
        return self.seen

    def _see(self, frames: Sequence[np.ndarray], prints: Sequence[tuple[object, ...]]) -> Visual:
        """Visual tokens of a clip, in which each frame stands for itself: those of the last clip are not seen again."""
        known = self._frames
        new = {name: frame for name, frame in zip(prints, frames, strict=True) if name not in known}
        if new:
            seen = self._mllm.look(list(new.values()), clip=True)
            known = known | dict(zip(new, seen.parts(), strict=True))
        self._frames = {name: known[name] for name in prints}
        return Visual.joined([known[name] for name in prints])

    def _prompt(
        self, text: str, seen: _Seen | None, regions: Sequence[np.ndarray], history: History
    ) -> tuple[list[int], Visual | None]:
        """Token ids of a whole prompt, and the visual tokens that stand in it."""
        mllm, visual = self._mllm, None if seen is None else seen.visual
        if isinstance(history, str):
            user, visual = mllm.user_turn(text, visual, regions)
            return mllm.prompt_ids(user, history), visual
        past = ""
        for turn in history:
            question = turn.question
            if not past and visual is not None:
                question, visual = mllm.user_turn(_with_image(question), visual, regions)
            past += mllm.template.instruction.format(input=question)
            past += turn.answer + mllm.template.stop_words[0] + "\n"
        if past:
            return mllm.prompt_ids(_without_image(text), past), visual
        user, visual = mllm.user_turn(text, visual, regions)
        return mllm.prompt_ids(user), visual

    def _start(
        self, seen: _Seen | None, prompts_ids: Sequence[Sequence[int]]
    ) -> tuple[UnreadPrefix | CachedPrefix | None, int]:
        """What all prompts share up to their last image, and its length."""
        if seen is None:
            return None, 0
        ids, end_id = prompts_ids[0], self._mllm.image_end_id
        end = len(ids) - list(reversed(ids)).index(end_id)
        head = tuple(ids[:end])
        if any(tuple(other[:end]) != head or end_id in other[end:] for other in prompts_ids):
            raise InputError("questions: their prompts differ before the image; expected one place")
        whole = self._too_long(prompts_ids)
        if seen.prefix is not None and seen.prefix.ids == head and not whole:
            return seen.prefix, end
        return UnreadPrefix(head, self._mllm.inputs(head, seen.visual)), end

    def _question(self, ids: Sequence[int], visual: Visual | None) -> Inputs:
        inputs = self._mllm.inputs(ids, visual)
        return inputs if visual is not None else replace(inputs, ids=tuple(ids))

    def _too_long(self, prompts_ids: Sequence[Sequence[int]]) -> bool:
        """Prompts that must be read in one piece."""
        span = self._mllm.generator.span
        return span is not None and max(map(len, prompts_ids)) > span

    def _reply(
        self, prompt: Sequence[int] | None, generated: Generated, *, pointing: bool
    ) -> GroundingResult:
        mllm = self._mllm
        raw = mllm.tokenizer.decode(list(generated.ids))
        if pointing and mllm.config.seg != "single":
            return self._by_keyframe(raw, generated)
        plain, phrases = prompts.parse_answer(raw, mllm.template.stop_words)
        if not pointing:
            states = generated.own[:0]
        elif prompt is None:
            states = generated.states_at(mllm.seg_id)
        else:
            states = mllm.seg_states(prompt, generated)
        embeddings = self._project(states)
        if not bool(torch.isfinite(embeddings).all()):
            raise FloatingPointError("the [SEG] embedding is not finite (NaN or Inf)")
        thought, first, last = self._thought(raw, generated, len(embeddings))
        targets = torch.cat([embeddings[:first], embeddings[last:]])
        evidence = embeddings[first:last]
        return GroundingResult(
            plain, raw, phrases, targets, generated, thought=thought, evidence=evidence
        )

    def _by_keyframe(self, raw: str, generated: Generated) -> GroundingResult:
        """Each object has a run of tokens, one for each keyframe; a run that is too short ends with its last."""
        mllm = self._mllm
        plain, phrases = prompts.parse_answer(
            prompts.RUN.sub(prompts.SEG, raw), mllm.template.stop_words
        )
        runs, count = generated.runs_of(mllm.seg_ids), mllm.config.keyframes
        if not runs:
            return GroundingResult(plain, raw, phrases, self._project(generated.own[:0]), generated)
        filled = [torch.cat([run, run[-1:].expand(count, -1)])[:count] for run in runs]
        every = self._project(torch.cat(filled)).unflatten(0, (len(runs), count))
        if not bool(torch.isfinite(every).all()):
            raise FloatingPointError("the [SEG] embedding is not finite (NaN or Inf)")
        return GroundingResult(plain, raw, phrases, every[:, 0], generated, by_keyframe=every)

    def _thought(self, raw: str, generated: Generated, count: int) -> tuple[str, int, int]:
        """What was thought, and from which to which of `count` embeddings are its own.

        Those of the prompt, where they count, stand before it, and those of the answer behind it.
        """
        thought, _ = prompts.split_thought(raw)
        if not thought or not count:
            return thought, 0, 0
        own = sum(token == self._mllm.seg_id for token in generated.ids[:-1])
        first = count - own
        return thought.strip(), first, first + min(own, thought.count(prompts.SEG))


def _check_place(texts: Sequence[str], history: History) -> None:
    """Frames must have a place in the prompt."""
    if not isinstance(history, str) and history:
        return
    marks = (prompts.IMAGE_PLACEHOLDER, prompts.IMAGE_TOKEN)
    past = history if isinstance(history, str) else ""
    for text in texts:
        if not any(mark in text or mark in past for mark in marks):
            raise InputError(
                f"text {text!r} has no {prompts.IMAGE_PLACEHOLDER}, but frames were given"
            )


def _with_image(question: str) -> str:
    return f"{prompts.IMAGE_PLACEHOLDER}\n{question}"


def _without_image(text: str) -> str:
    place = prompts.IMAGE_PLACEHOLDER
    return text.replace(place + "\n", "").replace(place, "")


def _rest(visual: Visual | None, seen: _Seen | None) -> Visual | None:
    """The visual tokens behind the last image: those of regions."""
    if visual is None or seen is None:
        return None
    regions = visual.tokens[len(seen.visual.tokens) :]
    return Visual(regions, ()) if len(regions) else None


def _pooled(visual: Visual, tokens: int) -> Visual:
    """Each frame with `tokens` visual tokens, averages of neighbours."""
    counts, side = set(visual.counts), round(tokens**0.5)
    if visual.grids or len(counts) != 1 or round(max(counts) ** 0.5) ** 2 != max(counts):
        raise InputError(
            f"keyframes.tokens is {tokens}; expected none for this model or for an image in tiles, "
            "where the tokens follow from its size"
        )
    full = round(max(counts) ** 0.5)
    if side > full:
        raise InputError(f"keyframes.tokens is {tokens}; expected at most {full**2}")
    frames = len(visual.counts)
    grid = visual.tokens.reshape(frames, full, full, -1).permute(0, 3, 1, 2)
    small = F.adaptive_avg_pool2d(grid.float(), side).to(grid.dtype)
    flat = small.permute(0, 2, 3, 1).reshape(frames * tokens, -1)
    return Visual(flat, (tokens,) * frames)
