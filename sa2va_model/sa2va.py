# SPDX-License-Identifier: Apache-2.0
"""Sa2VA: the language model that says what is meant joined to SAM-2 that says where it is (arXiv 2501.04001).

    frames ──► visual tokens ─┐
    question ─► text tokens ──┴► language model ─► answer; state at each [SEG] ─► text_hidden_fcs ─► prompt for SAM-2

One method for each task of the paper's Table 1, on an image or a clip; images are uint8 [H, W, 3] arrays, PIL images
or paths, and frames may differ in size.
Following an object through a stream is `tracker.py` and `live.py`.

Letters: K objects, T frames, d width of a prompt for SAM-2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_model.io.given import FramesLike, ImageLike, as_frames, as_image
from sa2va_model.joint import JointModel
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.decoding.listener import Cancelled, Listener, OnText
from sa2va_model.regions import Region, as_regions
from sa2va_model.results import Answer, GroundingResult, Segmentation, Turn
from sa2va_model.segmentation import clip as clips
from sa2va_model.segmentation_half import stacked

__all__ = ["Answer", "GroundingResult", "Sa2VA", "Segmentation"]

GROUNDED = (
    "Please respond with interleaved segmentation masks for the corresponding parts of the answer."
)
"""The sentence that the official data for grounded captions ends its questions with."""
DESCRIBE_IMAGE = "Could you please give me a brief description of the image?"
DESCRIBE_VIDEO = "Please describe the video in detail."
DESCRIBE_REGION = (
    "Please give me a short description of the region in the picture marked by region1."
)

FAINTEST = 0.1
"""Predicted quality below which a mask is no answer; words that a model does not know give such masks."""


class Sa2VA(JointModel):
    """The whole model and its tasks. Build it with `checkpoints.load_model`."""

    def segment(self, image: ImageLike, expression: str, *, exact: bool = True) -> Segmentation:
        """Referring segmentation of one image.

        Args:
            exact: see `ground`.

        Raises:
            InputError: as `ground`.
        """
        return self.segment_many(image, [expression], exact=exact)[0]

    @torch.inference_mode()
    def segment_many(
        self, image: ImageLike, expressions: Sequence[str], *, exact: bool = True
    ) -> list[Segmentation]:
        """`segment` for several expressions together."""
        image = as_image(image)
        replies = self.ground_many([image], expressions, exact=exact)
        given = [reply.embeddings for reply in replies]
        if not replies or not sum(map(len, given)):
            return [self._segmentation(None, reply, image) for reply in replies]
        shown = clips.decode_embeddings(
            self.segmenter, self.features(image), torch.cat(given), image
        )
        out, first = [], 0
        for reply in replies:
            rows = slice(first, first + len(reply.embeddings))
            first = rows.stop
            part = clips.Masks(shown.masks[rows], shown.scores[rows], shown.visible[rows])
            out.append(self._segmentation(part, reply, image))
        return out

    def _segmentation(
        self, shown: clips.Masks | None, reply: GroundingResult, image: np.ndarray
    ) -> Segmentation:
        if shown is None:
            none = np.zeros((0, *image.shape[:2]), bool)
            shown = clips.Masks(none, np.zeros(0, np.float32), np.zeros(0, bool))
        kept = shown.visible & (shown.scores >= FAINTEST)
        text = reply.said if kept.any() else reply.in_vain
        if reply.likeness is not None and kept.any():
            kept &= np.array([reply.likeness.fits(mask) for mask in shown.masks], bool)
            text = text if kept.any() else reply.likeness.refusal
        elif shown.visible.any() and not kept.any():
            best = float(shown.scores[shown.visible].max())
            text = f"No mask fits these words: the best has a predicted quality of {best:.2f}."
            text = " ".join(part for part in (text, reply.note) if part)
        return Segmentation(
            bool(kept.any()),
            text,
            shown.masks[kept],
            shown.scores[kept],
            reply.embeddings[torch.from_numpy(kept).to(reply.embeddings.device)],
            reply.unknown,
        )

    @torch.inference_mode()
    def segment_region(self, image: ImageLike, region: Region) -> Segmentation:
        """Interactive segmentation: the mask of a box or of clicks (a mask comes back as SAM-2 stores it).

        Raises:
            InputError: the region does not fit the image.
        """
        image = as_image(image)
        prompt = region.prompt(image.shape)
        shown = clips.decode_prompt(self.segmenter, self.features(image), prompt, image)
        kept = shown.visible & shown.masks.any((1, 2))
        return Segmentation(bool(kept.any()), "", shown.masks[kept], shown.scores[kept])

    # Conversation, captions, clips.

    def chat_image(
        self, image: ImageLike, question: str, *, history: Sequence[Turn] = ()
    ) -> Answer:
        """Image chat. If the answer points at things, they come with masks."""
        return self.ask([image], question, history=history)

    def chat_video(
        self,
        frames: FramesLike,
        question: str,
        *,
        history: Sequence[Turn] = (),
        keyframes: KeyframeChoice | None = None,
    ) -> Answer:
        """Video chat."""
        return self.ask(frames, question, history=history, keyframes=keyframes)

    def caption_video(
        self, frames: FramesLike, *, keyframes: KeyframeChoice | None = None
    ) -> Answer:
        """Video caption."""
        return self.ask(frames, DESCRIBE_VIDEO, keyframes=keyframes)

    def caption_grounded(
        self, image: ImageLike, question: str = DESCRIBE_IMAGE, *, history: Sequence[Turn] = ()
    ) -> Answer:
        """Grounded caption generation: a caption whose phrases have masks."""
        return self.ask([image], f"{question} {GROUNDED}", history=history)

    def describe_regions(
        self,
        image: ImageLike,
        regions: Sequence[Region | np.ndarray],
        question: str = DESCRIBE_REGION,
        *,
        history: Sequence[Turn] = (),
    ) -> Answer:
        """Region captions and questions about regions, which are called region1, region2 … in the question."""
        return self.ask([image], question, regions, history=history)

    def segment_video(
        self,
        frames: FramesLike,
        expression: str,
        *,
        keyframes: KeyframeChoice | None = None,
        exact: bool = True,
    ) -> Answer:
        """Referring segmentation of a clip.

        Args:
            keyframes: None = the first `config.keyframes` frames.
            exact: see `ground`.

        Raises:
            InputError: as `ground`.
        """
        return self.segment_video_many(frames, [expression], keyframes=keyframes, exact=exact)[0]

    def segment_video_many(
        self,
        frames: FramesLike,
        expressions: Sequence[str],
        *,
        keyframes: KeyframeChoice | None = None,
        exact: bool = True,
    ) -> list[Answer]:
        """`segment_video` for several expressions: the clip is seen once for all of them."""
        frames = as_frames(frames)
        if not len(frames):
            raise InputError("segment_video: no frames given; expected at least one")
        asked = [prompts.clean_expression(expression) for expression in expressions]
        stages = (keyframes or KeyframeChoice("first", self.config.keyframes)).stages()
        best: list[tuple[GroundingResult, int]] = []
        for n, stage in enumerate(stages if asked else ()):
            newer = [(reply, n) for reply in self._ground(frames, asked, stage, exact)]
            # An early answer stands if a later look finds nothing.
            best = [
                new if new[0].found else old for new, old in zip(newer, best or newer, strict=True)
            ]
        answers: dict[int, Answer] = {}
        for n, stage in enumerate(stages):
            rows = [row for row, (_, taken) in enumerate(best) if taken == n]
            seen = stage.indices(len(frames))
            given = self._answers(frames, [(asked[r], best[r][0]) for r in rows], seen)
            answers.update(zip(rows, given, strict=True))
        return [answers[row] for row in range(len(asked))]

    def ask(
        self,
        frames: FramesLike,
        question: str,
        regions: Sequence[Region | np.ndarray] = (),
        *,
        history: Sequence[Turn] = (),
        keyframes: KeyframeChoice | None = None,
        masks: bool = True,
        max_new_tokens: int | None = None,
        on_text: OnText | None = None,
        cancelled: Cancelled | None = None,
    ) -> Answer:
        """Any question: chat, captions, grounded captions, questions about regions, on an image or a clip.

        Args:
            frames: none for plain chat.
            question: the user's words.
            regions: on a single image.
            history: `Answer.turn` of the questions before, oldest first, about the same frames.
            keyframes: None = the first `config.keyframes` frames.
            masks: False = words alone.
            max_new_tokens: longest answer; None = the configuration's.
            on_text: told the new and the whole text whenever there are more words.
            cancelled: asked before each token whether the answer is still wanted.

        Raises:
            InputError: the question is empty or too long, or regions on a clip or outside the image.
            CancelledError: `cancelled` said so.
        """
        given = as_frames(frames)
        choice = keyframes or KeyframeChoice("first", self.config.keyframes)
        reply, turn = self.say(
            given,
            question,
            regions,
            history=history,
            keyframes=choice,
            max_new_tokens=max_new_tokens,
            on_text=on_text,
            cancelled=cancelled,
        )
        if not masks:
            reply = replace(reply, embeddings=reply.embeddings[:0], phrases=(), evidence=None)
        seen = choice.stages()[-1].indices(len(given)) if len(given) else ()
        return self.answers(given, [(turn, reply)], seen)[0]

    def say(
        self,
        frames: FramesLike,
        question: str,
        regions: Sequence[Region | np.ndarray] = (),
        *,
        history: Sequence[Turn] = (),
        keyframes: KeyframeChoice | None = None,
        max_new_tokens: int | None = None,
        on_text: OnText | None = None,
        cancelled: Cancelled | None = None,
    ) -> tuple[GroundingResult, Turn]:
        """`ask` without masks: the language model's words and embeddings, and both as history of the next question.

        Raises:
            InputError, CancelledError: as `ask`.
        """
        question, frames = prompts.clean_expression(question), as_frames(frames)
        if self.vocabulary is not None:
            question = self.vocabulary.read_question(question)
        choice = keyframes or KeyframeChoice("first", self.config.keyframes)
        shown = choice.stages()[-1].pictures(frames) if len(frames) else []
        if regions and len(frames) != 1:
            raise InputError(f"regions: given with {len(frames)} frames; expected a single image")
        cells = self.config.region_size
        if regions and not cells:
            raise InputError("regions: this checkpoint's family has no region prompts")
        areas = [region.area(shown[0].shape, cells) for region in as_regions(regions)]
        [reply] = self._replies(
            [f"{prompts.IMAGE_PLACEHOLDER}\n{question}" if shown else question],
            shown,
            clip=len(frames) > 1 or choice.tokens is not None,
            tokens=choice.tokens,
            regions=areas,
            history=history,
            limit=max_new_tokens or self.config.max_new_tokens,
            choose=Listener(self.mllm, on_text, cancelled) if on_text or cancelled else None,
            keep_logits=False,
        )
        return reply, self.turn(question, reply)

    def _answers(
        self,
        frames: Sequence[np.ndarray],
        replies: Sequence[tuple[str, GroundingResult]],
        keyframes: Sequence[int],
    ) -> list[Answer]:
        """Questions and replies about the same keyframes, with masks on all frames; all objects together."""
        said = [(self.turn(question, reply), reply) for question, reply in replies]
        return self.answers(frames, said, keyframes)

    def turn(self, question: str, reply: GroundingResult) -> Turn:
        """A question and its reply as history of the next."""
        written = reply.raw
        for word in self.mllm.template.stop_words:
            written = written.split(word)[0]
        return Turn(question, written)

    def propagate(
        self, frames: FramesLike, embeddings: Tensor, keyframes: int | Sequence[int]
    ) -> np.ndarray:
        """Masks of K prompts on all frames: keyframes are prompted, the rest is tracked.

        Args:
            keyframes: how many of the first frames, or which.

        Returns:
            bool [K, T, H, W], in the size of the first frame.
        """
        frames = as_frames(frames)
        which = range(min(keyframes, len(frames))) if isinstance(keyframes, int) else keyframes
        return stacked(self.follow_clip(frames, embeddings, which)[0], frames)
