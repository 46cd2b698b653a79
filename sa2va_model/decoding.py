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
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

Choice = Callable[[int, Tensor], int]
"""Picks the next token id from (step, logits [V])."""
Stops = Callable[[Sequence[int]], bool]
"""Whether an answer that has these token ids so far is complete."""


@dataclass(frozen=True)
class Inputs:
    """What the language model reads at once.

    Attributes:
        embeddings: [1, L, C].
        positions: [3, 1, L] where images have rows and columns (M-RoPE); None = one after the other.
        visual: bool [1, L], the visual tokens; only with `deep`.
        deep: [K, C] for each of the first layers, added to the K visual tokens behind it (DeepStack of Qwen3-VL).
    """

    embeddings: Tensor
    positions: Tensor | None = None
    visual: Tensor | None = None
    deep: tuple[Tensor, ...] = ()

    @property
    def shift(self) -> int:
        """By how much the position after these inputs differs from their number."""
        if self.positions is None:
            return 0
        return int(self.positions.max()) + 1 - self.embeddings.shape[1]


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
        shift: the next token's position is P + shift; 0 without M-RoPE.
    """

    ids: tuple[int, ...]
    cache: DynamicCache
    states: Tensor
    shift: int = 0

    def extended(self) -> DynamicCache:
        """A cache that begins with this prefix."""
        cache = DynamicCache()
        for i, layer in enumerate(self.cache.layers):
            cache.update(layer.keys, layer.values, i)
        return cache


class Decoder:
    """Runs one language model.

    Args:
        model: a causal language model of transformers, or a vision-language model around one.
        stop_ids: tokens that end an answer.
        stops: ends an answer that is not ended by one token.
        mrope: positions have three axes (Qwen-VL).
        span: sequences longer than this are read token by token and in one piece, because there the model's positions
            or attention depend on what is read at once; None = no such length.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: frozenset[int],
        *,
        stops: Stops | None = None,
        mrope: bool = False,
        span: int | None = None,
    ) -> None:
        self._body: Any = getattr(model.model, "language_model", model.model)
        self._head: Any = model.lm_head
        self._embed: Any = model.get_input_embeddings()
        self._stop_ids = stop_ids
        self._stops = stops
        self._mrope = mrope
        self.span = span

    def read(self, ids: Sequence[int], prompt: Tensor | Inputs) -> Prefix:
        """Reads the beginning of a prompt, [1, P, C]."""
        cache, inputs = DynamicCache(), _as_inputs(prompt)
        return Prefix(tuple(ids), cache, self._forward(inputs, cache), inputs.shift)

    def greedy(
        self,
        prompt: Tensor | Inputs,
        limit: int,
        *,
        prefix: Prefix | None = None,
        choose: Choice | None = None,
    ) -> Generated:
        """Token by token.

        Args:
            prompt: [1, L, C], what stands behind `prefix`.
            limit: most new tokens.
            choose: overrides the arg-max; used to replay a given answer.
        """
        cache, inputs = prefix.extended() if prefix else DynamicCache(), _as_inputs(prompt)
        shift = prefix.shift if prefix else inputs.shift
        states = [] if prefix is None else [prefix.states]
        states.append(self._forward(inputs, cache, shift))
        step = self._head(states[-1][-1])
        return self._go_on(cache, [], [], states, step, limit, choose, 1, shift)

    def guess(
        self,
        prompt: Tensor | Inputs,
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
        branches = [list(answer[:-1]) for answer in answers]  # a last token is never an input
        tokens = [t for branch in branches for t in branch]
        inputs = _as_inputs(prompt)
        cache = prefix.extended() if prefix else DynamicCache()
        past, length = cache.get_seq_length(), inputs.embeddings.shape[1]
        if not answers or (self.span is not None and past + length + len(tokens) > self.span):
            return self.greedy(prompt, limit, prefix=prefix)
        shift = prefix.shift if prefix else inputs.shift
        sizes = [len(branch) for branch in branches]
        device = inputs.embeddings.device
        states = self._forward(
            Inputs(
                torch.cat(
                    [inputs.embeddings, self._embed(torch.tensor([tokens], device=device))], dim=1
                ),
                self._branch_positions(inputs, past, shift, sizes),
                None if inputs.visual is None else F.pad(inputs.visual, (0, len(tokens))),
                inputs.deep,
            ),
            cache,
            shift,
            _branch_mask(past, length, sizes, inputs.embeddings),
        )
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
            cache, path, list(logits[rows[:-1]]), kept, logits[rows[-1]], limit, None, 1, shift
        )

    def _branch_positions(
        self, inputs: Inputs, past: int, shift: int, sizes: Sequence[int]
    ) -> Tensor:
        """Positions of the prompt and of branches that all begin right behind it: [1, L + M] or [3, 1, L + M]."""
        device, length = inputs.embeddings.device, inputs.embeddings.shape[1]
        head = inputs.positions
        if head is None:
            head = self._positions(past + shift, length, device)
        tails = [self._positions(past + length + shift, size, device) for size in sizes]
        return torch.cat([head, *tails], dim=-1)

    def _positions(self, start: int, count: int, device: torch.device) -> Tensor:
        """Text positions: [1, count], or [3, 1, count] with M-RoPE."""
        line = torch.arange(start, start + count, device=device)
        return line.expand(3, 1, count) if self._mrope else line[None]

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
        shift: int,
    ) -> Generated:
        """Decodes from the logits of the last input on."""
        while True:
            logits.append(step)
            ids.append(int(step.argmax()) if choose is None else choose(len(ids), step))
            if len(ids) >= limit or self._complete(ids):
                return Generated(tuple(ids), torch.stack(logits), torch.cat(states), forwards)
            token = torch.tensor([[ids[-1]]], device=step.device)
            states.append(self._forward(Inputs(self._embed(token)), cache, shift))
            step, forwards = self._head(states[-1][-1]), forwards + 1

    def _complete(self, ids: Sequence[int]) -> bool:
        return ids[-1] in self._stop_ids or (self._stops is not None and self._stops(ids))

    def _forward(
        self, inputs: Inputs, cache: DynamicCache, shift: int = 0, mask: Tensor | None = None
    ) -> Tensor:
        """Final-norm states [L, C] of new inputs."""
        positions, embeddings = inputs.positions, inputs.embeddings
        if positions is None and self._mrope:
            start = cache.get_seq_length() + shift
            positions = self._positions(start, embeddings.shape[1], embeddings.device)
        extra: dict[str, Any] = {}
        if inputs.deep:
            extra = {
                "visual_pos_masks": inputs.visual,
                "deepstack_visual_embeds": list(inputs.deep),
            }
        out: Tensor = self._body(
            inputs_embeds=embeddings,
            past_key_values=cache,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **extra,
        ).last_hidden_state[0]
        return out


