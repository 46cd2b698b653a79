# SPDX-License-Identifier: Apache-2.0
"""SAM-2 cut into graphs for one size of image: what each takes and gives.

The blocks are those of the fused backend, on plain operators: rotary codes are real constants, attention is two
products and a softmax, and nothing depends on a shape that is not known but for the number of objects N, of memory
slots M, of pointers P and of tokens Q. What is chosen, gated and kept stays with the host.

Letters: C hidden channels, D memory channels, h = w = S / 16 (SAM 3: S / 14), S image size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttention
from sam2.modeling.sam.transformer import Attention
from torch import Tensor, nn

from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.device import DeviceTraits
from sa2va_model.segmentation.backends.fused.kernels import Kernels, scale_of
from sa2va_model.segmentation.backends.fused.mask_decoder import FastMaskDecoder
from sa2va_model.segmentation.backends.fused.memory_attention import FastMemoryAttention
from sa2va_model.segmentation.backends.fused.memory_encoder import FastMemoryEncoder
from sa2va_model.segmentation.backends.fused.rotation import Rotation
from sa2va_model.segmentation.kinds import kind_of
from sa2va_model.segmentation.rotary_codes import square_codes
from sa2va_model.segmentation.sam2 import Sam2

SCORES = 1 << 19
"""Scores of one object that attention holds at once, about; they should stay in a processor's cache."""


@dataclass(frozen=True)
class GraphSpec:
    """One graph that is exported.

    Attributes:
        module: computes it in PyTorch.
        inputs: an example of each input, by name, in order.
        outputs: names, in order.
        dynamic: for each input, which dimensions vary, by letter; unnamed ones are fixed.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


class _GraphRotation(Rotation):
    """Rotary codes as two products and a sum, out of place."""

    def turn(self, x: Tensor, first: int = 0) -> Tensor:
        """[N, cells, dim]; all rows are cells."""
        assert not first
        return self(x)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., cells, dim]."""
        low, high = x.chunk(2, dim=-1)
        return torch.cat(
            [low * self._cos - high * self._sin, low * self._sin + high * self._cos], dim=-1
        )


