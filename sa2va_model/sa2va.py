# SPDX-License-Identifier: Apache-2.0
"""Sa2VA: the language model that says what is meant joined to SAM-2 that says where it is (arXiv 2501.04001).

    frames ──► visual tokens ─┐
    question ─► text tokens ──┴► language model ─► answer; state at each [SEG] ─► text_hidden_fcs ─► prompt for SAM-2

Here: one question about an image or a clip. Following an object through a stream is `tracker.py` and `live.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sa2va_model import images, prompts
from sa2va_model.config import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.grounding import Grounder, ImageFeatures, Prompt
from sa2va_model.mllm import Choice, Generated, Mllm
from sa2va_model.tracker import OnlineTracker, TrackerConfig


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


class Sa2VA(nn.Module):
    """The whole model. Build it with `checkpoints.load_model`."""

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.config = config
        self.mllm = Mllm(config, tokenizer)
        hidden = int(config.llm["hidden_size"])
        self.text_hidden_fcs = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, config.sam2.hidden_dim),
            nn.Dropout(0.0),
        )
        self.grounder = Grounder(config.sam2)

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
    ) -> Reply:
        """Asks the language model.

        Args:
            text: the user's turn; `<image>` marks where the frames stand.
            frames: uint8 [H, W, 3]; one image, or with `clip` the keyframes in order.
            clip: frames of a video: each is one tile.
            regions: bool [H, W] masks on the one image, called region1, region2 … in the text.
            history: earlier turns, as they were sent and answered.
            choose: see `Mllm.generate`.

        Raises:
            InputError: frames without `<image>`, regions on a clip, or an array of the wrong kind.
        """
        user, visual = self._user_turn(text, frames, clip=clip, regions=regions)
        ids = self.mllm.tokenizer.encode(
            history + self.mllm.template.instruction.format(input=user)
        )
        embeddings = self.mllm.embed(torch.tensor([ids], device=self.device), visual)
        limit = max_new_tokens or self.config.max_new_tokens
        generated = self.mllm.generate(embeddings, limit, choose)
        raw = self.mllm.tokenizer.decode(list(generated.ids))
        plain, phrases = prompts.parse_answer(raw, self.mllm.template.stop_words)
        states = generated.states_at(self.mllm.seg_id) if frames else generated.states[:0]
        return Reply(plain, raw, phrases, self.text_hidden_fcs(states), generated)

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
        return self.reply(f"{prompts.IMAGE_PLACEHOLDER}\n{question}", shown, clip=len(shown) > 1)

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

    def _user_turn(
        self,
        text: str,
        frames: Sequence[np.ndarray],
        *,
        clip: bool,
        regions: Sequence[np.ndarray],
    ) -> tuple[str, Tensor | None]:
        """The user's turn with image blocks, and the visual tokens [K, C] that stand in them."""
        if not frames:
            return text.replace(prompts.IMAGE_PLACEHOLDER, ""), None
        if prompts.IMAGE_PLACEHOLDER not in text:
            raise InputError(
                f"text {text!r} has no {prompts.IMAGE_PLACEHOLDER}, but frames were given"
            )
        if regions and (clip or len(frames) > 1):
            raise InputError("regions: given with a clip; expected a single image")
        tiles = [images.tiles(frame, self.config, single=clip) for frame in frames]
        visual = self.mllm.visual_tokens(torch.cat(tiles))
        per_tile = self.config.tokens_per_tile
        block = "\n".join(prompts.image_block(per_tile * len(t)) for t in tiles)
        parts = [visual.flatten(0, 1)]
        if regions:
            cells = [images.region_cells(region, self.config).flatten() for region in regions]
            block += prompts.region_text([int(c.sum()) for c in cells])
            parts += [visual[-1][c.to(visual.device)] for c in cells]
        return text.replace(prompts.IMAGE_PLACEHOLDER, block, 1), torch.cat(parts)
