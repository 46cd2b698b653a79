# SPDX-License-Identifier: Apache-2.0
"""FusedSam2: a `Sam2` for inference whose blocks are the rewritten ones.

It answers as the `Sam2` it is made of (float32: to rounding). What depends on the image only is computed once
per image, whatever the number of objects. Weights are copied when it is made: make a new one after training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.device import DeviceTraits, traits_of
from sa2va_model.segmentation.backends.fused.bank_pool import BankPool
from sa2va_model.segmentation.backends.fused.cuda_graphs import BUCKETS, Graphs, bucket
from sa2va_model.segmentation.backends.fused.kernels import Kernels
from sa2va_model.segmentation.backends.fused.mask_decoder import FastMaskDecoder
from sa2va_model.segmentation.backends.fused.memory_attention import FastMemoryAttention
from sa2va_model.segmentation.backends.fused.memory_encoder import FastMemoryEncoder
from sa2va_model.segmentation.backends.fused.recording import Recording
from sa2va_model.segmentation.backends.profile import FLOAT32, RuntimeProfile
from sa2va_model.segmentation.kinds import kind_of
from sa2va_model.segmentation.memory_bank import MemoryBank
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.sam2_modules import Sam2Modules
from sa2va_model.segmentation.types import Decoded, ImageFeatures

_KEPT_ROWS = 256
_Levels = Callable[[Tensor], Sequence[Tensor]]
"""The image encoder's backbone: pixels to levels of features, channels last."""
_DECODED = ("logits", "candidates", "ious", "best", "pointers", "object_scores", "tokens")


@dataclass
class _Prepared:
    """What the blocks make of one image, each when it is first needed."""

    features: ImageFeatures
    attention: tuple[Tensor, Tensor] | None = None
    decoder: tuple[Tensor, Tensor] | None = None
    memory: Tensor | None = None


