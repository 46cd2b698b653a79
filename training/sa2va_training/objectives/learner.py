# SPDX-License-Identifier: Apache-2.0
"""The model in training: one forward pass from a batch to losses, the only entry that parallel wrappers see.

Every trained parameter takes part in every pass (at least multiplied by zero), so that text-only and mask batches may
meet on different processes. Losses are sums over what the whole step has, over all processes and micro-batches:
the same step cut in another way is the same step.

Letters: B samples, S tokens, C hidden size of the language model, P mask pairs, M answered `[SEG]`, F frames.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sa2va_model.mllm.base import Mllm
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.types import Decoded, ImageFeatures
from sa2va_training.batches.batch import Batch
from sa2va_training.batches.features import Features, FeatureStore
from sa2va_training.batches.patches import Pictures
from sa2va_training.families import family_of
from sa2va_training.families.base import VisualTokens
from sa2va_training.objectives.gaze import Gaze
from sa2va_training.objectives.names import NameHead
from sa2va_training.objectives.objectives import OBJECTIVES, Pass, Term, Totals
from sa2va_training.run.precision import float_attention
from sa2va_training.run.settings import LossSettings, PartSettings
from sa2va_training.run.trainables import encoder_frozen, is_lora, language_frozen, vision_frozen

REPORT = (
    *("text", "mask", "dice", "iou", "score", "tokens", "pairs", "seen", "right", "kept"),
    *("named", "things", "looked"),
)


class Learner(nn.Module):
    """Sa2VA with its losses.

    Args:
        model: prepared by `trainables.prepare`. Its object score gate is opened: an erased mask has no gradient.
        cache: bytes for features of frozen encoders.
        before: the language half as it was, where `loss.keep` asks for it; see `Before`.
        words: of the names that `loss.names` reads off visual tokens.
    """

    def __init__(
        self,
        model: Sa2VA,
        parts: PartSettings,
        loss: LossSettings,
        *,
        cache: int = 0,
        before: Before | None = None,
        words: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model, self.parts = model, parts
        gated = model.config.sam2.object_score_gate
        self.loss = replace(
            loss,
            score=(0.3 if gated else 0.0) if loss.score < 0 else loss.score,
            quality=(0.2 if gated else 0.0) if loss.quality < 0 else loss.quality,
        )
        self.open_gate()
        self.family = family_of(model.mllm)
        self.sam_store = FeatureStore(cache * 3 // 4 if encoder_frozen(parts) else 0)
        self.vision_store = FeatureStore(cache // 4 if vision_frozen(parts) else 0)
        self.before = before
        self.names = NameHead(int(model.config.llm["hidden_size"]), words) if words else None
        self.gaze = Gaze(self.mllm.language_model) if loss.gaze else None

    @property
    def mllm(self) -> Mllm:
        """The language half."""
        return self.model.mllm

    def open_gate(self) -> None:
        """Lets masks that the object score would erase have a gradient."""
        self.model.sam2.config = replace(self.model.sam2.config, object_score_gate=False)

    def close_gate(self) -> None:
        """Gives the model its run-time behaviour back."""
        self.model.sam2.config = self.model.config.sam2

    def forward(self, batch: Batch, totals: Totals) -> dict[str, Tensor]:
        """Losses of one micro-batch.

        Returns:
            `loss`: the number to differentiate; `report` [len(REPORT)]: sums for the log.
        """
        with float_attention():
            return self.losses(batch, totals)

    def losses(self, batch: Batch, totals: Totals) -> dict[str, Tensor]:
        """As `forward`, in whatever arithmetic is chosen."""
        made = self.computed(batch, totals)
        terms = [term for objective in OBJECTIVES if (term := objective(self, made)) is not None]
        return self.added(terms)

    def computed(self, batch: Batch, totals: Totals) -> Pass:
        """One pass through both halves."""
        learning = torch.is_grad_enabled() and not language_frozen(self.parts)
        with torch.set_grad_enabled(learning):
            kept = self.looked(batch) if len(batch.tiles) else None
            seen = None if kept is None else self.family.project(kept, batch.tiles)
            states = self.family.states(batch, None if seen is None else seen[batch.visual])
        tokens = None if seen is None else seen.tokens
        if not len(batch.pairs):
            return Pass(batch, totals, states.words, tokens)
        rows, places = batch.seg.unbind(1)
        codes = self.model.text_hidden_fcs(states.masks[rows, places])  # [M, d]
        frozen = kept if vision_frozen(self.parts) else None
        return Pass(batch, totals, states.words, tokens, codes, self.decode(batch, codes), frozen)

    def added(self, terms: Sequence[Term]) -> dict[str, Tensor]:
        """What `forward` returns, from the parts of a loss."""
        total = self._touch()
        sums: dict[str, Tensor] = {}
        for term in terms:
            total = total + term.loss
            for name, value in term.sums.items():
                sums[name] = sums[name] + value if name in sums else value
        zero = total.new_zeros(())
        report = torch.stack([sums.get(n, zero).detach().float() for n in REPORT])
        return {"loss": total, "report": report}

    def read(self, batch: Batch) -> Tensor:
        """States [B, S, C] that `text_hidden_fcs` reads."""
        return self.family.states(batch, self.visual(batch) if len(batch.tiles) else None).masks

    def visual(self, batch: Batch) -> VisualTokens:
        """Projected visual tokens in the order in which they stand in the rows."""
        return self.seen(batch)[batch.visual]

    def seen(self, batch: Batch) -> VisualTokens:
        """Projected visual tokens of all pictures."""
        return self.family.project(self.looked(batch), batch.tiles)

    def looked(self, batch: Batch) -> Features:
        """What the vision model makes of all pictures."""
        if vision_frozen(self.parts):
            return self.vision_store.get(batch.tile_keys, batch.tiles, self.family.features)
        return self.family.features(batch.tiles)

    def features(self, batch: Batch) -> ImageFeatures:
        """SAM-2's features of the F frames."""
        segmenter = self.model.sam2
        sam = segmenter.sam2_model
        pixels = batch.pixels.to(segmenter.dtype)
        if encoder_frozen(self.parts):
            fine, middle, top = self.sam_store.get(batch.pixel_keys, pixels, self._pyramid)
        else:
            fine, middle, top = self._pyramid(pixels)
        # Where something sits in the picture is the same for all pictures.
        position = sam.image_encoder.neck.position_encoding(top[:1]).to(top.dtype)
        decoder = sam.sam_mask_decoder
        dtype = decoder.conv_s0.weight.dtype
        high = (decoder.conv_s0(fine.to(dtype)), decoder.conv_s1(middle.to(dtype)))
        return ImageFeatures(top, position.expand_as(top), high)

    def _pyramid(self, pixels: Pictures) -> Features:
        """The image encoder's three levels, finest first."""
        levels = self.model.sam2.sam2_model.image_encoder(pixels)["backbone_fpn"]
        return tuple(levels[-3:])

    def decode(self, batch: Batch, codes: Tensor) -> Decoded:
        """Masks of all pairs from the codes [M, d] of their `[SEG]`."""
        segmenter = self.model.sam2
        rows = take(self.features(batch), batch.pairs[:, 1])
        return segmenter.decode_tokens(
            rows,
            segmenter.without_memory(rows),
            extra=codes[batch.pairs[:, 0]][:, None],
            multimask=segmenter.config.multimask,
        )

    def _touch(self) -> Tensor:
        """Zero, with a gradient of zeros for every trained parameter outside of the language model.

        Inside it every pass uses everything that is trained.
        """
        used = [
            p.flatten()[0].float()
            for name, p in self.model.named_parameters()
            if p.requires_grad and not is_lora(name) and not name.startswith(self.family.language)
        ]
        if self.names is not None:
            used += [p.flatten()[0] for p in self.names.parameters()]
        if not used:
            return torch.zeros((), device=self.model.device)
        return torch.stack(used).sum() * 0.0


