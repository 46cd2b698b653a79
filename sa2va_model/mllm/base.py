# SPDX-License-Identifier: Apache-2.0
"""The language half of Sa2VA, whatever its family: words and images in, answers with the states at `[SEG]` out.

`Mllm.look` sees frames, `Mllm.inputs` puts what it saw into a prompt, `Mllm.decoder` answers it and keeps the
final-norm state of every token; those at `[SEG]` become prompts for SAM-2 (arXiv 2501.04001, section 3.2). The families
are in `families/`; `registry.py` chooses.

Letters: B batch, L tokens, K visual tokens, C hidden size of the language model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sa2va_model.config.model import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.cuda_graph import GraphedStages, GraphStore, Stage
from sa2va_model.mllm.decoding.generation import Generator
from sa2va_model.mllm.llm import exact_span
from sa2va_model.mllm.types import Generated, Inputs
from sa2va_model.mllm.vision import Visual

HEADS = 16
"""Beginnings of prompts whose token ids are kept: one for each number of tiles or frames, as long as nobody chats."""
STOP_WINDOW = 32
"""Tokens at the end of an answer in which a stop word is looked for that is no token of its own."""


class Mllm(nn.Module):
    """A multimodal language model and its tokenizer.

    Args:
        language_model: a causal language model of transformers, or a vision-language model around one.
        template: how a turn is written, and what ends an answer.
        image_tokens: the token that stands for one visual token, and the one that ends an image.
        mrope: visual tokens have rows and columns as positions.
        before_norm: `text_hidden_fcs` was trained on states before the final norm.
    """

    prompt_points = False
    """Whether a `[SEG]` in the prompt counts as well, as in the official code of some families."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: PreTrainedTokenizerBase,
        language_model: PreTrainedModel,
        *,
        template: prompts.Template,
        image_tokens: tuple[str, str],
        mrope: bool = False,
        before_norm: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.language_model = language_model
        text = language_model.config.get_text_config()
        self.hidden_size = int(text.hidden_size)
        self.template = template
        highest, rows = max(tokenizer.get_vocab().values()), int(text.vocab_size)
        if highest >= rows:
            raise InputError(
                f"tokenizer: its highest token is {highest}, but the language model has {rows} (vocab_size); "
                "expected the tokenizer of this checkpoint"
            )
        self.seg_id = self._token_id(prompts.SEG)
        tokens = prompts.seg_tokens(config.seg, config.keyframes)
        self.seg_ids = tuple(dict.fromkeys(self._token_id(token) for token in tokens))
        self.image_id, self.image_end_id = (self._token_id(token) for token in image_tokens)
        self._image_end = image_tokens[1]
        self._heads: dict[str, list[int]] = {}
        self.stop_ids, self._stop_texts = self._stops(template.stop_words)
        self._stages: GraphedStages | None = None
        self.generator = Generator(
            language_model,
            self.stop_ids,
            stops=self._stopped if self._stop_texts else None,
            mrope=mrope,
            span=exact_span(text),
            before_norm=before_norm,
        )
        sentences = (*prompts.ANSWERS, *config.extra_answers)
        spelt = (self.spellings(text + template.stop_words[0]) for text in sentences)
        self.answers = tuple(dict.fromkeys(ids for several in spelt for ids in several))

    def spellings(self, text: str) -> list[tuple[int, ...]]:
        """The token ids with which the model may write a text, likeliest first."""
        return [tuple(self.tokenizer.encode(text, add_special_tokens=False))]

    def _token_id(self, token: str) -> int:
        ids = self.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise InputError(
                f"tokenizer: {token!r} is {len(ids)} tokens; expected one special token, "
                "as a Sa2VA checkpoint's tokenizer has"
            )
        return int(ids[0])

    def _stops(self, words: Sequence[str]) -> tuple[frozenset[int], tuple[str, ...]]:
        """Stop words that are tokens, and those that are written with several (phi3_chat with a Qwen vocabulary)."""
        ids, texts = [], []
        for word in words:
            pieces = self.tokenizer.encode(word, add_special_tokens=False)
            if len(pieces) == 1:
                ids.append(int(pieces[0]))
            else:
                texts.append(word)
        if self.tokenizer.eos_token_id is not None:
            ids.append(int(self.tokenizer.eos_token_id))
        return frozenset(ids), tuple(texts)

    def _stopped(self, ids: Sequence[int]) -> bool:
        """As the official stop criterion: the text so far, without line breaks, ends with a stop word."""
        text = self.tokenizer.decode(list(ids[-STOP_WINDOW:]))
        return text.replace("\r", "").replace("\n", "").endswith(self._stop_texts)

    def use_graphs(self, make_store: Callable[[], GraphStore] | None) -> None:
        """Has what is computed again and again replayed as CUDA graphs from now on; None = no longer.

        Graphs hold the weights as they are: call it again after they were changed.
        """
        self.generator.use_graphs(make_store)
        self._stages = None if make_store is None else GraphedStages(make_store())

    def replayed(self, name: str, stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
        """`stage(*inputs)`; a graph where there are graphs and these shapes come again."""
        return stage(*inputs) if self._stages is None else self._stages(name, stage, inputs)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.language_model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.language_model.get_input_embeddings().weight.dtype  # type: ignore[no-any-return, union-attr]

    @abstractmethod
    def seen_pixels(self, frames: Sequence[np.ndarray], *, clip: bool) -> Tensor:
        """What the vision model gets of uint8 [H, W, 3] frames, in its own layout; for comparisons."""

    def open_readings(self) -> dict[str, Callable[[], None]]:
        """What the checkpoint's files leave open: by name, what makes this model read them so."""
        return {}

    def as_recorded(self, environment: Mapping[str, Any]) -> None:
        """Take over what stood in for parts that a recorded run of the official code did not have.

        Args:
            environment: `_env` of the record's manifest.
        """
        if isinstance(system := environment.get("system_prompt"), str):
            self.template = replace(self.template, system=system)

    @abstractmethod
    def look(self, frames: Sequence[np.ndarray], *, clip: bool) -> Visual:
        """What the vision model sees of uint8 [H, W, 3] frames; `clip` = they are frames of a video."""

    @abstractmethod
    def user_turn(
        self, text: str, visual: Visual | None, regions: Sequence[np.ndarray] = ()
    ) -> tuple[str, Visual | None]:
        """The user's words with the images where the family puts them, and the visual tokens that stand there.

        Args:
            text: `<image>` marks where the images stand, where the family lets the user choose.
            regions: bool [H, W] masks on the one image; named region1, region2 … behind it.

        Raises:
            InputError: regions for a family that has none.
        """

    def prompt_ids(self, user_text: str, history: str = "") -> list[int]:
        """Token ids of one user turn in the checkpoint's chat template, behind what was said before."""
        text = history + self.template.instruction.format(input=user_text)
        if not text.startswith(self.template.system):
            text = self.template.system + text
        return self._encoded(text)

    def _encoded(self, text: str) -> list[int]:
        """The token ids of a prompt; what stands before the end of the last image, hundreds of tokens, is kept.

        A text falls into pieces at such a token before anything else is done to it, so what follows has the same ids
        behind any image. That it is so with this tokenizer is seen on the first prompt.
        """
        head, mark, tail = text.rpartition(self._image_end)
        if not mark:
            return list(self.tokenizer.encode(text))
        rest = self.tokenizer.encode(mark + tail, add_special_tokens=False)[1:]
        known = self._heads.get(head)
        if known is not None:
            return [*known, *rest]
        ids = list(self.tokenizer.encode(text))
        cut = len(ids) - ids[::-1].index(self.image_end_id)
        if ids[cut:] == rest:
            if len(self._heads) == HEADS:
                self._heads.clear()
            self._heads[head] = ids[:cut]
        return ids

    def embed(self, ids: Tensor, visual: Tensor | None) -> Tensor:
        """Embeddings [B, L, C] of token ids [B, L], with `visual` [K, C] at the K image tokens, in order.

        Raises:
            InputError: there are more or fewer places than visual tokens.
        """
        embeddings: Tensor = self.language_model.get_input_embeddings()(ids)
        places = ids == self.image_id
        given = 0 if visual is None else len(visual)
        if int(places.sum()) != given:
            raise InputError(
                f"prompt: {int(places.sum())} image tokens for {given} visual tokens; expected as many"
            )
        if visual is None:
            return embeddings
        embeddings = embeddings.clone()
        embeddings[places] = visual.to(embeddings.dtype)
        return embeddings

    def inputs(self, ids: Sequence[int], visual: Visual | None) -> Inputs:
        """What the decoder reads for token ids, with `visual` in the places of its tokens."""
        tokens = torch.tensor([list(ids)], device=self.device)
        return Inputs(self.embed(tokens, None if visual is None else visual.tokens))

    def seg_states(self, prompt: Sequence[int], generated: Generated) -> Tensor:
        """The states at every `[SEG]` that counts, [K, C]."""
        if not self.prompt_points:
            return generated.states_at(self.seg_id)
        fed = torch.tensor([*prompt, *generated.ids[:-1]], device=generated.states.device)
        return generated.states[fed == self.seg_id]
