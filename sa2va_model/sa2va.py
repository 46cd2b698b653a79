# SPDX-License-Identifier: Apache-2.0
"""Sa2VA: the language model that says what is meant joined to SAM-2 that says where it is (arXiv 2501.04001).

    frames ──► visual tokens ─┐
    question ─► text tokens ──┴► language model ─► answer; state at each [SEG] ─► text_hidden_fcs ─► prompt for SAM-2

Here: one question about an image or a clip. Following an object through a stream is `tracker.py` and `live.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sa2va_model import images, prompts
from sa2va_model.config import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.families import build_mllm
from sa2va_model.grounding import Grounder, ImageFeatures, Prompt
from sa2va_model.readings import Choice, Generated, Prefix
from sa2va_model.tracker import OnlineTracker, TrackerConfig
from sa2va_model.visual import Visual


@dataclass(frozen=True)
class Reply:
    """What the language model wrote.

    Attributes:
        text: without special tokens; `phrases` are spans of it.
        raw: as decoded, special tokens included.
        embeddings: [K, d], one prompt for SAM-2 for each [SEG].
        generated: the tokens and states behind it.
    """

    text: str
    raw: str
    phrases: tuple[prompts.Phrase, ...]
    embeddings: Tensor
    generated: Generated

    @property
    def found(self) -> bool:
        """Whether the model pointed at anything."""
        return len(self.embeddings) > 0


@dataclass(frozen=True)
class Segmentation:
    """Masks of one expression on one image.

    Attributes:
        masks: bool [K, H, W].
        scores: float [K], predicted mask quality, 0..1.
        text: the model's words; with `found=False` they say why there is no mask.
    """

    found: bool
    text: str
    masks: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Answer:
    """An answer with its masks on all frames of the clip.

    Attributes:
        masks: bool [K, T, H, W]; T = 1 for an image.
    """

    text: str
    phrases: tuple[prompts.Phrase, ...]
    masks: np.ndarray


@dataclass
class _Seen:
    """What was read of the frames of the last question.

    Attributes:
        key: checksums of the frames and how they were shown; frames may come again in other arrays.
        visual: what the language model sees of them.
        prefix: the prompt up to the last image, once a question was asked.
    """

    key: tuple[object, ...]
    visual: Visual
    prefix: Prefix | None = None


class Sa2VA(nn.Module):
    """The whole model. Build it with `checkpoints.load_model`."""

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
        self.grounder = Grounder(config.sam2)
        self._seen: _Seen | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mllm.device

    @torch.inference_mode()
    def reply(
        self,
        text: str,
        frames: Sequence[np.ndarray] = (),
        *,
        clip: bool = False,
        regions: Sequence[np.ndarray] = (),
        history: str = "",
        max_new_tokens: int | None = None,
        choose: Choice | None = None,
        expected: Sequence[Sequence[int]] = (),
    ) -> Reply:
        """Asks the language model.

        Args:
            text: the user's turn; `<image>` marks where the frames stand.
            frames: uint8 [H, W, 3]; one image, or with `clip` the keyframes in order.
            clip: frames of a video: each is one tile.
            regions: bool [H, W] masks on the one image, called region1, region2 … in the text.
            history: earlier turns, as they were sent and answered.
            choose: see `Decoder.greedy`.
            expected: answers as token ids that are checked in one forward; the reply is the same without them.

        Raises:
            InputError: frames without `<image>`, regions on a clip, or an array of the wrong kind.
        """
        mllm, limit = self.mllm, max_new_tokens or self.config.max_new_tokens
        seen = self._look(text, frames, clip=clip, regions=regions) if frames else None
        user, visual = mllm.user_turn(text, seen.visual if seen else None, regions)
        ids, prefix = mllm.prompt_ids(user, history), None
        whole = mllm.decoder.span is not None and len(ids) > mllm.decoder.span
        if seen is not None and not regions and not history and not whole:
            prefix = self._prefix(seen, ids)
        rest = ids[len(prefix.ids) :] if prefix else ids
        inputs = mllm.inputs(rest, None if prefix else visual)
        if choose is None and expected:
            generated = mllm.decoder.guess(inputs, limit, expected, prefix=prefix)
        else:
            generated = mllm.decoder.greedy(inputs, limit, prefix=prefix, choose=choose)
        raw = mllm.tokenizer.decode(list(generated.ids))
        plain, phrases = prompts.parse_answer(raw, mllm.template.stop_words)
        states = mllm.seg_states(ids, generated) if frames else generated.states[:0]
        return Reply(plain, raw, phrases, self.text_hidden_fcs(states), generated)

    def _look(
        self,
        text: str,
        frames: Sequence[np.ndarray],
        *,
        clip: bool,
        regions: Sequence[np.ndarray],
    ) -> _Seen:
        """Visual tokens of the frames; those of the last question are kept."""
        if prompts.IMAGE_PLACEHOLDER not in text:
            raise InputError(
                f"text {text!r} has no {prompts.IMAGE_PLACEHOLDER}, but frames were given"
            )
        if regions and (clip or len(frames) > 1):
            raise InputError("regions: given with a clip; expected a single image")
        shown = [np.ascontiguousarray(images.check_rgb(frame)) for frame in frames]
        key = (clip, *((frame.shape, zlib.crc32(frame.data)) for frame in shown))
        if self._seen is not None and self._seen.key == key:
            return self._seen
        seen = _Seen(key, self.mllm.look(shown, clip=clip))
        self._seen = seen
        return seen

    def _prefix(self, seen: _Seen, ids: Sequence[int]) -> Prefix:
        """The prompt up to its last image, read once for all questions about the same frames."""
        end = len(ids) - list(reversed(ids)).index(self.mllm.image_end_id)
        if seen.prefix is None or seen.prefix.ids != tuple(ids[:end]):
            seen.prefix = self.mllm.decoder.read(
                ids[:end], self.mllm.inputs(ids[:end], seen.visual)
            )
        return seen.prefix

    def ground(self, frames: Sequence[np.ndarray], expression: str) -> Reply:
        """What an expression means on the newest keyframes: a [SEG] embedding, or none with the model's words.

        Args:
            frames: uint8 [H, W, 3]; the last `config.keyframes` of them are shown to the model.
            expression: what the user typed.

        Raises:
            InputError: the expression is empty or too long, or there is no frame.
        """
        if not len(frames):
            raise InputError("ground: no frames given; expected at least one")
        question = prompts.referring_question(prompts.clean_expression(expression))
        shown = list(frames)[-self.config.keyframes :]
        text = f"{prompts.IMAGE_PLACEHOLDER}\n{question}"
        return self.reply(text, shown, clip=len(shown) > 1, expected=self.mllm.answers)

    @torch.inference_mode()
    def encode_image(self, image: np.ndarray) -> ImageFeatures:
        """SAM-2's features of one uint8 [H, W, 3] image."""
        pixels = images.sam_pixels(image, self.config.sam2)
        return self.grounder.encode_image(pixels.to(self.device, self.grounder.dtype))

    @torch.inference_mode()
    def segment(self, image: np.ndarray, expression: str) -> Segmentation:
        """Referring segmentation of one image.

        Args:
            image: uint8 [H, W, 3].

        Raises:
            InputError: as `ground`.
        """
        reply = self.ground([image], expression)
        features = self.encode_image(image)
        height, width = image.shape[:2]
        masks, scores = [], []
        for embedding in reply.embeddings:
            decoded = self.grounder.decode(
                features, self.grounder.without_memory(features), Prompt(embedding=embedding)
            )
            visible = not self.config.sam2.object_score_gate or float(decoded.object_scores) > 0
            if visible:
                logits = images.masks_to_image(
                    decoded.logits, self.config.sam2.image_size, height, width
                )
                masks.append((logits[0] > 0).cpu().numpy())
                scores.append(float(decoded.quality))
        stacked = np.stack(masks) if masks else np.zeros((0, height, width), bool)
        return Segmentation(bool(masks), reply.text, stacked, np.array(scores, np.float32))

    @torch.inference_mode()
    def ask(
        self, frames: Sequence[np.ndarray], question: str, regions: Sequence[np.ndarray] = ()
    ) -> Answer:
        """Chat, captions, grounded captions and questions about regions, on an image or a clip.

        Args:
            frames: uint8 [H, W, 3], all of one size; none for plain chat.
            question: the user's words.
            regions: bool [H, W] masks on a single image.

        Raises:
            InputError: frames of different sizes, or regions on a clip.
        """
        question = prompts.clean_expression(question)
        if not len(frames):
            reply = self.reply(question)
            return Answer(reply.text, reply.phrases, np.zeros((0, 0, 0, 0), bool))
        sizes = {frame.shape for frame in frames}
        if len(sizes) > 1:
            raise InputError(f"ask: frames have sizes {sorted(sizes)}; expected one size")
        shown = list(frames)[: self.config.keyframes]
        text = f"{prompts.IMAGE_PLACEHOLDER}\n{question}"
        reply = self.reply(text, shown, clip=len(frames) > 1, regions=regions)
        return Answer(
            reply.text, reply.phrases, self.propagate(frames, reply.embeddings, len(shown))
        )

    @torch.inference_mode()
    def propagate(
        self, frames: Sequence[np.ndarray], embeddings: Tensor, keyframes: int
    ) -> np.ndarray:
        """Masks of K prompts on all frames: the first `keyframes` are prompted, the rest tracked.

        Returns:
            bool [K, T, H, W].
        """
        height, width = frames[0].shape[:2]
        masks = np.zeros((len(embeddings), len(frames), height, width), bool)
        if not len(embeddings):
            return masks
        tracker = OnlineTracker(self.grounder, TrackerConfig(max_conditioning=max(keyframes, 1)))
        for k, embedding in enumerate(embeddings):
            tracker.add(str(k), Prompt(embedding=embedding), frames=keyframes)
        for t, frame in enumerate(frames):
            for name, seen in tracker.step(self.encode_image(frame)).items():
                logits = images.masks_to_image(
                    seen.logits, self.config.sam2.image_size, height, width
                )
                masks[int(name), t] = (logits[0] > 0).cpu().numpy()
        return masks