class _GraphKernels(Kernels):
    """Products, attention and rotary codes as plain operators."""

    def rotation(self, codes: Tensor) -> Rotation:
        """Out of place."""
        return _GraphRotation(codes)

    def attend_many(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """softmax(query key^T) value over leading batch dimensions.

        Heads become rows where nothing varies: OpenVINO takes them for cells where there are as many of both, as in
        Hiera's third stage.
        """
        lead = query.shape[:-2]
        if len(lead) < 2 or not all(isinstance(size, int) for size in lead):
            return attend(query, key, value, None)
        query, key, value = (part.flatten(0, -3) for part in (query, key, value))
        return attend(query, key, value, None).unflatten(0, lead)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(query key^T + bias) value, a part of the queries at a time.

    Args:
        query: [..., Q, d]; key: [..., L, d]; value: [..., L, e]; bias: [..., 1, L]. Q is fixed.
    """
    length = key.shape[-2]
    rows = query.shape[-2]
    if isinstance(rows, int):
        rows = max(64, SCORES // (length if isinstance(length, int) else 4096))
    turned = key.transpose(-1, -2)
    out = []
    for part in query.split(rows, dim=-2) if isinstance(rows, int) else (query,):
        scores = part @ turned
        if bias is not None:
            scores = scores + bias
        out.append(scores.softmax(-1) @ value)
    return out[0] if len(out) == 1 else torch.cat(out, dim=-2)


class ImageGraph(nn.Module):
    """pixels [1, 3, S, S] to top [1, C, h, w], fine [1, C / 8, 4h, 4w] and middle [1, C / 4, 2h, 2w]."""

    def __init__(self, segmenter: Sam2, kernels: Kernels) -> None:
        super().__init__()
        sam = segmenter.sam2_model
        encoder, decoder = sam.image_encoder, sam.sam_mask_decoder
        make_trunk, make_pyramid = kind_of(segmenter.config).fused()
        self._trunk = make_trunk(encoder.trunk, segmenter.config.image_size, kernels)
        self._pyramid = make_pyramid(encoder.neck, (decoder.conv_s0, decoder.conv_s1), kernels)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Levels, coarsest first."""
        top, fine, middle = self._pyramid(self._trunk(pixels))
        return tuple(x.permute(0, 3, 1, 2) for x in (top, fine, middle))


class AttentionGraph(nn.Module):
    """Image features conditioned on each object's memory.

    top [1, C, h, w]; memory [N, M, h w, D]; code [N, M], which temporal code each slot has; slot_bias [N, M];
    pointers [N, P, C]; age [N, P], of the pointers, in units of the oldest; pointer_bias [N, P]. A bias is 0 where a
    slot is read and very negative where it is not. Gives conditioned [N, C, h, w].
    """

    def __init__(self, segmenter: Sam2, position: Tensor, kernels: Kernels) -> None:
        super().__init__()
        config, sam = segmenter.config, segmenter.sam2_model
        module: MemoryAttention = sam.memory_attention
        side = self._side = config.feature_size
        width = module.layers[0].self_attn.internal_dim
        self._rotation = kernels.rotation(square_codes(width, side).to(position.device))
        self._attention = FastMemoryAttention(module, side, kernels, self._rotation)
        self._position = position.flatten(2).transpose(1, 2)  # [1, cells, C]
        cells = segmenter.memory_position(position.device).float()
        temporal = sam.maskmem_tpos_enc.detach()[:, 0, 0].float()
        self._places = (cells + temporal[:, None]).flatten(1)  # [memory_frames, cells * D]
        self._parts = config.hidden_dim // config.memory_dim
        self._project = sam.obj_ptr_tpos_proj if config.pointer_positions else None
        half = config.hidden_dim // 2
        steps = torch.arange(half, dtype=torch.float32)
        self._speeds = 10000 ** (-2 * (steps // 2) / half)

    def forward(
        self,
        top: Tensor,
        memory: Tensor,
        code: Tensor,
        slot_bias: Tensor,
        pointers: Tensor,
        age: Tensor,
        pointer_bias: Tensor,
    ) -> Tensor:
        """All objects as one batch; what precedes the first reading is computed once."""
        cells, width = memory.shape[2:]
        values = pointers.unflatten(-1, (self._parts, width))
        placed = values
        if self._project is not None:
            turns = age[:, :, None] * self._speeds
            sine = torch.cat([turns.sin(), turns.cos()], dim=-1)
            placed = values + self._project(sine)[:, :, None]
        placed, values = placed.flatten(1, 2), values.flatten(1, 2)
        spatial = memory + F.embedding(code, self._places).unflatten(-1, (cells, width))
        values = torch.cat([values, memory.flatten(1, 2)], dim=1)
        none = torch.zeros(self._parts), torch.zeros(cells)
        bias = torch.cat(
            [
                (pointer_bias[:, :, None] + none[0]).flatten(1, 2),
                (slot_bias[:, :, None] + none[1]).flatten(1, 2),
            ],
            dim=1,
        )[:, None]
        attention = self._attention
        x, query = attention.begin(top.flatten(2).transpose(1, 2), self._position)
        state: tuple[Tensor, Tensor | None] = (x, None)
        for index, layer in enumerate(attention.layers):
            if index:
                x, query = layer.query(layer.attend_self(state))
            turned = self._rotation(layer.key(spatial)).flatten(1, 2)
            keys = torch.cat([layer.key(placed), turned], dim=1)
            state = layer.finish(x, attend(query, keys, values, bias))
        out = attention.norm.after(*state)[1]
        return out.transpose(1, 2).unflatten(2, (self._side, self._side))


class _PlainAttention(nn.Module):
    """Tokens attend to tokens, as the package's attention."""

    def __init__(self, source: Attention) -> None:
        super().__init__()
        self._source = source

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[N, Q, C] each, to the same."""
        own = self._source
        scale = scale_of(own.internal_dim // own.num_heads)
        query, key, value = own.q_proj(q) * scale, own.k_proj(k), own.v_proj(v)
        query, key, value = (
            x.unflatten(-1, (own.num_heads, -1)).transpose(1, 2) for x in (query, key, value)
        )
        out: Tensor = own.out_proj(attend(query, key, value, None).transpose(1, 2).flatten(2))
        return out


class DecoderGraph(nn.Module):
    """Masks of N objects.

    conditioned [N, C, h, w], with the dense prompt added; fine and middle of the image; tokens [N, Q, C]: object
    score, IoU, four masks, then the prompt's. Gives masks [N, 4, 4h, 4w] (the first = the single answer), ious [N, 4],
    mask_tokens [N, 4, C], pointers [N, 4, C] of them for an object that is seen, scores [N, 1].
    """

    def __init__(self, segmenter: Sam2, places: Tensor, kernels: Kernels) -> None:
        super().__init__()
        sam = segmenter.sam2_model
        module = copy.deepcopy(sam.sam_mask_decoder)
        for layer in module.transformer.layers:
            layer.self_attn = _PlainAttention(layer.self_attn)
        self._decoder = FastMaskDecoder(module, places, kernels)
        self._project = sam.obj_ptr_proj

    def forward(
        self, conditioned: Tensor, fine: Tensor, middle: Tensor, tokens: Tensor
    ) -> tuple[Tensor, ...]:
        """Nothing is chosen."""
        begun = self._decoder.begin(fine.permute(0, 2, 3, 1), middle.permute(0, 2, 3, 1))
        cells = conditioned.flatten(2).transpose(1, 2)
        out = self._decoder.decode(begun, cells, tokens)
        return out.masks, out.ious, out.tokens, self._project(out.tokens), out.scores


class MemoryGraph(nn.Module):
    """Spatial memories of N masks.

    top [1, C, h, w]; logits [N, 1, 4h, 4w]; hidden [N, 1], 1 where the object is not seen, else 0; hard [1], 1 = the
    masks are taken as sharp (SAM-2's way with prompted frames). Gives memory [N, h w, D].
    """

    def __init__(self, segmenter: Sam2, kernels: Kernels) -> None:
        super().__init__()
        self._encoder = FastMemoryEncoder(
            segmenter.sam2_model.memory_encoder, segmenter.config.feature_size, kernels
        )
        self._absent = segmenter.sam2_model.no_obj_embed_spatial

    def forward(self, top: Tensor, logits: Tensor, hidden: Tensor, hard: Tensor) -> Tensor:
        """As `Sam2.encode_memory`, cells before channels."""
        masks = F.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)
        masks = hard * (masks > 0).float() + (1 - hard) * masks.sigmoid()
        begun = self._encoder.begin(top.permute(0, 2, 3, 1))
        memory = self._encoder(begun, masks * 20.0 - 10.0).flatten(1, 2)
        if self._absent is not None:
            memory = memory + hidden[:, :, None] * self._absent[0]
        return memory


def sam2_graphs(segmenter: Sam2, image_size: int | None = None) -> dict[str, GraphSpec]:
    """The graphs of a SAM-2 or of SAM 3's tracker, by name.

    Args:
        segmenter: float32, on the CPU.
        image_size: side of the image, pixels; None = the model's own.
    """
    config = replace(segmenter.config, image_size=image_size or segmenter.config.image_size)
    sized = _resized(segmenter, config)
    kernels, side = _GraphKernels(torch.float32, DeviceTraits()), config.feature_size
    sam = sized.sam2_model
    position = sam.image_encoder.neck.position_encoding(torch.zeros(1, 1, side, side)).float()
    places = sam.sam_prompt_encoder.get_dense_pe()
    wide, narrow, size = config.hidden_dim, config.memory_dim, config.image_size
    top = torch.randn(1, wide, side, side)
    fine = torch.randn(1, wide // 8, 4 * side, 4 * side)
    middle = torch.randn(1, wide // 4, 2 * side, 2 * side)
    count, slots, pointers = 2, 3, 5
    attention = {
        "top": top,
        "memory": torch.randn(count, slots, side * side, narrow),
        "code": torch.randint(0, config.memory_frames, (count, slots)),
        "slot_bias": torch.zeros(count, slots),
        "pointers": torch.randn(count, pointers, wide),
        "age": torch.rand(count, pointers),
        "pointer_bias": torch.zeros(count, pointers),
    }
    slot, pointer = {0: "N", 1: "M"}, {0: "N", 1: "P"}
    return {
        "image": GraphSpec(
            ImageGraph(sized, kernels),
            {"pixels": torch.randn(1, 3, size, size)},
            ("top", "fine", "middle"),
        ),
        "memory_attention": GraphSpec(
            AttentionGraph(sized, position, kernels),
            attention,
            ("conditioned",),
            {
                "memory": slot,
                "code": slot,
                "slot_bias": slot,
                "pointers": pointer,
                "age": pointer,
                "pointer_bias": pointer,
            },
        ),
        "decoder": GraphSpec(
            DecoderGraph(sized, places, kernels),
            {
                "conditioned": torch.randn(count, wide, side, side),
                "fine": fine,
                "middle": middle,
                "tokens": torch.randn(count, 8, wide),
            },
            ("masks", "ious", "mask_tokens", "pointers", "scores"),
            {"conditioned": {0: "N"}, "tokens": {0: "N", 1: "Q"}},
        ),
        "memory_encoder": GraphSpec(
            MemoryGraph(sized, kernels),
            {
                "top": top,
                "logits": 5 * torch.randn(count, 1, 4 * side, 4 * side),
                "hidden": torch.tensor([[0.0], [1.0]]),
                "hard": torch.zeros(1),
            },
            ("memory",),
            {"logits": {0: "N"}, "hidden": {0: "N"}},
        ),
    }


def sam2_constants(segmenter: Sam2, image_size: int) -> dict[str, np.ndarray]:
    """Small arrays for a host without PyTorch: what encodes clicks, and what stands for nothing."""
    sam = segmenter.sam2_model
    encoder, head = sam.sam_prompt_encoder, sam.sam_mask_decoder
    with torch.no_grad():
        own = [head.obj_score_token.weight, head.iou_token.weight, head.mask_tokens.weight]
        found = {
            "image_size": torch.tensor(image_size),
            "decoder_tokens": torch.cat(own),
            "no_memory": sam.no_mem_embed.flatten(),
            "no_mask": encoder.no_mask_embed.weight.flatten(),
            "click_matrix": encoder.pe_layer.positional_encoding_gaussian_matrix,
            "click_labels": torch.cat([one.weight for one in encoder.point_embeddings]),
            "no_click": encoder.not_a_point_embed.weight.flatten(),
            "no_pointer": sam.no_obj_ptr.flatten(),
        }
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in found.items()}


def _resized(segmenter: Sam2, config: SegmenterConfig) -> Sam2:
    """The same weights for another size of image."""
    from sa2va_model.segmentation.backends.fused.model import without_encoder

    if config == segmenter.config:
        return segmenter
    shell = Sam2.__new__(Sam2)
    nn.Module.__init__(shell)
    shell.config = config
    shell.sam2_model = without_encoder(segmenter, config.image_size, config.feature_size)
    shell.sam2_model._modules["image_encoder"] = segmenter.sam2_model.image_encoder
    return shell