def _as_inputs(prompt: Tensor | Inputs) -> Inputs:
    return prompt if isinstance(prompt, Inputs) else Inputs(prompt)


@dataclass(frozen=True)
class _Branch:
    """Which answer, and where its tokens begin among all branch tokens."""

    index: int
    offset: int


def _branch_mask(past: int, length: int, sizes: Sequence[int], inputs: Tensor) -> Tensor:
    """Additive mask [1, 1, L + M, P + L + M] of branches behind one prompt."""
    owner = torch.cat(
        [torch.zeros(length)] + [torch.full((size,), i + 1.0) for i, size in enumerate(sizes)]
    )
    order = torch.arange(len(owner))
    seen = (order[None] <= order[:, None]) & ((owner[None] == 0) | (owner[None] == owner[:, None]))
    seen = torch.cat([torch.ones(len(owner), past, dtype=torch.bool), seen], dim=1)
    mask = torch.zeros(seen.shape, dtype=inputs.dtype)
    mask.masked_fill_(~seen, torch.finfo(inputs.dtype).min)
    return mask[None, None].to(inputs.device)


def _keep_branch(cache: DynamicCache, prompt: int, offset: int, count: int) -> None:
    """Drops all branch tokens from the cache but `count` of the branch at `offset`."""
    for layer in cache.layers:
        begin = prompt + offset
        for name in ("keys", "values"):
            held = getattr(layer, name)
            kept = torch.cat([held[..., :prompt, :], held[..., begin : begin + count, :]], dim=-2)
            setattr(layer, name, kept)