class Before:
    """The language half as it was before training, to stay near (learning without forgetting, arXiv 1606.09282).

    No module, so that it is neither trained nor saved. It needs the memory of a second language half.
    """

    def __init__(self, model: Sa2VA) -> None:
        mllm = copy.deepcopy(model.mllm).eval().requires_grad_(requires_grad=False)
        self.family = family_of(mllm)
        heads = copy.deepcopy(model.text_hidden_fcs)
        self.heads: nn.Module = heads.eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def codes(self, batch: Batch, features: Features | None = None) -> Tensor:
        """What stood at every answered `[SEG]`, [M, d].

        Args:
            features: of a vision model that has not changed since; None = they are computed.
        """
        seen = None
        if len(batch.tiles):
            if features is None:
                features = self.family.features(batch.tiles)
            seen = self.family.project(features, batch.tiles)[batch.visual]
        states = self.family.states(batch, seen).masks
        rows, places = batch.seg.unbind(1)
        codes: Tensor = self.heads(states[rows, places])
        return codes

    def distance(self, codes: Tensor, batch: Batch, features: Features | None = None) -> Tensor:
        """How far codes [M, d] of rehearsed pictures have moved, as a share of their size; summed over them."""
        wanted = self.codes(batch, features)[batch.kept].float()
        apart = (codes[batch.kept].float() - wanted).square().mean(1)
        return (apart / wanted.square().mean(1).clamp(min=1e-6)).sum()


def take(features: ImageFeatures, rows: Tensor) -> ImageFeatures:
    """Features with one row for each prompt."""
    fine, middle = features.high
    return ImageFeatures(features.top[rows], features.position[rows], (fine[rows], middle[rows]))
