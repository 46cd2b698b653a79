# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding that keeps states, and its short cut: known answers checked in one forward.

A trained Sa2VA answers a referring question with one of a few sentences. All of them are fed at once behind the prompt,
as branches that do not see each other; the same logits tell whether greedy decoding would have written one of them.
If so, the answer is there after one forward; if not, decoding goes on where the best branch leaves the greedy path.
Either way tokens, logits and states are those of token-by-token decoding.

Letters: P cached tokens, L new prompt tokens, M branch tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

Choice = Callable[[int, Tensor], int]
"""Picks the next token id from (step, logits [V])."""


@dataclass(frozen=True)
class Generated:
    """A greedy answer.

    Attributes:
        ids: the new tokens, the stop token included.
        logits: float [new, V], raw, one row for each new token.
        states: [prompt + new - 1, C], after the final norm, of every token that was an input.
        forwards: how often the language model ran for it.
    """

    ids: tuple[int, ...]
    logits: Tensor
    states: Tensor
    forwards: int

    def states_at(self, token: int) -> Tensor:
        """States at the new tokens equal to `token` that were fed back: [K, C].

        A token that ends the answer was never an input and has no state.
        """
        fed = torch.tensor(self.ids[:-1], dtype=torch.long, device=self.states.device)
        if not len(fed):
            return self.states[:0]
        return self.states[-len(fed) :][fed == token]


@dataclass(frozen=True)
class Prefix:
    """A part of a prompt that was read already; many questions can share it.

    Attributes:
        ids: its tokens.
        cache: keys and values; never changed, `extended` copies it.
        states: [P, C].
    """

    ids: tuple[int, ...]
    cache: DynamicCache
    states: Tensor

    def extended(self) -> DynamicCache:
        """A cache that begins with this prefix."""
        cache = DynamicCache()
        for i, layer in enumerate(self.cache.layers):
            cache.update(layer.keys, layer.values, i)
        return cache


