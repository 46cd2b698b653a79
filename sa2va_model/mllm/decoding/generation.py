# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding that keeps states, for one question or many, and its short cut: known answers checked in one forward.

A trained Sa2VA answers a referring question with one of a few sentences. All of them are fed at once behind the
question, as branches that do not see each other (`token_tree.py`); the same logits tell whether greedy decoding would
have written one of them. If so, the answer is there after one forward; if not, decoding goes on from the mismatch.
Several questions about the same images are branches, too: the images are read once, and every forward serves all.
Either way tokens, logits and states are those of token-by-token decoding of each question alone.

Letters: P tokens of the shared beginning, L new prompt tokens, T tokens of the tree, C hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from sa2va_model.mllm.cuda_graph import GraphedForward, GraphStore
from sa2va_model.mllm.decoding.packing import Passage, read_packed
from sa2va_model.mllm.decoding.speculative import SpeculativeDecoding
from sa2va_model.mllm.decoding.token_tree import ATTENTION
from sa2va_model.mllm.layers import run_layers
from sa2va_model.mllm.types import CachedPrefix, Choice, Generated, Inputs, Stops, UnreadPrefix

__all__ = ["Choice", "Generator", "Generated", "Inputs", "UnreadPrefix", "CachedPrefix", "Stops"]


Asked = tuple[UnreadPrefix | CachedPrefix | None, Sequence[Inputs]]
"""A beginning, and the questions behind it."""


