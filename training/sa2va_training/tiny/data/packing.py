# SPDX-License-Identifier: Apache-2.0
"""Many questions about one image in one sequence: `[image] [question 1 + answer] … [question K + answer]`.

A block mask hides the questions from each other and their positions all start right after the image, so every
question gets exactly the states that it would get alone, as at run time, while the image is read once.

Letters: B images, K questions of each, P prefix tokens, L tokens of the longest branch, C hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.tiled import TiledMllm
from sa2va_training.run.precision import half_precision
from sa2va_training.tiny.data.batches import fitted
from sa2va_training.tiny.data.language import FOUND

IGNORED = -100


@dataclass(frozen=True)
class Question:
    """What is asked and what the model has to say.

    Attributes:
        text: as a user types it; the run time's question is put around it.
        answer: teacher-forced, with the end token.
        decision: if set, the first answer token the model has to choose, while `answer` is fed and otherwise not
            graded; this is how the [SEG] state of something absent is seen.
        free: `text` is asked as it stands, instead of being an expression that is to be segmented.
        cells: visual tokens of the region that the question is about; none = no region.
    """

    text: str
    answer: str
    decision: str | None = None
    free: bool = False
    cells: tuple[int, ...] = ()

    def asked(self) -> str:
        """What stands between the image and the answer, without the end of the user's turn."""
        if not self.free:
            return "\n" + prompts.referring_question(self.text)
        region = prompts.region_text([len(self.cells)]) if self.cells else ""
        return f"{region}\n{self.text}"


@dataclass(frozen=True)
class Packed:
    """Token ids and where to look.

    Attributes:
        prefix: [P], the same for all images.
        branches: [B, K, L], padded at the end.
        labels: [B, K, L], the token to predict at each place, or `IGNORED`.
        decide: [B, K], place in the branch whose output is the first answer token.
        seg: [B, K], place of [SEG]; equal to `decide` where the answer has none.
        has_seg: bool [B, K].
        cells: the visual tokens that each image's regions repeat, in the order of its questions.
    """

    prefix: Tensor
    branches: Tensor
    labels: Tensor
    decide: Tensor
    seg: Tensor
    has_seg: Tensor
    cells: tuple[tuple[int, ...], ...] = ()

    def visual(self, image_id: int) -> Tensor:
        """Where the prefix has the image's tokens, the same for all images: long [B, V]."""
        places = (self.prefix == image_id).nonzero()[:, 0]
        return places.expand(len(self.branches), -1)


