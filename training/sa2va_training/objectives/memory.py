# SPDX-License-Identifier: Apache-2.0
"""Training of SAM-2's memory on clips: a prompt on the first frame, memory unrolled over the others.

As SAM-2 is trained (arXiv 2408.00714, appendix C), on the model's own masks: what it remembers is what it drew. The
first frame is prompted as users do: with a sentence, a click, a box or a mask. Losses are on all frames.

Letters: K objects of one clip, T frames, C hidden channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import Decoded, ImageFeatures
from sa2va_training.batches.batch import Batch
from sa2va_training.objectives.clip_memory import ClipMemory
from sa2va_training.objectives.learner import Learner, take
from sa2va_training.objectives.losses import ious
from sa2va_training.objectives.objectives import Pass, Term, Totals
from sa2va_training.objectives.objectives import masks as masks_of

_SPOKEN, _CLICKED, _BOXED = 0.3, 0.3, 0.2  # the rest is given a mask


class MemoryLearner(Learner):
    """What `mode: memory` trains: the language half is only asked, never changed."""

    def losses(self, batch: Batch, totals: Totals) -> dict[str, Tensor]:
        """Losses of one micro-batch of clips; see `Learner.forward`."""
        terms: list[Term] = []
        if len(batch.pairs):
            features = self.features(batch)
            codes = self._codes(batch)
            for b in sorted(set(batch.owners.tolist())):
                terms += self._clip(batch, b, features, codes, totals)
        return self.added(terms)

    @torch.no_grad()
    def _codes(self, batch: Batch) -> Tensor:
        """The model's own [SEG] embeddings, [M, d]."""
        states = self.read(batch)
        rows, places = batch.seg.unbind(1)
        codes: Tensor = self.model.text_hidden_fcs(states[rows, places])
        return codes

    def _clip(
        self, batch: Batch, b: int, features: ImageFeatures, codes: Tensor, totals: Totals
    ) -> list[Term]:
        """One clip: its objects followed from its first frame."""
        mine = (batch.owners == b).nonzero()[:, 0]
        pairs = batch.pairs[mine]
        frames = pairs[:, 1].unique().tolist()
        table = {(int(s), int(f)): int(mine[n]) for n, (s, f) in enumerate(pairs.tolist())}
        # Only what the first frame shows can be prompted there.
        objects = [
            int(s)
            for s in pairs[:, 0].unique()
            if (place := table.get((int(s), frames[0]))) is not None and bool(batch.seen[place])
        ]
        if not objects:
            return []
        rng = torch.Generator().manual_seed(batch.seeds[b])
        rows = [take(features, torch.full((len(objects),), f, device=codes.device)) for f in frames]
        first_masks = torch.stack([batch.masks[table[s, frames[0]]] for s in objects])
        first = self._prompted(rows[0], first_masks, codes[objects], rng)
        memory = ClipMemory(self.model.sam2, gated=self.model.config.sam2.object_score_gate)
        memory.write(rows[0], first, prompted=True)
        answers = [first]
        for row in rows[1:]:
            values, positions, pointers = memory.tokens()
            segmenter = self.model.sam2
            conditioned = segmenter.attend(row, values, positions, pointers)
            decoded = segmenter.decode_tokens(
                row, conditioned, multimask=segmenter.config.multimask
            )
            memory.write(row, decoded, prompted=False)
            answers.append(decoded)
        return self._judged(batch, answers, frames, objects, table, totals)

    def _judged(
        self,
        batch: Batch,
        answers: Sequence[Decoded],
        frames: Sequence[int],
        objects: Sequence[int],
        table: dict[tuple[int, int], int],
        totals: Totals,
    ) -> list[Term]:
        """Losses of all frames on which an object is annotated."""
        terms: list[Term] = []
        for f, decoded in zip(frames, answers, strict=True):
            if not decoded.logits.requires_grad:  # a given mask
                continue
            known = [(k, table[s, f]) for k, s in enumerate(objects) if (s, f) in table]
            if not known:
                continue
            chosen = torch.tensor([k for k, _ in known], device=batch.masks.device)
            places = torch.tensor([p for _, p in known], device=batch.masks.device)
            part = replace(
                batch,
                masks=batch.masks[places],
                seen=batch.seen[places],
                owners=batch.owners[places],
            )
            made = Pass(part, totals, decoded.logits, decoded=_rows(decoded, chosen))
            term = masks_of(self, made)
            assert term is not None
            terms.append(term)
        return terms

    def _prompted(
        self, features: ImageFeatures, masks: Tensor, codes: Tensor, rng: torch.Generator
    ) -> Decoded:
        """The answer on frame 0.

        Args:
            masks: [K, h, w], what is meant there; codes: [K, d].
        """
        segmenter = self.model.sam2
        plain = segmenter.without_memory(features)
        chance = float(torch.rand(1, generator=rng))
        if chance < _SPOKEN:
            spoken = segmenter.decode_tokens(
                features, plain, extra=codes[:, None], multimask=segmenter.config.multimask
            )
            # Learn to follow what is meant, not what the sentence was mistaken for.
            if float(ious(spoken.logits[:, 0].float(), masks).min()) > 0.5:
                return spoken
        side = segmenter.config.image_size
        if chance < _SPOKEN + _CLICKED + _BOXED:
            click = chance < _SPOKEN + _CLICKED
            points, labels = _pointed(masks, rng, click=click)
            return segmenter.decode_tokens(
                features,
                plain,
                points=points * side,
                labels=labels,
                multimask=segmenter.config.multimask and click,
            )
        return _given(segmenter, features, masks)


def _rows(decoded: Decoded, rows: Tensor) -> Decoded:
    """Some objects of an answer."""
    return replace(
        decoded,
        logits=decoded.logits[rows],
        candidates=decoded.candidates[rows],
        ious=decoded.ious[rows],
        best=decoded.best[rows],
        pointers=decoded.pointers[rows],
        object_scores=decoded.object_scores[rows],
        tokens=None,
    )


def _pointed(masks: Tensor, rng: torch.Generator, *, click: bool) -> tuple[Tensor, Tensor]:
    """A click inside or a box around each mask [K, h, w]: points [K, P, 2] in 0..1, labels int32 [K, P]."""
    side = masks.shape[-1]
    points = []
    for mask in masks:
        inside = (mask > 0.5).nonzero()
        if not len(inside):
            inside = (mask == mask.max()).nonzero()
        if click:
            place = inside[int(torch.randint(len(inside), (1,), generator=rng))]
            points.append((place.flip(0).float() + 0.5)[None] / side)
        else:
            low, high = inside.min(0).values.flip(0), inside.max(0).values.flip(0) + 1
            jitter = torch.randn(2, 2, generator=rng).to(masks.device) * 0.01
            points.append(torch.stack([low, high]).float() / side + jitter)
    kinds = [1] if click else [2, 3]
    labels = torch.tensor(kinds, dtype=torch.int32, device=masks.device).expand(len(masks), -1)
    return torch.stack(points).clamp(0, 1), labels


def _given(segmenter: Sam2, features: ImageFeatures, masks: Tensor) -> Decoded:
    """True masks as the answer, with pointers made for them."""
    side = segmenter.config.image_size
    large = F.interpolate(masks[:, None], size=(side, side), mode="nearest")[:, 0]
    each = []
    for k in range(len(masks)):
        row = take(features, torch.tensor([k], device=masks.device))
        each.append(segmenter.adopt_mask(row, large[k] > 0.5))
    names = ("logits", "candidates", "ious", "best", "pointers", "object_scores")
    return Decoded(*(torch.cat([getattr(one, name) for one in each]) for name in names))