class Generator:
    """Runs one language model.

    Args:
        model: a causal language model of transformers, or a vision-language model around one.
        stop_ids: tokens that end an answer.
        stops: ends an answer that is not ended by one token.
        mrope: positions have three axes (Qwen-VL).
        span: sequences longer than this are read token by token and in one piece, because there the model's positions
            or attention depend on what is read at once; None = no such length.
        before_norm: the states that are kept are those before the final norm, not after it (Qwen3-VL).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: frozenset[int],
        *,
        stops: Stops | None = None,
        mrope: bool = False,
        span: int | None = None,
        before_norm: bool = False,
    ) -> None:
        self._body: Any = getattr(model.model, "language_model", model.model)
        self._body.set_attn_implementation(ATTENTION)
        self._head: Any = model.lm_head
        if before_norm:
            self._head = _normed(self._body.norm, model.lm_head)
            self._body = _without_norm(self._body)
        self._embed: Any = model.get_input_embeddings()
        self._stop_ids = stop_ids
        self._stops = stops
        self._mrope = mrope
        self.span = span
        self._graphed: GraphedForward | None = None

    def use_graphs(self, make_store: Callable[[], GraphStore] | None) -> None:
        """Has the first forward of questions replayed as CUDA graphs from now on; None = no longer.

        Graphs hold the weights as they are: call it again after they were changed.
        """
        self._graphed = None if make_store is None else GraphedForward(self._body, make_store)

    def graphs_serve(self, tokens: int, tree: int) -> bool:
        """A first forward of so many tokens, `tree` of them in a tree, is replayed and wants its mask."""
        exact = self.span is None or tokens <= self.span
        return self._graphed is not None and exact and self._graphed.serves(tree)

    def read(self, ids: Sequence[int], prompt: Tensor | Inputs) -> CachedPrefix:
        """Reads the beginning of a prompt, [1, P, C], ahead of any question."""
        inputs, cache = _as_inputs(prompt), DynamicCache()
        [states] = self.forward([Passage(inputs, self.positions(inputs, 0, 0, ()), cache, None)])
        return CachedPrefix(tuple(ids), cache, states, inputs.shift)

    def greedy(
        self,
        prompt: Tensor | Inputs,
        limit: int,
        *,
        prefix: CachedPrefix | None = None,
        choose: Choice | None = None,
    ) -> Generated:
        """Token by token.

        Args:
            prompt: [1, L, C], what stands behind `prefix`.
            limit: most new tokens.
            choose: overrides the arg-max; used to replay a given answer.
        """
        return self.guess(prompt, limit, (), prefix=prefix, choose=choose)

    def guess(
        self,
        prompt: Tensor | Inputs,
        limit: int,
        answers: Sequence[Sequence[int]],
        *,
        prefix: CachedPrefix | None = None,
        choose: Choice | None = None,
    ) -> Generated:
        """The same as `greedy`, in one forward if the model answers with one of `answers`.

        Args:
            answers: token ids, each with its stop token.
        """
        inputs, opening = _as_inputs(prompt), None
        if (
            prefix is None and inputs.positions is not None
        ):  # images: their places are not counted up
            head, inputs = inputs.split(len(inputs) - 1)
            opening = UnreadPrefix((), head)
        start = prefix or opening
        return self.answer(start, [inputs], limit, answers, choose=choose)[0][0]

    def answer(
        self,
        start: UnreadPrefix | CachedPrefix | None,
        questions: Sequence[Inputs],
        limit: int,
        answers: Sequence[Sequence[int]] = (),
        *,
        exact: bool = True,
        choose: Choice | None = None,
        keep_logits: bool = True,
    ) -> tuple[list[Generated], CachedPrefix | None]:
        """Answers questions that share the beginning of their prompts; what is common is computed once.

        Args:
            start: what the questions share; an `UnreadPrefix` is read on the way.
            questions: the text behind it, one for each.
            limit: most new tokens of each answer.
            answers: token ids, each with its stop token, that are checked in the first forward.
            exact: what greedy decoding would write; otherwise that of `answers` with the highest probability, which
                is never more than one forward.
            choose: overrides the arg-max; for a single question without `answers`.
            keep_logits: as long answers with a large vocabulary would fill gigabytes.

        Returns:
            An answer for each question, and the beginning as it was read (`start` itself if it was a prefix).
        """
        fitting = self._fitting(answers, limit) if choose is None else []
        shared = _length(start)
        if self.span is not None:
            longest = max(map(len, questions)) + max((len(a) for a in fitting), default=0)
            if shared + longest > self.span:
                fitting = []
            if len(questions) > 1 and shared + sum(map(len, questions)) > self.span:
                return self._one_by_one(start, questions, limit, fitting, exact, keep_logits)
        run = SpeculativeDecoding(self, start, questions, fitting, keep_logits=keep_logits)
        self._complete([run], limit, None if exact else fitting, choose)
        return run.answers(), run.prefix

    def answer_together(
        self,
        asked: Sequence[Asked],
        limit: int,
        answers: Sequence[Sequence[int]] = (),
    ) -> list[tuple[list[Generated], CachedPrefix | None]]:
        """What `answer` returns for each of several beginnings and their questions, with every forward for all.

        Sequences that are limited in length (`span`) are read one after the other.
        """
        if self.span is not None or len(asked) == 1:
            return [self.answer(start, questions, limit, answers) for start, questions in asked]
        fitting = self._fitting(answers, limit)
        runs = [SpeculativeDecoding(self, start, own, fitting, packed=True) for start, own in asked]
        self._complete(runs, limit, None, None)
        return [(run.answers(), run.prefix) for run in runs]

    def _fitting(self, answers: Sequence[Sequence[int]], limit: int) -> list[tuple[int, ...]]:
        return [tuple(a) for a in answers if 1 < len(a) <= limit]

    def _complete(
        self,
        runs: Sequence[SpeculativeDecoding],
        limit: int,
        likeliest: Sequence[Sequence[int]] | None,
        choose: Choice | None,
    ) -> None:
        """Reads until all answers are complete.

        Args:
            likeliest: take the likeliest of these.
        """
        while waiting := [run for run in runs if run.pending]:
            states = self.forward([run.due() for run in waiting])
            for run, new in zip(waiting, states, strict=True):
                for line, logits in run.read(new):
                    if likeliest:
                        run.take_likeliest(line, logits, likeliest)
                    else:
                        run.follow(line, logits, limit, choose)

    def _one_by_one(
        self,
        start: UnreadPrefix | CachedPrefix | None,
        questions: Sequence[Inputs],
        limit: int,
        answers: Sequence[Sequence[int]],
        exact: bool,
        keep_logits: bool,
    ) -> tuple[list[Generated], CachedPrefix | None]:
        """Questions that do not fit into one sequence."""
        out: list[Generated] = []
        for question in questions:
            given, start = self.answer(
                start, [question], limit, answers, exact=exact, keep_logits=keep_logits
            )
            out += given
        return out, start if isinstance(start, CachedPrefix) else None

    def complete(self, ids: Sequence[int]) -> bool:
        """Whether an answer ends here."""
        return ids[-1] in self._stop_ids or (self._stops is not None and self._stops(ids))

    def embed(self, ids: Sequence[int], device: torch.device) -> Tensor:
        """[1, L, C]."""
        embedded: Tensor = self._embed(torch.tensor([list(ids)], device=device, dtype=torch.long))
        return embedded

    def logits(self, states: Tensor) -> Tensor:
        """[L, C] to [L, V]."""
        scores: Tensor = self._head(states)
        return scores

    def positions(
        self, head: Inputs | None, past: int, shift: int, depths: Sequence[int]
    ) -> Tensor:
        """Positions of a beginning that is read now and of the tree behind it: [1, L], or [3, 1, L] with M-RoPE."""
        tail = torch.tensor([depths], dtype=torch.long) + (past + shift)
        if self._mrope:
            tail = tail.expand(3, 1, -1)
        if head is None:
            return tail.to(self._body.device)
        first = head.positions
        if first is None:
            first = torch.arange(len(head))[None]
            first = first.expand(3, 1, -1) if self._mrope else first
        return torch.cat([first.to(self._body.device), tail.to(self._body.device)], dim=-1)

    def forward(self, passages: Sequence[Passage]) -> list[Tensor]:
        """Final-norm states [L, C] of the new inputs of each sequence; their caches grow by them."""
        if len(passages) > 1:
            return read_packed(self._body, passages)
        one = passages[0]
        inputs, mask = one.inputs, one.mask
        if one.replay and self._graphed is not None and mask is not None:
            replayed = self._graphed(inputs, one.positions, one.cache, mask)
            if replayed is not None:
                return [replayed]
        extra: dict[str, Any] = {}
        if inputs.deep:
            extra = {
                "visual_pos_masks": inputs.visual,
                "deepstack_visual_embeds": list(inputs.deep),
            }
        return [run_layers(self._body, inputs.embeddings, one.positions, one.cache, mask, extra)]


def _length(start: UnreadPrefix | CachedPrefix | None) -> int:
    if start is None:
        return 0
    return len(start.ids if isinstance(start, CachedPrefix) else start.inputs)


def _as_inputs(prompt: Tensor | Inputs) -> Inputs:
    return prompt if isinstance(prompt, Inputs) else Inputs(prompt)


def _without_norm(body: nn.Module) -> nn.Module:
    """The same layers, not copied, without the final norm behind them."""
    bare = copy.copy(body)
    bare._modules = {**body._modules, "norm": nn.Identity()}
    return bare


def _normed(norm: nn.Module, head: nn.Module) -> Callable[[Tensor], Tensor]:
    """The head for states that were not normalised."""

    def scores(states: Tensor) -> Tensor:
        out: Tensor = head(norm(states))
        return out

    return scores
