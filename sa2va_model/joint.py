# SPDX-License-Identifier: Apache-2.0
"""The two halves joined: what a sentence means on some frames, and what SAM-2 sees of them.

What was read or seen of the last frames is kept, so that a further question about them is quick.

Letters: K objects, d width of a prompt for SAM-2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from sa2va_model.config import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.draft_answers import DraftAnswers
from sa2va_model.mllm.registry import build_mllm
from sa2va_model.mllm.session import History, MllmSession, fingerprint
from sa2va_model.mllm.types import Choice
from sa2va_model.results import GroundingResult
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import ImageFeatures


class JointModel(nn.Module):
    """Language model, SAM-2, and the projection between them."""

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.config = config
        self.mllm = build_mllm(config, tokenizer)
        hidden = self.mllm.hidden_size
        self.text_hidden_fcs = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, config.sam2.hidden_dim),
            nn.Dropout(0.0),
        )
        self.sam2 = Sam2(config.sam2)
        self._session = MllmSession(self.mllm, self.text_hidden_fcs)
        self._book = DraftAnswers(self.mllm.answers)
        # In tuples, so that modules do not count them as theirs.
        self._sight: tuple[Sam2] = (self.sam2,)
        self._quick: tuple[str, bool] | None = None
        self._features: OrderedDict[tuple[object, ...], ImageFeatures] = OrderedDict()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mllm.device

    def forget(self) -> None:
        """Drops all that was learnt while it ran; needed after weights were changed."""
        self.forget_frames()
        self._book = DraftAnswers(self.mllm.answers)
        if self._quick is not None:
            self.accelerate(*self._quick)

    @property
    def sight(self) -> Sam2:
        """What the tasks see with: `segmenter`, or a quicker one with its weights (see `accelerate`)."""
        return self._sight[0]

    def accelerate(self, profile: str = "auto", graphs: bool = True) -> None:
        """Has the tasks use SAM-2's rewritten blocks and, on a GPU, replay the language model's forwards.

        Weights are taken as they are now.

        Args:
            profile: see `runtime.profile`; "reference" = SAM-2's own modules.
            graphs: CUDA graphs, where there is CUDA.
        """
        from sa2va_model.segmentation.backends.fused.cuda_graphs import Graphs
        from sa2va_model.segmentation.backends.fused.model import FusedSam2
        from sa2va_model.segmentation.backends.profile import pick_profile

        self._quick = (profile, graphs)
        chosen = pick_profile(profile, self.device, self.config.sam2)
        chosen = replace(chosen, graphs=chosen.graphs and graphs)
        plain = chosen.arithmetic == "reference"
        self._sight = (self.sam2 if plain else FusedSam2(self.sam2, chosen),)
        cuda = graphs and self.device.type == "cuda"
        self.mllm.generator.use_graphs(Graphs if cuda else None)
        self._features.clear()

    def forget_frames(self) -> None:
        """Drops what is kept of the last frames, and the memory that it takes."""
        self._session.seen = None
        self._features.clear()

    # The language model.

    def reply(
        self,
        text: str,
        frames: Sequence[np.ndarray] = (),
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
            frames,
            clip=clip,
            regions=regions,
            history=history,
            limit=max_new_tokens or self.config.max_new_tokens,
            choose=choose,
            expected=expected,
        )[0]

    @torch.inference_mode()
    def _replies(self, *args: Any, **options: Any) -> list[GroundingResult]:
        return self._session.replies(*args, **options)

    def ground(
        self,
        frames: Sequence[np.ndarray],
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
        frames: Sequence[np.ndarray],
        expressions: Sequence[str],
        *,
        keyframes: KeyframeChoice | None = None,
        exact: bool = True,
    ) -> list[GroundingResult]:
        """`ground` for several expressions about the same frames, together in one forward.

        Raises:
            InputError: as `ground`.
        """
        if not len(frames):
            raise InputError("ground: no frames given; expected at least one")
        choice = keyframes or KeyframeChoice("latest", self.config.keyframes)
        reply: list[GroundingResult] = []
        for stage in choice.stages() if expressions else ():
            reply = self._ground(frames, expressions, stage, exact)
        return reply

    def ground_stages(
        self, frames: Sequence[np.ndarray], expression: str, keyframes: KeyframeChoice
    ) -> Iterator[GroundingResult]:
        """The replies of all stages of a choice as they come: an early one, then a better one."""
        for stage in keyframes.stages():
            yield self._ground(frames, [expression], stage, True)[0]

    def _ground(
        self,
        frames: Sequence[np.ndarray],
        expressions: Sequence[str],
        choice: KeyframeChoice,
        exact: bool,
    ) -> list[GroundingResult]:
        asked = [prompts.referring_question(prompts.clean_expression(e)) for e in expressions]
        shown = [frames[i] for i in choice.indices(len(frames))]
        replies = self._replies(
            [f"{prompts.IMAGE_PLACEHOLDER}\n{question}" for question in asked],
            shown,
            clip=len(shown) > 1 or choice.tokens is not None,
            tokens=choice.tokens,
            limit=self.config.max_new_tokens,
            expected=self._book.candidates() if exact else self._book.known,
            exact=exact,
        )
        if exact:
            self._book.note([reply.generated.ids for reply in replies])
        return replies

    # SAM-2.

    @torch.inference_mode()
    def encode_image(self, image: np.ndarray) -> ImageFeatures:
        """SAM-2's features of one image."""
        pixels = images.sam_pixels(image, self.config.sam2)
        return self.sight.encode_image(pixels.to(self.device, self.sight.dtype))

    def features(self, image: np.ndarray) -> ImageFeatures:
        """The same, kept for the next question about the same image."""
        key = fingerprint(images.check_rgb(image))
        kept = self._features.pop(key, None)
        if kept is None:
            kept = self.encode_image(image)
        self._features[key] = kept
        while len(self._features) > max(self.config.keyframes, 1):
            self._features.popitem(last=False)
        return kept