class Packer:
    """Writes questions exactly as the run time does and tokenises them."""

    def __init__(self, mllm: TiledMllm) -> None:
        self.mllm = mllm
        block = prompts.image_block(mllm.tokens_per_tile)
        head, _, tail = mllm.template.instruction.partition("{input}")
        self._prefix = torch.tensor(mllm.tokenizer.encode(head + block))
        self._tail = tail
        self._cache: dict[str, list[int]] = {}

    @property
    def first_token(self) -> int:
        """The answer token that says: found."""
        return self._ids(FOUND)[0]

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """The ids of texts that are one token each: long [len(texts)]."""
        ids = [self._ids(text) for text in texts]
        assert all(len(one) == 1 for one in ids), texts
        return torch.tensor(ids)[:, 0]

    def _ids(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = list(self.mllm.tokenizer.encode(text, add_special_tokens=False))
        return self._cache[text]

    def pack(self, questions: Sequence[Sequence[Question]]) -> Packed:
        """Lays out K questions for each of B images."""
        rows = [[self._branch(q) for q in row] for row in questions]
        longest = max(len(ids) for row in rows for ids, _, _ in row)
        pad, sign = self.mllm.tokenizer.pad_token_id, self.mllm.seg_id

        def filled(values: Sequence[int], filling: int) -> list[int]:
            return [*values, *[filling] * (longest - len(values))]

        cells = tuple(sum((q.cells for q in row), ()) for row in questions)
        # Lists first and tensors once: on a GPU every small copy is a wait.
        return Packed(
            self._prefix,
            torch.tensor([[filled(ids, pad) for ids, _, _ in row] for row in rows]),
            torch.tensor([[filled(labels, IGNORED) for _, labels, _ in row] for row in rows]),
            torch.tensor([[place for _, _, place in row] for row in rows]),
            torch.tensor(
                [
                    [ids.index(sign) if sign in ids else place for ids, _, place in row]
                    for row in rows
                ]
            ),
            torch.tensor([[sign in ids for ids, _, _ in row] for row in rows]),
            cells,
        )

    def _branch(self, question: Question) -> tuple[list[int], list[int], int]:
        """Ids of a branch, their labels and the place of the decision."""
        asked = self._ids(question.asked() + self._tail)
        answer = self._ids(question.answer)
        ids = [*asked, *answer[:-1]]  # the end token is predicted, never read
        labels = [IGNORED] * (len(asked) - 1) + list(answer)
        if question.decision is not None:
            labels = [IGNORED] * len(ids)
            labels[len(asked) - 1] = self._ids(question.decision)[0]
        return ids, labels, len(asked) - 1


@lru_cache(maxsize=64)
def block_mask(prefix: int, branches: int, length: int) -> tuple[Tensor, Tensor]:
    """Additive attention mask [1, 1, S, S] and positions [1, S] with S = prefix + branches · length."""
    total = prefix + branches * length
    owner = torch.cat(
        [torch.zeros(prefix), torch.arange(1, branches + 1).repeat_interleave(length)]
    )
    place = torch.arange(total)
    seen = (place[None] <= place[:, None]) & ((owner[None] == 0) | (owner[None] == owner[:, None]))
    mask = torch.zeros(total, total).masked_fill(~seen, float("-inf"))
    positions = torch.cat([torch.arange(prefix), (prefix + torch.arange(length)).repeat(branches)])
    return mask[None, None], positions[None]


@dataclass(frozen=True)
class Read:
    """What the language model makes of packed questions; N = B · K.

    Attributes:
        visual: [B, V, C] projected visual tokens.
        states: [B, K, L, C] final-norm states of the branches.
        decide: [N, C], seg: [N, C], states at those places.
    """

    visual: Tensor
    states: Tensor
    decide: Tensor
    seg: Tensor


def look(mllm: TiledMllm, pixels: Tensor) -> Tensor:
    """Visual tokens float32 [B, V, C] of square images of any size."""
    with half_precision(mllm.training):
        return mllm.visual_tokens(fitted(pixels, mllm.tile_size)).float()


def read(mllm: TiledMllm, pixels: Tensor, packed: Packed) -> Read:
    """Runs the language model on square images of any size with their packed questions."""
    count, each, length = packed.branches.shape
    prefix = packed.prefix.expand(count, -1)
    visual = look(mllm, pixels)
    ids = torch.cat([prefix, packed.branches.flatten(1)], dim=1)
    rows = [torch.cat([v, v[list(c)]]) for v, c in zip(visual, packed.cells, strict=True)]
    embeddings = mllm.embed(ids, torch.cat(rows))
    mask, positions = block_mask(prefix.shape[1], each, length)
    with half_precision(mllm.training):
        hidden = mllm.language_model.model(
            inputs_embeds=embeddings,
            attention_mask=mask.expand(count, -1, -1, -1).to(embeddings.dtype),
            position_ids=positions.expand(count, -1),
            use_cache=False,
        ).last_hidden_state.float()
    states = hidden[:, prefix.shape[1] :].unflatten(1, (each, length))
    return Read(visual, states, _at(states, packed.decide), _at(states, packed.seg))


def _at(states: Tensor, places: Tensor) -> Tensor:
    """States [B, K, L, C] at one place of each branch: [B · K, C]."""
    index = places[:, :, None, None].expand(-1, -1, 1, states.shape[-1])
    return states.gather(2, index)[:, :, 0].flatten(0, 1)
