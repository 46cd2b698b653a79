# SPDX-License-Identifier: Apache-2.0
"""One run of the decoder: questions and known answers laid out as a tree, read, followed, and decoded to their ends.

`Generator.answer` says what is computed; here is how the tree, the cache and the answers are kept together.

Letters: M tokens of known answers behind a question, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from sa2va_model.mllm.token_tree import ROOT, Tree
from sa2va_model.mllm.types import CachedPrefix, Choice, Generated, Inputs, UnreadPrefix

if TYPE_CHECKING:
    from sa2va_model.mllm.generation import Generator


@dataclass
class PartialAnswer:
    """One question and its answer so far.

    Attributes:
        nodes: its tokens in the tree that were inputs.
        ids: the answer.
        logits: rows of [V], one for each token of the answer.
        forwards: in how many forwards it took part.
        pending: the last token of the answer has not been fed yet.
    """

    nodes: list[int]
    ids: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    forwards: int = 1
    pending: bool = False


class SpeculativeDecoding:
    """One call of `Generator.answer`: the tree, the cache that holds it, and what was computed."""

    def __init__(
        self,
        decoder: Generator,
        start: UnreadPrefix | CachedPrefix | None,
        questions: Sequence[Inputs],
        answers: Sequence[Sequence[int]],
        *,
        keep_logits: bool = True,
    ) -> None:
        self._keep_logits = keep_logits
        self._decoder = decoder
        self._answers = answers
        self._head = start.inputs if isinstance(start, UnreadPrefix) else None
        self._start = start
        self.prefix = start if isinstance(start, CachedPrefix) else None
        self._cache = self.prefix.extended() if self.prefix else DynamicCache()
        self._past = self._cache.get_seq_length() + (len(self._head) if self._head else 0)
        self._shift = self.prefix.shift if self.prefix else (self._head.shift if self._head else 0)
        self._questions = questions
        self._tree = Tree()
        self._states: list[Tensor] = []  # of the tree
        self.lines: list[PartialAnswer] = []

    def first(self) -> Iterator[tuple[PartialAnswer, Tensor]]:
        """Reads questions and answers; yields each line with the logits of its last token and its branches."""
        decoder, tree = self._decoder, self._tree
        sentences = [answer[:-1] for answer in self._answers]  # a last token is never an input
        alike = self._alike()
        trunk = tree.chain(alike)  # the words with which all questions begin
        parts = [self._questions[0].embeddings[:, :alike]]
        spans: list[tuple[int, int]] = []
        for question in self._questions:
            parent = trunk[-1] if trunk else ROOT
            nodes = [*trunk, *tree.chain(len(question) - alike, parent)]
            grafted = tree.graft(nodes[-1], sentences)
            parts.append(question.embeddings[:, alike:])
            if grafted:
                parts.append(decoder.embed(grafted, question.embeddings.device))
            self.lines.append(PartialAnswer(nodes))
            spans.append((nodes[-1], len(tree)))
        states = self._read(torch.cat(parts, dim=1), 0)
        wanted = torch.cat([states[begin:end] for begin, end in spans])
        logits = decoder.logits(wanted).split([end - begin for begin, end in spans])
        yield from zip(self.lines, logits, strict=True)

    def _alike(self) -> int:
        """How many tokens all questions begin with; the last one of a question is always its own."""
        ids = [question.ids for question in self._questions]
        if len(ids) < 2 or not all(ids):
            return 0
        shortest = min(map(len, ids)) - 1
        return next((n for n in range(shortest) if len({i[n] for i in ids}) > 1), shortest)

    def _read(self, embeddings: Tensor, first: int) -> Tensor:
        """States of the tree's tokens from `first` on; the beginning is read with them if it was not yet."""
        decoder, tree, head = self._decoder, self._tree, self._head
        positions = decoder.positions(head, self._past, self._shift, tree.depths[first:])
        inputs = Inputs(embeddings)
        if head is not None:
            visual = None if head.visual is None else F.pad(head.visual, (0, embeddings.shape[1]))
            both = torch.cat([head.embeddings, embeddings], dim=1)
            inputs = Inputs(both, visual=visual, deep=head.deep)
        new = len(tree) - first
        replay = first == 0 and decoder.graphs_serve(self._past + len(tree), new)
        mask = tree.mask(first, self._past, embeddings, explicit=replay)
        states = decoder.forward(inputs, positions, self._cache, mask, replay=replay)
        if head is not None:
            self._keep_prefix(states[: len(head)])
            states = states[len(head) :]
        self._states.append(states)
        return states

    def _keep_prefix(self, states: Tensor) -> None:
        """What was read of the beginning, for other questions."""
        assert isinstance(self._start, UnreadPrefix)
        cache = DynamicCache()
        for i, layer in enumerate(self._cache.layers):
            cache.update(layer.keys[..., : self._past, :], layer.values[..., : self._past, :], i)
        self.prefix = CachedPrefix(self._start.ids, cache, states, self._shift)
        self._head = None

    def follow(
        self, line: PartialAnswer, logits: Tensor, limit: int, choose: Choice | None
    ) -> None:
        """Writes what greedy decoding writes, for as long as its next token was read already.

        Args:
            logits: [1 + M, V], of the line's last token and of the M tokens grafted behind it.
        """
        last = line.nodes[-1]
        best = [] if choose else _likeliest(logits)
        while True:
            row = line.nodes[-1] - last
            if self._keep_logits:
                line.logits.append(logits[row])
            token = choose(len(line.ids), logits[row]) if choose else best[row]
            line.ids.append(token)
            line.pending = False
            if len(line.ids) >= limit or self._decoder.complete(line.ids):
                return
            child = self._tree.children[line.nodes[-1]].get(token)
            if child is None:
                line.pending = True
                return
            line.nodes.append(child)

    def take_likeliest(
        self, line: PartialAnswer, logits: Tensor, answers: Sequence[Sequence[int]]
    ) -> None:
        """Takes the known answer with the highest probability."""
        _likeliest(logits)
        scores, last = logits.float().log_softmax(-1), line.nodes[-1]

        def path(answer: Sequence[int]) -> list[int]:
            nodes = [last]
            for token in answer[:-1]:
                nodes.append(self._tree.children[nodes[-1]][token])
            return nodes

        def probability(answer: Sequence[int]) -> float:
            rows = [node - last for node in path(answer)]
            return float(scores[rows, list(answer)].sum())

        chosen = max(answers, key=probability)
        nodes = path(chosen)
        line.ids += chosen
        if self._keep_logits:
            line.logits += [logits[node - last] for node in nodes]
        line.nodes += nodes[1:]

    def step(self) -> Iterator[tuple[PartialAnswer, Tensor]]:
        """One more token of every answer that is not complete, in one forward."""
        tree, first = self._tree, len(self._tree)
        lines = [line for line in self.lines if line.pending]
        for line in lines:
            line.nodes.append(tree.add(line.nodes[-1]))
            line.forwards += 1
        embeddings = self._decoder.embed([line.ids[-1] for line in lines], self._states[0].device)
        logits = self._decoder.logits(self._read(embeddings, first))
        yield from zip(lines, logits[:, None], strict=True)

    def generated(self, line: PartialAnswer) -> Generated:
        """The finished answer."""
        if len(self._states) > 1:
            self._states = [torch.cat(self._states)]
        states = self._states[0]
        shared = states[:0] if self.prefix is None else self.prefix.states
        logits = torch.stack(line.logits) if line.logits else states.new_zeros(0, 0)
        return Generated(
            tuple(line.ids),
            logits,
            shared,
            states[line.nodes],
            line.forwards,
        )


def _likeliest(logits: Tensor) -> list[int]:
    """The token of each row with the highest score; FloatingPointError if scores are NaN or infinite."""
    scores, tokens = logits.max(-1)
    if not bool(torch.isfinite(scores).all()):
        raise FloatingPointError("the language model's scores are not finite (NaN or Inf)")
    return tokens.tolist()