class FusedSam2(Sam2):
    """SAM-2 for inference.

    Args:
        segmenter: its weights; shared where they need no other layout or number format.
        profile: float32 or bfloat16 arithmetic.
        image_size: side of the image, pixels; None = the model's own. SAM-2 tolerates others.
        trunk: another's whose image encoder is the same (see `same_encoder`).
        traits: what to compute for; None = for the device that the weights are on.
    """

    _trunk: _Levels
    _levels: _Levels

    def __init__(
        self,
        segmenter: Sam2,
        profile: RuntimeProfile = FLOAT32,
        *,
        image_size: int | None = None,
        trunk: FusedSam2 | None = None,
        traits: DeviceTraits | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self._traits = traits or traits_of(segmenter.device)
        self.profile = profile
        self.config: SegmenterConfig = replace(
            segmenter.config, image_size=image_size or segmenter.config.image_size
        )
        sam = segmenter.sam2_model
        dtype = torch.float32 if profile.arithmetic == "float32" else torch.bfloat16
        kernels = Kernels(dtype, self._traits)
        side, size = self.config.feature_size, self.config.image_size
        with torch.inference_mode(False), torch.no_grad():
            encoder, (make_trunk, make_pyramid) = sam.image_encoder, kind_of(self.config).fused()
            self._trunk = trunk._trunk if trunk else make_trunk(encoder.trunk, size, kernels)
            self._levels = (
                trunk._levels if trunk else self._recorded(_compiled(self._trunk, profile))
            )
            fine = (sam.sam_mask_decoder.conv_s0, sam.sam_mask_decoder.conv_s1)
            pyramid = make_pyramid(encoder.neck, fine, kernels)
            self._pyramid = self._recorded(lambda *levels: pyramid(levels))
            probe = torch.zeros(1, 1, side, side, device=segmenter.device)
            self._position = encoder.neck.position_encoding(probe).float()  # [1, C, h, w]
            self.sam2_model = without_encoder(segmenter, size, side)
            sam = self.sam2_model
            self._attention = FastMemoryAttention(sam.memory_attention, side, kernels)
            places = sam.sam_prompt_encoder.get_dense_pe()
            self._decoder = FastMaskDecoder(sam.sam_mask_decoder, places, kernels)
            self._memory = FastMemoryEncoder(sam.memory_encoder, side, kernels)
            self._sparse, self._dense = super()._prompt_tokens(1, None, None, None)
        self._latest: _Prepared | None = None
        self._graphs = Graphs() if profile.graphs and self._traits.captures else None
        self._banks = BankPool(self)
        self._known_rows: dict[tuple[int, ...], Tensor] = {}
        self.requires_grad_(False)

    def _recorded(self, function: Callable[..., Sequence[Tensor]]) -> Recording:
        return Recording(function, active=self._traits.records)

    @property
    def traits(self) -> DeviceTraits:
        """What it computes for."""
        return self._traits

    @property
    def batched(self) -> bool:
        """Objects are always stepped as one batch."""
        return True

    def lend_bank(
        self, user: object, rows: int, max_conditioning: int, distractor_slots: int
    ) -> MemoryBank:
        """An empty memory that others had before, with the graphs that were captured for them."""
        return self._banks.lend(user, rows, max_conditioning, distractor_slots)

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Image features without memory; pixels [1, 3, S, S]."""
        if self._graphs is None:
            return self.features_of(self.encode_levels(pixels))
        top, zero, one = self._graphs.run("image", self._image, (pixels.float(),))
        return ImageFeatures(top, self._position, (zero, one))

    def _image(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = self.features_of(self._levels(pixels))
        return (features.top, *features.high)

    def encode_levels(self, pixels: Tensor) -> list[Tensor]:
        """The backbone alone: levels [1, s, s, C], which engines with the same image encoder share."""
        if self._graphs is None:
            return list(self._levels(pixels.float()))
        return list(self._graphs.run("levels", lambda x: tuple(self._levels(x)), (pixels.float(),)))

    def features_of(self, levels: Sequence[Tensor]) -> ImageFeatures:
        """Features for this engine's decoder from the backbone's levels."""
        top, zero, one = (x.permute(0, 3, 1, 2) for x in self._pyramid(*levels))
        return ImageFeatures(top, self._position, (zero, one))

    def attend_memory(
        self, features: ImageFeatures, bank: MemoryBank, rows: Sequence[int]
    ) -> Tensor:
        """Image features conditioned on the memory of each row's object: [N, C, h, w]."""
        prepared = self._prepare(features)
        if prepared.attention is None:
            prepared.attention = self._attention.begin(
                _cells(features.top), _cells(features.position)
            )
        if self._traits.reads_back:
            memory = []
            for row in rows:
                tokens = bank.tokens(row)
                memory.append(
                    (tokens.values, tokens.values + tokens.positions, tokens.pointer_tokens)
                )
            return self._square(self._attention.ragged(prepared.attention, memory))
        index = self._rows(tuple(rows))
        most = max(bank.conditioning(row) for row in rows)
        return self._attend_padded(prepared.attention, bank, index, most)

    def _attend_padded(
        self, begun: tuple[Tensor, Tensor], bank: MemoryBank, rows: Tensor, conditioning: int
    ) -> Tensor:
        padded = bank.padded(rows, conditioning)
        keys = padded.values + padded.positions
        out = self._attention.padded(
            begun, padded.values, keys, padded.lengths, padded.bias, padded.pointer_tokens
        )
        return self._square(out)

    def _square(self, cells: Tensor) -> Tensor:
        """[N, cells, C] to [N, C, h, w]."""
        side = self.config.feature_size
        return cells.unflatten(1, (side, side)).permute(0, 3, 1, 2)

    # A step as captured graphs (CUDA).

    def track(self, features: ImageFeatures, bank: MemoryBank, rows: Sequence[int]) -> Decoded:
        """Memory attention and decoder for N objects."""
        if self._graphs is None:
            return super().track(features, bank, rows)
        index = self._index(rows, bucket(len(rows)), bank)
        used = _slots(max(bank.conditioning(row) for row in rows), bank)
        out = self._run_track(features, bank, index, used)
        parts = dict(zip(_DECODED, (tensor[: len(rows)] for tensor in out), strict=True))
        return Decoded(**parts)

    def _run_track(
        self, features: ImageFeatures, bank: MemoryBank, index: Tensor, used: int
    ) -> tuple[Tensor, ...]:
        """The parts of `Decoded` for a bucket of rows of which none has more than `used` conditioning frames."""
        assert self._graphs is not None

        def stage(top: Tensor, zero: Tensor, one: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            image = ImageFeatures(top, self._position, (zero, one))
            begun = self._attention.begin(_cells(top), _cells(self._position))
            decoded = self.decode(image, self._attend_padded(begun, bank, rows, used))
            return tuple(getattr(decoded, name) for name in _DECODED)

        inputs = (features.top, *features.high, index)
        return self._graphs.run(("track", len(index), used), stage, inputs, owner=bank)

    def remember(
        self,
        features: ImageFeatures,
        bank: MemoryBank,
        rows: Sequence[int],
        decoded: Decoded,
        recent: Tensor,
        distractor: Tensor | None,
    ) -> None:
        """Encodes N masks and writes them to memory where they are admitted."""
        if self._graphs is None:
            super().remember(features, bank, rows, decoded, recent, distractor)
            return
        count = bucket(len(rows))
        given_flags = (recent,) if distractor is None else (recent, distractor)

        def stage(
            top: Tensor,
            logits: Tensor,
            pointers: Tensor,
            scores: Tensor,
            index: Tensor,
            *flags: Tensor,
        ) -> tuple[Tensor, ...]:
            image = ImageFeatures(top, self._position, (top, top))
            empty = scores.new_zeros(len(scores), 1)
            best = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
            given = Decoded(logits, logits, empty, best, pointers, scores)
            spatial = self.encode_memory(image, given)
            bank.write(index, spatial, pointers, *flags)
            return ()

        masks = (decoded.logits, decoded.pointers, decoded.object_scores)
        filled = [_fill(tensor, count) for tensor in (*masks, *given_flags)]
        index = self._index(rows, count, bank)
        inputs = (features.top, *filled[:3], index, *filled[3:])
        harmless = (*inputs[:5], *(torch.zeros_like(flag) for flag in filled[3:]))
        key = ("remember", count, len(given_flags))
        self._graphs.run(key, stage, inputs, harmless=harmless, owner=bank)

    @torch.inference_mode()
    def warm_up(self, bank: MemoryBank) -> None:
        """Captures the stages of all buckets that a bank can need, so that no frame waits for it."""
        if self._graphs is None:
            return
        size = self.config.image_size
        features = self.encode_image(torch.zeros(1, 3, size, size, device=self.device))
        for count in (n for n in BUCKETS if n <= bucket(bank.spare_row)):
            index = self._index((), count, bank)
            for used in sorted({_slots(n + 1, bank) for n in range(bank.max_conditioning)}):
                out = dict(zip(_DECODED, self._run_track(features, bank, index, used), strict=True))
            nothing = torch.zeros(count, dtype=torch.bool, device=self.device)
            spare = [bank.spare_row] * count
            kinds = (None, nothing) if bank.distractor_slots else (None,)
            for distractor in kinds:
                self.remember(features, bank, spare, Decoded(**out), nothing, distractor)

    def _index(self, rows: Sequence[int], count: int, bank: MemoryBank) -> Tensor:
        """Rows as a tensor, filled up to a bucket with the bank's spare row."""
        return self._rows((*rows, *[bank.spare_row] * (count - len(rows))))

    def _rows(self, rows: tuple[int, ...]) -> Tensor:
        """int64 [N]; kept, for an upload waits for the device and a stream asks for the same rows again and again."""
        known = self._known_rows.get(rows)
        if known is None:
            if len(self._known_rows) >= _KEPT_ROWS:
                self._known_rows.clear()
            with torch.inference_mode(False):
                known = self._known_rows[rows] = torch.tensor(rows, device=self.device)
        return known

    def _prompt_tokens(
        self, count: int, points: Tensor | None, labels: Tensor | None, dense: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if points is None and dense is None:
            return self._sparse.expand(count, -1, -1), self._dense.expand(count, -1, -1, -1)
        return super()._prompt_tokens(count, points, labels, dense)

    def _head(
        self,
        features: ImageFeatures,
        conditioned: Tensor,
        sparse: Tensor,
        dense: Tensor,
        multimask: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        prepared = self._prepare(features)
        if prepared.decoder is None:
            zero, one = (level.permute(0, 2, 3, 1).contiguous() for level in features.high)
            prepared.decoder = self._decoder.begin(zero, one)
        image = _cells(conditioned) + _cells(dense)
        several, choose = slice(1, None), self.config.stability_fallback
        which = several if multimask else slice(None if choose else 1)
        out = self._decoder(prepared.decoder, image, sparse, which)
        if multimask:
            return out.masks, out.ious[:, several], out.tokens[:, several], out.scores
        masks, ious = out.masks, out.ious[:, :1]
        if choose:
            module = self.sam2_model.sam_mask_decoder
            masks, ious = module._dynamic_multimask_via_stability(out.masks, out.ious)
        return masks, ious, out.tokens[:, :1], out.scores

    def _remember(self, features: ImageFeatures, masks: Tensor) -> Tensor:
        prepared = self._prepare(features)
        if prepared.memory is None:
            prepared.memory = self._memory.begin(features.top.permute(0, 2, 3, 1))
        return self._memory(prepared.memory, masks).permute(0, 3, 1, 2)

    def _prepare(self, features: ImageFeatures) -> _Prepared:
        """What is known of this image already; the latest one is remembered."""
        latest = self._latest
        if latest is None or latest.features is not features:
            latest = self._latest = _Prepared(features)
        return latest


def _slots(conditioning: int, bank: MemoryBank) -> int:
    """Conditioning slots of the graph that serves objects with so many."""
    return min(bucket(conditioning, (1, 2, 4, 8)), bank.max_conditioning)


def _compiled(trunk: _Levels, profile: RuntimeProfile) -> _Levels:
    """The trunk as it is, or through Inductor: kernels only, the graph around them is ours."""
    if not profile.compiled:
        return trunk
    call = trunk.__call__  # type: ignore[operator]
    return torch.compile(call, mode="max-autotune-no-cudagraphs", dynamic=False)


def _fill(tensor: Tensor, count: int) -> Tensor:
    """[N, ...] to [count, ...] with zeros."""
    if len(tensor) == count:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(count - len(tensor), *tensor.shape[1:])])


def _cells(x: Tensor) -> Tensor:
    """[N, C, h, w] to [N, cells, C]."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def without_encoder(segmenter: Sam2, size: int, side: int) -> Sam2Modules:
    """The parts of SAM-2 that are used as they are, in float32, for an image of `size` pixels."""
    source = segmenter.sam2_model
    shell = copy.copy(source)
    shell._modules = {k: v for k, v in source._modules.items() if k != "image_encoder"}
    if segmenter.dtype != torch.float32:
        shell = copy.deepcopy(shell).float()
    else:
        shell._modules = dict(shell._modules)
    encoder = copy.copy(shell.sam_prompt_encoder)
    encoder.__dict__ = dict(encoder.__dict__)
    encoder.input_image_size, encoder.image_embedding_size = (size, size), (side, side)
    shell._modules["sam_prompt_encoder"] = encoder
    return shell
