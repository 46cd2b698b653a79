# SPDX-License-Identifier: Apache-2.0
"""A segmenter in pieces: encode an image once, decode prompts on it, encode memories, attend to them.

The modules are those of the `sam2` package with their own names, so that stock and official weights load. SAM 3's
tracker has the same behind another image encoder (`kinds.py`), and rules of memory that its configuration states.
What differs from the package: a `[SEG]` embedding as one extra sparse prompt token (Sa2VA, arXiv 2501.04001,
section 3.2), N objects in one batch over one image's features, and no state.

Letters: N objects, C hidden channels, h = w = image_size / stride, S image_size, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from torch import Tensor, nn

from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.device import DeviceTraits, traits_of
from sa2va_model.segmentation.kinds import kind_of
from sa2va_model.segmentation.memory_bank import MemoryBank
from sa2va_model.segmentation.sam2_modules import Sam2Modules
from sa2va_model.segmentation.types import Decoded, ImageFeatures, Prompt


class Sam2(nn.Module):
    """The visual half of Sa2VA. Stateless; gradients flow through every method."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        kind = kind_of(config)
        self.sam2_model = Sam2Modules(config, kind.encoder(config), kind.memory(config))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sam2_model.no_mem_embed.device

    @property
    def batched(self) -> bool:
        """Objects are stepped as one batch; on a CPU one after the other, which is what recorded answers rest on."""
        return self.traits.batched

    @property
    def traits(self) -> DeviceTraits:
        """What its device is good at."""
        return traits_of(self.device)

    def lend_bank(
        self, user: object, rows: int, max_conditioning: int, distractor_slots: int
    ) -> MemoryBank:
        """An empty memory (see `MemoryBank`), for as long as `user` lives."""
        return MemoryBank(self, rows, max_conditioning, distractor_slots)

    def warm_up(self, bank: MemoryBank) -> None:
        """Nothing is made ahead."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.sam2_model.no_mem_embed.dtype

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Image features without memory.

        Args:
            pixels: [B, 3, S, S], normalised (`images.sam_pixels`). B > 1 only for training.
        """
        out = self.sam2_model.forward_image(pixels)
        levels, positions = out["backbone_fpn"], out["vision_pos_enc"]
        return ImageFeatures(levels[-1], positions[-1], (levels[-3], levels[-2]))

    def without_memory(self, features: ImageFeatures) -> Tensor:
        """Features for a prompted frame that attends to no memory: [1, C, h, w]."""
        return features.top + self.sam2_model.no_mem_embed.reshape(1, -1, 1, 1)

    def decode(
        self, features: ImageFeatures, conditioned: Tensor, prompt: Prompt | None = None
    ) -> Decoded:
        """Masks of N objects on one image.

        Args:
            features: of the image; only `high` is used.
            conditioned: [N, C, h, w], from `without_memory` or `attend`.
            prompt: for all N; None while tracking. `prompt.mask` is not accepted: see `adopt_mask`.
        """
        count = conditioned.shape[0]
        points, labels = self._points(prompt, count)
        embedding = None
        if prompt is not None and prompt.embedding is not None:
            embedding = prompt.embedding.to(self.device, self.dtype).reshape(1, 1, -1)
            embedding = embedding.expand(count, -1, -1)
        clicks = 0 if labels is None else labels.shape[1]
        return self.decode_tokens(
            features,
            conditioned,
            points=points,
            labels=labels,
            extra=embedding,
            multimask=self.config.multimask and clicks <= 1,
        )

    def decode_tokens(
        self,
        features: ImageFeatures,
        conditioned: Tensor,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        extra: Tensor | None = None,
        dense: Tensor | None = None,
        multimask: bool = False,
    ) -> Decoded:
        """The decoder itself, every object with tokens of its own; used by `decode` and by training.

        Args:
            conditioned: [N, C, h, w].
            points: [N, P, 2] in pixels of the S x S image, `labels`: int32 [N, P]; None = an empty point.
            extra: [N, Q, C] sparse tokens after the points.
            dense: [N, 1, 4h, 4w] mask logits as a dense prompt.
        """
        count = conditioned.shape[0]
        sparse, dense_embedding = self._prompt_tokens(count, points, labels, dense)
        if extra is not None:
            sparse = torch.cat([sparse, extra], dim=1)
        candidates, ious, tokens, scores = self._head(
            features, conditioned, sparse, dense_embedding, multimask
        )
        visible = scores > 0
        if self.config.object_score_gate:
            candidates = torch.where(visible[:, :, None, None], candidates, NO_OBJ_SCORE)
        candidates = candidates.float()
        best = (
            ious.argmax(dim=1)
            if multimask
            else torch.zeros(count, dtype=torch.long, device=ious.device)
        )
        rows = torch.arange(count, device=ious.device)
        token = tokens[rows, best] if tokens.shape[1] > 1 else tokens[:, 0]
        pointers = self._pointers(token, visible)
        logits = candidates[rows, best][:, None]
        return Decoded(logits, candidates, ious, best, pointers, scores, tokens)

    def _prompt_tokens(
        self, count: int, points: Tensor | None, labels: Tensor | None, dense: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The prompt encoder: sparse tokens [N, P + 1, C] and the dense embedding [N, C, h, w]."""
        if points is None or labels is None:
            points = torch.zeros(count, 1, 2, device=self.device)
            labels = -torch.ones(count, 1, dtype=torch.int32, device=self.device)
        sparse, dense_embedding = self.sam2_model.sam_prompt_encoder(
            points=(points, labels), boxes=None, masks=dense
        )
        # The package begins with an empty float32 list.
        return sparse.to(self.dtype), dense_embedding

    def _head(
        self,
        features: ImageFeatures,
        conditioned: Tensor,
        sparse: Tensor,
        dense: Tensor,
        multimask: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The mask decoder: candidates [N, M, 4h, 4w], qualities [N, M], tokens [N, M, C], object scores [N, 1]."""
        sam, count = self.sam2_model, conditioned.shape[0]
        out: tuple[Tensor, Tensor, Tensor, Tensor] = sam.sam_mask_decoder(
            image_embeddings=conditioned,
            image_pe=sam.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=[_repeat(level, count) for level in features.high],
        )
        return out

    def choose(self, decoded: Decoded, best: Tensor) -> Decoded:
        """The same answer with other candidates taken: their masks, qualities and pointers.

        Args:
            best: int64 [N], 0 to M - 1.
        """
        if decoded.tokens is None or decoded.tokens.shape[1] == 1:
            return decoded
        rows = torch.arange(len(best), device=best.device)
        return replace(
            decoded,
            logits=decoded.candidates[rows, best][:, None],
            best=best,
            pointers=self._pointers(decoded.tokens[rows, best], decoded.object_scores > 0),
        )

    def adopt_mask(self, features: ImageFeatures, mask: Tensor) -> Decoded:
        """Takes a given mask as the answer and makes a pointer for it (SAM-2's mask prompt).

        Args:
            mask: bool or float [H, W]; anything above 0.5 is the object.
        """
        sam, size = self.sam2_model, self.config.image_size
        given = mask.to(self.device).float().reshape(1, 1, *mask.shape[-2:])
        given = (_fitted(given, size) >= 0.5).float()
        logits = _fitted(given * 20.0 - 10.0, self.config.mask_size)
        dense = _fitted(sam.mask_downsample(given.to(self.dtype)), self.config.mask_size)
        decoded = self.decode_tokens(features, features.top, dense=dense, multimask=False)
        visible = given.flatten(1).any(dim=1, keepdim=True)
        pointers = torch.where(
            visible, decoded.pointers, sam.no_obj_ptr.expand_as(decoded.pointers)
        )
        return Decoded(
            logits=logits,
            candidates=logits,
            ious=torch.ones(1, 1, device=self.device),
            best=torch.zeros(1, dtype=torch.long, device=self.device),
            pointers=pointers,
            object_scores=visible.float() * 20.0 - 10.0,
        )

    def image_logits(self, logits: Tensor) -> Tensor:
        """Mask logits at the size of the model's image: [N, 1, 4h, 4w] to float32 [N, 1, S, S]."""
        size = (self.config.image_size,) * 2
        return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)

    def encode_memory(
        self, features: ImageFeatures, decoded: Decoded, *, prompted: bool = False
    ) -> Tensor:
        """Spatial memories of N objects on one frame.

        Args:
            prompted: the masks answer a prompt (see `binarize_prompted`).

        Returns:
            [N, memory_cells, memory_dim], in the model's dtype.
        """
        sam = self.sam2_model
        masks = self.image_logits(decoded.logits)
        binary = prompted and self.config.binarize_prompted
        masks = (masks > 0).float() if binary else masks.sigmoid()
        masks = masks * 20.0 - 10.0
        # Behind the squashing, as SAM 3 does it; before it the thin parts of a mask would weigh less.
        masks = _fitted(masks, self.config.memory_mask_size)
        memory = self._remember(features, masks.to(self.dtype))
        if sam.no_obj_embed_spatial is not None:
            hidden = (decoded.object_scores <= 0).to(memory.dtype)[..., None, None]
            memory = memory + hidden * sam.no_obj_embed_spatial[..., None, None]
        if sam.spatial_perceiver is not None:
            places = self._places(memory.device).to(memory.dtype)
            # One after the other: its views do not take a batch.
            return torch.cat([sam.spatial_perceiver(one[None], places)[0] for one in memory])
        return memory.flatten(2).transpose(1, 2)

    def _remember(self, features: ImageFeatures, masks: Tensor) -> Tensor:
        """The memory encoder: scaled masks [N, 1, 16h, 16w] to spatial memories [N, memory_dim, h, w]."""
        # Contiguous, as the official code's views are taken to be: the convolution's other layout rounds differently,
        # and bfloat16 storage makes single bits of that visible.
        top = _repeat(features.top, masks.shape[0]).contiguous()
        out = self.sam2_model.memory_encoder(top, masks, skip_mask_sigmoid=True)
        memory: Tensor = out["vision_features"]
        return memory

    def memory_position(self, device: torch.device) -> Tensor:
        """Position codes of one spatial memory: [memory_cells, memory_dim]."""
        places, perceiver = self._places(device), self.sam2_model.spatial_perceiver
        if perceiver is not None:
            return perceiver(places.to(self.dtype), places.to(self.dtype))[1][0]
        return places[0].flatten(1).T

    def _places(self, device: torch.device) -> Tensor:
        """Sine position code of the feature map, [1, memory_dim, h, w]."""
        side = self.config.feature_size
        probe = torch.zeros(1, self.config.memory_dim, side, side, device=device)
        return self.sam2_model.memory_encoder.position_encoding(probe)

    def attend(
        self, features: ImageFeatures, memory: Tensor, positions: Tensor, pointer_tokens: int
    ) -> Tensor:
        """Image features conditioned on each object's memory.

        Args:
            memory, positions: [L, N, memory_dim]; the last `pointer_tokens` rows are object pointers.

        Returns:
            [N, C, h, w].
        """
        count = memory.shape[1]
        current = _repeat(features.top, count).flatten(2).permute(2, 0, 1)
        position = _repeat(features.position, count).flatten(2).permute(2, 0, 1)
        out = self.sam2_model.memory_attention(
            curr=[current],
            curr_pos=[position],
            memory=memory,
            memory_pos=positions,
            num_obj_ptr_tokens=pointer_tokens,
        )
        side = self.config.feature_size
        return out.permute(1, 2, 0).reshape(count, -1, side, side)

    def attend_memory(
        self, features: ImageFeatures, bank: MemoryBank, rows: Sequence[int]
    ) -> Tensor:
        """Image features conditioned on the memory of each row's object: [N, C, h, w]."""
        tokens = [bank.tokens(row) for row in rows]
        values, positions = [t.values for t in tokens], [t.positions for t in tokens]
        if len({(v.shape, t.pointer_tokens) for v, t in zip(values, tokens, strict=True)}) == 1:
            pointers = tokens[0].pointer_tokens
            return self.attend(
                features, torch.stack(values, 1), torch.stack(positions, 1), pointers
            )
        each = zip(values, positions, tokens, strict=True)
        out = [self.attend(features, v[:, None], p[:, None], t.pointer_tokens) for v, p, t in each]
        return torch.cat(out)

    def track(self, features: ImageFeatures, bank: MemoryBank, rows: Sequence[int]) -> Decoded:
        """Memory attention and decoder for N objects, by their rows in the bank."""
        return self.decode(features, self.attend_memory(features, bank, rows))

    def remember(
        self,
        features: ImageFeatures,
        bank: MemoryBank,
        rows: Sequence[int],
        decoded: Decoded,
        recent: Tensor,
        distractor: Tensor | None,
    ) -> None:
        """Encodes N masks and writes them to memory where they are admitted (see `MemoryBank.write`)."""
        spatial = self.encode_memory(features, decoded)
        index = self._rows(tuple(rows))
        bank.write(index, spatial, decoded.pointers, recent, distractor)

    def _rows(self, rows: tuple[int, ...]) -> Tensor:
        """int64 [N] on the device."""
        return torch.tensor(rows, device=self.device)

    def _pointers(self, token: Tensor, visible: Tensor) -> Tensor:
        """Object pointers; a hidden object has the one learnt pointer of absence."""
        seen = visible.to(token.dtype)
        return seen * self.sam2_model.obj_ptr_proj(token) + (1 - seen) * self.sam2_model.no_obj_ptr

    def _points(self, prompt: Prompt | None, count: int) -> tuple[Tensor | None, Tensor | None]:
        if prompt is None or prompt.points is None or prompt.labels is None:
            return None, None
        points = prompt.points.to(self.device, torch.float32) * self.config.image_size
        labels = prompt.labels.to(self.device, torch.int32)
        return points.expand(count, -1, -1), labels.expand(count, -1)


def same_encoder(one: Sam2, other: Sam2) -> bool:
    """Two models' image encoders are equal, tensor for tensor, so that one pass serves both."""
    pixels = [(c.image_size, c.half_normalisation) for c in (one.config, other.config)]
    if pixels[0] != pixels[1]:
        return False
    first = one.sam2_model.image_encoder.state_dict()
    second = other.sam2_model.image_encoder.state_dict()
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and torch.equal(first[name], second[name])
        for name in first
    )


def _repeat(tensor: Tensor, count: int) -> Tensor:
    """One image's features for N objects; training already brings one row for each."""
    return tensor if tensor.shape[0] == count else tensor.expand(count, *tensor.shape[1:])


def _fitted(masks: Tensor, side: int) -> Tensor:
    """Masks [N, 1, h, w] at another size, [N, 1, side, side]."""
    if masks.shape[-2:] == (side, side):
        return masks
    return F.interpolate(
        masks, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
