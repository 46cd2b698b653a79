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

from sa2va_model.mllm.decoding.packing import Passage
from sa2va_model.mllm.decoding.token_tree import ROOT, Tree
from sa2va_model.mllm.types import CachedPrefix, Choice, Generated, Inputs, UnreadPrefix

if TYPE_CHECKING:
    from sa2va_model.mllm.decoding.generation import Generator


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
        packed: bool = False,
    ) -> None:
        self._keep_logits, self._packed = keep_logits, packed
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
        self._rows: list[tuple[PartialAnswer, int, int]] = []  # whose logits are wanted next
        self.lines: list[PartialAnswer] = []

    @property
    def pending(self) -> bool:
        """Whether something is to be read."""
        return not self.lines or any(line.pending for line in self.lines)

    def due(self) -> Passage:
        """What is to be read next: questions and known answers, then one more token of every open answer."""
        first = len(self._tree)
        return self._passage(
            self._next_tokens() if self.lines else self._questions_and_answers(), first
        )

    def read(self, states: Tensor) -> Iterator[tuple[PartialAnswer, Tensor]]:
        """Each line that was read with the logits of its last token and of its branches.

        Args:
            states: of what was due.
        """
        if self._head is not None:
            self._keep_prefix(states[: len(self._head)])
            states = states[len(self._head) :]
            self._head = None
        self._states.append(states)
        wanted = torch.cat([states[begin:end] for _, begin, end in self._rows])
        logits = self._decoder.logits(wanted).split([end - begin for _, begin, end in self._rows])
        yield from zip((line for line, _, _ in self._rows), logits, strict=True)

    def _questions_and_answers(self) -> Tensor:
        """Embeddings of the tree as it begins, [1, T, C]."""
        decoder, tree = self._decoder, self._tree
        sentences = [answer[:-1] for answer in self._answers]  # a last token is never an input
        alike = self._alike()
        trunk = tree.chain(alike)  # the words with which all questions begin
        parts = [self._questions[0].embeddings[:, :alike]]
        for question in self._questions:
            parent = trunk[-1] if trunk else ROOT
            nodes = [*trunk, *tree.chain(len(question) - alike, parent)]
            grafted = tree.graft(nodes[-1], sentences)
            parts.append(question.embeddings[:, alike:])
            if grafted:
                parts.append(decoder.embed(grafted, question.embeddings.device))
            self.lines.append(PartialAnswer(nodes))
            self._rows.append((self.lines[-1], nodes[-1], len(tree)))
        return torch.cat(parts, dim=1)

    def _next_tokens(self) -> Tensor:
        """Embeddings of the last token of every answer that is not complete, [1, n, C]."""
        lines = [line for line in self.lines if line.pending]
        for line in lines:
            line.nodes.append(self._tree.add(line.nodes[-1]))
            line.forwards += 1
        self._rows = [(line, n, n + 1) for n, line in enumerate(lines)]
        return self._decoder.embed([line.ids[-1] for line in lines], self._states[0].device)

    def _alike(self) -> int:
        """How many tokens all questions begin with; the last one of a question is always its own."""
        ids = [question.ids for question in self._questions]
        if len(ids) < 2 or not all(ids):
            return 0
        shortest = min(map(len, ids)) - 1
        return next((n for n in range(shortest) if len({i[n] for i in ids}) > 1), shortest)

    def _passage(self, embeddings: Tensor, first: int) -> Passage:
        """The tree's tokens from `first` on; the beginning is read with them if it was not yet."""
        decoder, tree, head = self._decoder, self._tree, self._head
        positions = decoder.positions(head, self._past, self._shift, tree.depths[first:])
        inputs = Inputs(embeddings)
        if head is not None:
            visual = None if head.visual is None else F.pad(head.visual, (0, embeddings.shape[1]))
            both = torch.cat([head.embeddings, embeddings], dim=1)
            inputs = Inputs(both, visual=visual, deep=head.deep)
        new = len(tree) - first
        replay = not self._packed and first == 0
        replay = replay and decoder.graphs_serve(self._past + len(tree), new)
        # In a packed row nobody else makes the mask of tokens behind a cache.
        explicit = replay or (self._packed and head is None)
        mask = tree.mask(first, self._past, embeddings, explicit=explicit)
        return Passage(inputs, positions, self._cache, mask, replay)

    def _keep_prefix(self, states: Tensor) -> None:
        """What was read of the beginning, for other questions."""
        assert isinstance(self._start, UnreadPrefix)
        cache = DynamicCache()
        for i, layer in enumerate(self._cache.layers):
            cache.update(layer.keys[..., : self._past, :], layer.values[..., : self._past, :], i)
        self.prefix = CachedPrefix(self._start.ids, cache, states, self._shift)

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

    def answers(self) -> list[Generated]:
        """The finished answer to each question."""
        return [self._generated(line) for line in self.lines]

    def _generated(self, line: PartialAnswer) -> Generated:
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