class Decoder:
    """Runs one language model.

    Args:
        model: a causal language model of transformers.
        stop_ids: tokens that end an answer.
    """

    def __init__(self, model: PreTrainedModel, stop_ids: frozenset[int]) -> None:
        self._body: Any = model.model
        self._head: Any = model.lm_head
        self._embed: Any = model.get_input_embeddings()
        self._stop_ids = stop_ids

    def read(self, ids: Sequence[int], embeddings: Tensor) -> Prefix:
        """Reads the beginning of a prompt, [1, P, C]."""
        cache = DynamicCache()
        return Prefix(tuple(ids), cache, self._forward(embeddings, cache))

    def greedy(
        self,
        embeddings: Tensor,
        limit: int,
        *,
        prefix: Prefix | None = None,
        choose: Choice | None = None,
    ) -> Generated:
        """Token by token.

        Args:
            embeddings: [1, L, C], the prompt behind `prefix`.
            limit: most new tokens.
            choose: overrides the arg-max; used to replay a given answer.
        """
        cache = prefix.extended() if prefix else DynamicCache()
        states = [] if prefix is None else [prefix.states]
        states.append(self._forward(embeddings, cache))
        return self._go_on(cache, [], [], states, self._head(states[-1][-1]), limit, choose, 1)

    def guess(
        self,
        embeddings: Tensor,
        limit: int,
        answers: Sequence[Sequence[int]],
        *,
        prefix: Prefix | None = None,
    ) -> Generated:
        """The same as `greedy`, in one forward if the model answers with one of `answers`.

        Args:
            answers: token ids, each with its stop token. Those longer than `limit` are left out.
        """
        answers = [answer for answer in answers if 1 < len(answer) <= limit]
        if not answers:
            return self.greedy(embeddings, limit, prefix=prefix)
        cache = prefix.extended() if prefix else DynamicCache()
        past, length = cache.get_seq_length(), embeddings.shape[1]
        branches = [list(answer[:-1]) for answer in answers]  # a last token is never an input
        tokens = torch.tensor(
            [[t for branch in branches for t in branch]], device=embeddings.device
        )
        inputs = torch.cat([embeddings, self._embed(tokens)], dim=1)
        mask, positions = _branch_mask(past, length, [len(b) for b in branches], inputs)
        states = self._forward(inputs, cache, mask, positions)
        logits = self._head(
            states[length - 1 :]
        )  # [1 + M, V]: the prompt's last row, then all branches
        path, start = self._follow(answers, logits)
        fed = min(len(path), len(answers[start.index]) - 1)
        rows = [0, *range(1 + start.offset, 1 + start.offset + fed)]
        kept = [states[:length], states[length + start.offset : length + start.offset + fed]]
        if prefix is not None:
            kept.insert(0, prefix.states)
        if path == list(answers[start.index]):
            return Generated(tuple(path), logits[rows], torch.cat(kept), 1)
        _keep_branch(cache, past + length, start.offset, fed)
        return self._go_on(
            cache, path, list(logits[rows[:-1]]), kept, logits[rows[-1]], limit, None, 1
        )

    def _follow(
        self, answers: Sequence[Sequence[int]], logits: Tensor
    ) -> tuple[list[int], _Branch]:
        """The longest beginning of an answer that greedy decoding would write, and its branch."""
        chosen = logits.argmax(-1).tolist()
        best: tuple[list[int], _Branch] = ([], _Branch(0, 0))
        offset = 0
        for index, answer in enumerate(answers):
            matched = 0
            while matched < len(answer):
                row = 0 if matched == 0 else offset + matched
                if chosen[row] != answer[matched]:
                    break
                matched += 1
            if matched > len(best[0]):
                best = (list(answer[:matched]), _Branch(index, offset))
            offset += len(answer) - 1
        return best

    def _go_on(
        self,
        cache: DynamicCache,
        ids: list[int],
        logits: list[Tensor],
        states: list[Tensor],
        step: Tensor,
        limit: int,
        choose: Choice | None,
        forwards: int,
    ) -> Generated:
        """Decodes from the logits of the last input on."""
        while True:
            logits.append(step)
            ids.append(int(step.argmax()) if choose is None else choose(len(ids), step))
            if ids[-1] in self._stop_ids or len(ids) >= limit:
                return Generated(tuple(ids), torch.stack(logits), torch.cat(states), forwards)
            token = torch.tensor([[ids[-1]]], device=step.device)
            states.append(self._forward(self._embed(token), cache))
            step, forwards = self._head(states[-1][-1]), forwards + 1

    def _forward(
        self,
        embeddings: Tensor,
        cache: DynamicCache,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Final-norm states [L, C] of new inputs [1, L, C]."""
        out: Tensor = self._body(
            inputs_embeds=embeddings,
            past_key_values=cache,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
        ).last_hidden_state[0]
        return out


@dataclass(frozen=True)
class _Branch:
    """Which answer, and where its tokens begin among all branch tokens."""

    index: int
    offset: int


def _branch_mask(
    past: int, length: int, sizes: Sequence[int], inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Additive mask [1, 1, L + M, P + L + M] and positions [1, L + M] of branches behind one prompt."""
    owner = torch.cat(
        [torch.zeros(length)] + [torch.full((size,), i + 1.0) for i, size in enumerate(sizes)]
    )
    order = torch.arange(len(owner))
    seen = (order[None] <= order[:, None]) & ((owner[None] == 0) | (owner[None] == owner[:, None]))
    seen = torch.cat([torch.ones(len(owner), past, dtype=torch.bool), seen], dim=1)
    mask = torch.zeros(seen.shape, dtype=inputs.dtype)
    mask.masked_fill_(~seen, torch.finfo(inputs.dtype).min)
    steps = [torch.arange(length)] + [length + torch.arange(size) for size in sizes]
    positions = past + torch.cat(steps)
    return mask[None, None].to(inputs.device), positions[None].to(inputs.device)


def _keep_branch(cache: DynamicCache, prompt: int, offset: int, count: int) -> None:
    """Drops all branch tokens from the cache but `count` of the branch at `offset`."""
    for layer in cache.layers:
        begin = prompt + offset
        for name in ("keys", "values"):
            held = getattr(layer, name)
            kept = torch.cat([held[..., :prompt, :], held[..., begin : begin + count, :]], dim=-2)
            setattr(layer, name, kept)
