# SPDX-License-Identifier: Apache-2.0
"""The two halves joined: what a sentence means on some frames, and what SAM-2 sees of them.

What was read or seen of the last frames is kept, so that a further question about them is quick.

Letters: K objects, d width of a prompt for SAM-2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from sa2va_model.config.model import ModelConfig
from sa2va_model.device import traits_of
from sa2va_model.errors import InputError
from sa2va_model.io.given import FramesLike, as_frames
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.decoding.draft_answers import DraftAnswers
from sa2va_model.mllm.registry import build_mllm
from sa2va_model.mllm.session import History, MllmSession
from sa2va_model.mllm.tiled import TiledMllm
from sa2va_model.mllm.types import Choice, Generated
from sa2va_model.mllm.vocabulary import Reading, Vocabulary
from sa2va_model.mllm.word_probes import WordProbes
from sa2va_model.results import GroundingResult
from sa2va_model.segmentation.backends.base import Backend
from sa2va_model.segmentation.backends.fused.cuda_graphs import Graphs
from sa2va_model.segmentation.backends.registry import Profile
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation_half import SegmentingModel


class JointModel(SegmentingModel):
    """Language model, SAM-2, and the projection between them.

    Args:
        profile: how SAM-2 is computed; a name of `registry.profile_names`.
    """

    vocabulary: Vocabulary | None = None  # words that it can know; None = any
    word_probes: WordProbes | None = None  # tell what its words look like; used with a vocabulary

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: PreTrainedTokenizerBase,
        profile: Profile = "reference",
    ) -> None:
        super().__init__(config)
        self.mllm = build_mllm(config, tokenizer)
        hidden = self.mllm.hidden_size
        self.text_hidden_fcs = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, config.sam2.hidden_dim),
            nn.Dropout(0.0),
        )
        self.sam2 = Sam2(config.sam2)
        self._session = self.new_session()
        self._book = DraftAnswers(self.mllm.answers)
        self.use_profile(profile)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mllm.device

    def use_profile(self, profile: Profile, *, graphs: bool = True) -> None:
        """As `SegmentingModel.use_profile`; a backend that does not fit the language half is refused at once."""
        super().use_profile(profile, graphs=graphs)
        if isinstance(profile, Backend):
            with self._turns.take(self.device):
                self._get_ready()

    def forget(self) -> None:
        """Drops all that was made of the weights or learnt while it ran; needed after weights were changed."""
        with self._turns.take(self.device):
            super().forget()
            self._book = DraftAnswers(self.mllm.answers)
            self.mllm.use_graphs(None)
            if isinstance(self.mllm, TiledMllm):
                self.mllm.use_vision(None)
            self._ready = False

    def forget_frames(self) -> None:
        """Drops what is kept of the last frames, and the memory that it takes."""
        with self._turns.take(self.device):
            self._session.forget()
            super().forget_frames()

    def new_session(self) -> MllmSession:
        """What is kept of the last frames, for one of several who ask; see `reading`."""
        return MllmSession(self.mllm, self.text_hidden_fcs)

    @contextmanager
    def reading(self, session: MllmSession) -> Iterator[None]:
        """Questions of this thread use, and leave, what `session` keeps of their frames; others wait."""
        with self._turns.take(self.device):
            own, self._session = self._session, session
            try:
                yield
            finally:
                self._session = own

    # The language model.

    def reply(
        self,
        text: str,
        frames: FramesLike = (),
        *,
        clip: bool = False,
        regions: Sequence[np.ndarray] = (),
        history: History = "",
        max_new_tokens: int | None = None,
        choose: Choice | None = None,
        expected: Sequence[Sequence[int]] = (),
    ) -> GroundingResult:
        """Asks the language model; what the tasks below are made of.

        Args:
            text: the user's turn; `<image>` marks where the frames stand.
            frames: one image, or with `clip` the keyframes in order.
            clip: frames of a video: each is one tile.
            regions: bool [H, W] masks on the one image, called region1, region2 … in the text.
            history: earlier turns; as text, as they were sent and answered.
            choose: see `Generator.answer`.
            expected: answers as token ids that are checked in one forward; the reply is the same without them.

        Raises:
            InputError: frames without `<image>`, regions on a clip, or an array of the wrong kind.
        """
        return self._replies(
            [text],
            as_frames(frames),
            clip=clip,
            regions=regions,
            history=history,
            limit=max_new_tokens or self.config.max_new_tokens,
            choose=choose,
            expected=expected,
        )[0]

    @torch.inference_mode()
    def _replies(
        self, *args: Any, sought: Sequence[str] = (), **options: Any
    ) -> list[GroundingResult]:
        """Replies of the session; with `sought`, what each text asks for, they say what looks like it."""
        # What is kept of the last frames belongs to the one who reads it.
        with self._turns.take(self.device):
            self._get_ready()
            replies = self._session.replies(*args, **options)
            return self._compared(self._session, replies, sought) if sought else replies

    @torch.inference_mode()
    def visual_tokens(self, image: np.ndarray) -> torch.Tensor:
        """What the language model sees of one uint8 [H, W, 3] image, as one tile: [V, C]."""
        with self._turns.take(self.device):
            self._get_ready()
            return self.mllm.look([image], clip=True).tokens

    def _get_ready(self) -> None:
        """Chooses how the language model's forwards are computed, once its weights are where they stay."""
        if self._ready:
            return
        captures = traits_of(self.device).captures and self._profile != "reference"
        self.mllm.use_graphs(Graphs if captures and self._with_graphs else None)
        if isinstance(self.mllm, TiledMllm):
            backend = self._profile if isinstance(self._profile, Backend) else None
            eyes = backend.vision(self.mllm.vision_parts()) if backend is not None else None
            self.mllm.use_vision(eyes)
        self._ready = True

    def ground(
        self,
        frames: FramesLike,
        expression: str,
        *,
        keyframes: KeyframeChoice | None = None,
        exact: bool = True,
    ) -> GroundingResult:
        """What an expression means on some frames: [SEG] embeddings, or none with the model's words.

        Args:
            frames: of a clip or a stream, oldest first.
            expression: what the user typed.
            keyframes: which of the frames the model sees; None = the newest `config.keyframes`.
            exact: what greedy decoding would write. Otherwise the likeliest of the known answers, always in one
                forward; official checkpoints then never say that something is not there.

        Raises:
            InputError: the expression is empty or too long, or there is no frame.
        """
        return self.ground_many(frames, [expression], keyframes=keyframes, exact=exact)[0]

    def ground_many(
        self,
        frames: FramesLike,
        expressions: Sequence[str],
        *,
        keyframes: KeyframeChoice | None = None,
        exact: bool = True,
    ) -> list[GroundingResult]:
        """`ground` for several expressions about the same frames, together in one forward.

        Raises:
            InputError: as `ground`.
        """
        frames = as_frames(frames)
        if not len(frames):
            raise InputError("ground: no frames given; expected at least one")
        choice = keyframes or KeyframeChoice("latest", self.config.keyframes)
        reply: list[GroundingResult] = []
        for stage in choice.stages() if expressions else ():
            reply = self._ground(frames, expressions, stage, exact)
        return reply

    def ground_stages(
        self, frames: FramesLike, expression: str, keyframes: KeyframeChoice
    ) -> Iterator[GroundingResult]:
        """The replies of all stages of a choice as they come: an early one, then a better one."""
        given = as_frames(frames)
        for stage in keyframes.stages():
            yield self._ground(given, [expression], stage, True)[0]

    def _ground(
        self,
        frames: Sequence[np.ndarray],
        expressions: Sequence[str],
        choice: KeyframeChoice,
        exact: bool,
    ) -> list[GroundingResult]:
        readings = self._read(expressions)
        asked = [reading.text for reading in readings if reading.text]
        given = self._ask_for(asked, frames, choice, exact) if asked else []
        return self._noted(readings, given)

    def ground_together(
        self, asked: Sequence[tuple[MllmSession, FramesLike, Sequence[str]]]
    ) -> list[list[GroundingResult]]:
        """`ground_many` for several who ask, each with a session, frames and expressions of its own, in one forward.

        Each gets what it would get alone; the newest `config.keyframes` frames are shown.

        Raises:
            InputError: as `ground_many`; nobody gets an answer then.
        """
        choice = KeyframeChoice("latest", self.config.keyframes)
        readings = [self._read(expressions) for _, _, expressions in asked]
        open_ = [
            (session, [r.text for r in read if r.text], choice.pictures(as_frames(frames)))
            for (session, frames, _), read in zip(asked, readings, strict=True)
        ]
        answered = self._replies_together([one for one in open_ if one[1]])
        given = iter(answered)
        return [
            self._noted(read, next(given) if questions else [])
            for read, (_, questions, _) in zip(readings, open_, strict=True)
        ]

    @torch.inference_mode()
    def _replies_together(
        self, asked: Sequence[tuple[MllmSession, list[str], list[np.ndarray]]]
    ) -> list[list[GroundingResult]]:
        if not asked:
            return []
        put = [(session, list(map(_question, texts)), frames) for session, texts, frames in asked]
        with self._turns.take(self.device):
            self._get_ready()
            limit, expected = self.config.max_new_tokens, self._book.candidates()
            given = MllmSession.replies_together(put, limit=limit, expected=expected)
            replies = [
                self._compared(session, several, texts)
                for (session, texts, _), several in zip(asked, given, strict=True)
            ]
        self._book.note([reply.generated.ids for several in replies for reply in several])
        return replies

    def _noted(
        self, readings: Sequence[Reading], given: Sequence[GroundingResult]
    ) -> list[GroundingResult]:
        """The replies to what was asked, silence for the rest, each with what was not known of its sentence."""
        left = iter(given)
        replies = [next(left) if reading.text else self._silence() for reading in readings]
        return [
            replace(reply, unknown=reading.unknown, note=reading.note) if reading.unknown else reply
            for reply, reading in zip(replies, readings, strict=True)
        ]

    def _ask_for(
        self,
        texts: Sequence[str],
        frames: Sequence[np.ndarray],
        choice: KeyframeChoice,
        exact: bool,
    ) -> list[GroundingResult]:
        shown = choice.pictures(frames)
        replies = self._replies(
            [_question(text) for text in texts],
            shown,
            clip=len(shown) > 1 or choice.tokens is not None,
            tokens=choice.tokens,
            limit=self.config.max_new_tokens,
            expected=self._book.candidates() if exact else self._book.known,
            exact=exact,
            sought=texts,
        )
        if exact:
            self._book.note([reply.generated.ids for reply in replies])
        return replies

    def _compared(
        self, session: MllmSession, replies: Sequence[GroundingResult], sought: Sequence[str]
    ) -> list[GroundingResult]:
        """Replies that point at something, with what on the newest frame looks like it."""
        words, probes, seen = self.vocabulary, self.word_probes, session.seen
        tokens = None if seen is None else seen.visual.overview
        if words is None or probes is None or tokens is None:
            return list(replies)
        return [
            replace(reply, likeness=probes.likeness(tokens, words.thing(text)))
            if reply.found
            else reply
            for reply, text in zip(replies, sought, strict=True)
        ]

    def _read(self, expressions: Sequence[str]) -> list[Reading]:
        cleaned = [prompts.clean_expression(expression) for expression in expressions]
        known = self.vocabulary
        return [Reading(e, ()) if known is None else known.read_sentence(e) for e in cleaned]

    def _silence(self) -> GroundingResult:
        """The reply to a sentence of which nothing is known: the model is not asked."""
        none = torch.zeros(0, self.config.sam2.hidden_dim, device=self.device)
        return GroundingResult("", "", (), none, Generated.nothing(self.mllm.hidden_size))


def _question(text: str) -> str:
    """A referring question, with the frames before it."""
    return f"{prompts.IMAGE_PLACEHOLDER}\n{prompts.referring_question(text)}"
