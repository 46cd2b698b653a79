# SPDX-License-Identifier: Apache-2.0
"""The mask decoder for N objects over one image, by exact rewrites.

What differs from the `sam2` package's code and not from its result:

- The image's keys, values and queries in one layer are one product; the position code goes through
  the weights once, when the decoder is prepared.
- The two transposed convolutions have stride = kernel, so they are matrix products. Cells stay in the order in which
  these write them, in blocks; the image's fine features are brought into that order once
  for all objects, and only the finished masks are put back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn

from sa2va_model.segmentation.backends.fused.kernels import Dense, Kernels, Norm, scale_of
from sa2va_model.segmentation.backends.fused.recording import Recording
from sa2va_model.segmentation.backends.fused.triton_kernels.layer_norm import normalise


@dataclass(frozen=True)
class DecodedMasks:
    """All that the decoder's head says, before anything is chosen.

    Attributes:
        masks: float32 [N, M, 4h, 4w], those that were asked for; of all four the first is the single-mask answer.
        ious: float32 [N, 4]; `tokens`: float32 [N, 4, C]; `scores`: float32 [N, 1].
    """

    masks: Tensor
    ious: Tensor
    tokens: Tensor
    scores: Tensor


class FastMaskDecoder:
    """Masks, qualities, tokens and object scores from conditioned features.

    Args:
        position: the prompt encoder's dense position code, [1, C, h, w].
        kernels: of matrix products over image cells; everything on the few tokens is float32.
    """

    def __init__(self, module: MaskDecoder, position: Tensor, kernels: Kernels) -> None:
        self._module, self._kernels = module, kernels
        self._side = position.shape[-1]
        rows = self._side**2
        places = position.flatten(2).permute(0, 2, 1).float()  # [1, cells, C]
        transformer = module.transformer
        self._layers = [_Layer(one, places, kernels) for one in transformer.layers]
        final = transformer.final_attn_token_to_image
        self._final = final
        self._final_keys = _ImageSide(
            [(final.k_proj, True), (final.v_proj, False)], places, kernels
        )
        self._final_norm = Norm(transformer.norm_final_attn)
        first, norm, _, second, _ = module.output_upscaling
        assert isinstance(first, nn.ConvTranspose2d)
        assert isinstance(second, nn.ConvTranspose2d)
        self._up1, self._up2 = _upscale(first, kernels, rows), _upscale(second, kernels, 4 * rows)
        self._up_norm = norm
        self._fixed = torch.cat(
            [module.obj_score_token.weight, module.iou_token.weight, module.mask_tokens.weight]
        ).float()

        self._decode = Recording(self._from_prompt, active=kernels.traits.records)

    def begin(self, zero: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
        """The image's share: fine features in the order of the upscaling's cells.

        Args:
            zero: float32 [1, 4h, 4w, C / 8]; `one`: float32 [1, 2h, 2w, C / 4].
        """
        side = self._side
        first = one.view(1, side, 2, side, 2, -1).permute(0, 1, 3, 2, 4, 5)
        second = zero.view(1, side, 2, 2, side, 2, 2, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return (
            first.reshape(1, side * side, 4, first.shape[-1]),
            second.reshape(1, side * side, 16, second.shape[-1]),
        )

    def __call__(
        self,
        begun: tuple[Tensor, Tensor],
        image: Tensor,
        sparse: Tensor,
        which: slice = slice(None),
    ) -> DecodedMasks:
        """Masks, and what else there is of all four.

        Args:
            begun: from `begin`.
            image: float32 [N, cells, C], with the dense prompt added.
            sparse: float32 [N, P, C].
            which: of the four masks.
        """
        return DecodedMasks(*self._decode(*begun, image, sparse, which=(which.start, which.stop)))

    def _from_prompt(
        self,
        first: Tensor,
        second: Tensor,
        image: Tensor,
        sparse: Tensor,
        *,
        which: tuple[int, int],
    ) -> tuple[Tensor, ...]:
        start = torch.cat([self._fixed.expand(image.shape[0], -1, -1), sparse], dim=1)
        out = self.decode((first, second), image, start, slice(*which))
        return out.masks, out.ious, out.tokens, out.scores

    def decode(
        self,
        begun: tuple[Tensor, Tensor],
        image: Tensor,
        start: Tensor,
        which: slice = slice(None),
    ) -> DecodedMasks:
        """The same from all tokens, [N, 6 + P, C]: object score, IoU, masks, prompt."""
        module = self._module
        tokens, cells = start, image
        for layer in self._layers:
            tokens, cells = layer(tokens, cells, start)
        tokens = tokens + _read(self._kernels, self._final, tokens + start, self._final_keys(cells))
        tokens = self._final_norm(tokens)
        chosen = tokens[:, 2 : 2 + module.num_mask_tokens]
        masks = self._masks(begun, cells, chosen, which)
        return DecodedMasks(
            masks,
            module.iou_prediction_head(tokens[:, 1]),
            chosen,
            module.pred_obj_score_head(tokens[:, 0]),
        )

    def _masks(
        self, begun: tuple[Tensor, Tensor], cells: Tensor, tokens: Tensor, which: slice
    ) -> Tensor:
        """[N, cells, C] and mask tokens to logits [N, M, 4h, 4w]."""
        count, side, norm = cells.shape[0], self._side, self._up_norm
        fine = self._up1(cells).float().view(count, side * side, 4, -1) + begun[0]
        fine = normalise(fine, norm.weight, norm.bias, norm.eps, gelu=True)
        finer = self._up2(fine).view(count, side * side, 16, -1) + begun[1]
        finer = F.gelu(finer).flatten(1, 2)  # [N, 16 cells, C / 8]
        networks = list(enumerate(self._module.output_hypernetworks_mlps))[which]
        weights = torch.stack([network(tokens[:, i]) for i, network in networks], dim=1)
        masks = torch.bmm(weights, finer.float().transpose(1, 2))
        blocks = masks.view(count, -1, side, side, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return blocks.reshape(count, -1, 4 * side, 4 * side)


class _ImageSide:
    """Several projections of image cells as one product; position codes enter as a constant.

    Args:
        layers: (projection, the input has position codes added) in the order of the outputs.
        scale: of the last output; folded into its weights.
    """

    def __init__(
        self,
        layers: list[tuple[nn.Linear, bool]],
        places: Tensor,
        kernels: Kernels,
        *,
        scale: float = 1.0,
    ) -> None:
        factors = [1.0] * (len(layers) - 1) + [scale]
        weights = [layer.weight.float() * f for (layer, _), f in zip(layers, factors, strict=True)]
        biases = [layer.bias.float() * f for (layer, _), f in zip(layers, factors, strict=True)]
        shift = [
            places @ w.T if placed else torch.zeros_like(places[..., :1]).expand(-1, -1, len(w))
            for w, (_, placed) in zip(weights, layers, strict=True)
        ]
        self._dense = kernels.dense(torch.cat(weights), torch.cat(biases), rows=places.shape[1])
        self._shift = torch.cat(shift, dim=-1).to(kernels.dtype)
        self._sizes = [len(w) for w in weights]

    def __call__(self, cells: Tensor) -> tuple[Tensor, ...]:
        """[N, cells, C] to one tensor for each layer."""
        return (self._dense(cells) + self._shift).split(self._sizes, dim=-1)


class _Layer:
    """One two-way layer."""

    def __init__(self, layer: TwoWayAttentionBlock, places: Tensor, kernels: Kernels) -> None:
        self._layer, self._kernels = layer, kernels
        self._norms = [Norm(n) for n in (layer.norm1, layer.norm2, layer.norm3, layer.norm4)]
        read, write = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        # The query of image-to-token attention sees the same cells as keys and values of token-to-image attention.
        self._image = _ImageSide(
            [(read.k_proj, True), (read.v_proj, False), (write.q_proj, True)],
            places,
            kernels,
            scale=scale_of(write.internal_dim // write.num_heads),
        )
        self._write_out = kernels.dense_of(write.out_proj, rows=places.shape[1])

    def __call__(self, tokens: Tensor, cells: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [N, Q, C] and cells [N, cells, C] to the same, both float32."""
        layer = self._layer
        if layer.skip_first_layer_pe:
            tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
        else:
            placed = tokens + start
            tokens = tokens + layer.self_attn(q=placed, k=placed, v=tokens)
        tokens = self._norms[0](tokens)
        keys, values, queries = self._image(cells)
        reader = layer.cross_attn_token_to_image
        tokens = tokens + _read(self._kernels, reader, tokens + start, (keys, values))
        tokens = self._norms[1](tokens)
        tokens = self._norms[2](tokens + layer.mlp(tokens))
        written = self._write(queries, tokens + start, tokens)
        return tokens, self._norms[3].after(cells, self._write_out(written))[1]

    def _write(self, queries: Tensor, placed: Tensor, tokens: Tensor) -> Tensor:
        """Image cells attend to tokens; [N, cells, C / 2]."""
        writer = self._layer.cross_attn_image_to_token
        keys, values = writer.k_proj(placed), writer.v_proj(tokens)
        heads = writer.num_heads
        out = self._kernels.attend_many(
            _split(queries, heads),
            _split(keys.to(queries.dtype), heads),
            _split(values.to(queries.dtype), heads),
        )
        return out.transpose(1, 2).flatten(2)


def _read(
    kernels: Kernels, attention: Attention, tokens: Tensor, image: tuple[Tensor, ...]
) -> Tensor:
    """Tokens attend to image cells; float32 [N, Q, C]."""
    keys, values = image
    heads = attention.num_heads
    queries = attention.q_proj(tokens) * scale_of(attention.internal_dim // heads)
    out = kernels.attend_many(
        _split(queries.to(keys.dtype), heads), _split(keys, heads), _split(values, heads)
    )
    out = out.transpose(1, 2).flatten(2).float()
    result: Tensor = attention.out_proj(out)
    return result


def _split(x: Tensor, heads: int) -> Tensor:
    """[N, Q, C] to [N, heads, Q, C / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _upscale(convolution: nn.ConvTranspose2d, kernels: Kernels, rows: int) -> Dense:
    """A transposed convolution with kernel and stride 2 as a product: [.., C] to [.., 4 C'], row-major blocks."""
    assert convolution.bias is not None
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [2 * 2 * C', C]
    return kernels.dense(weight, convolution.bias.repeat(4), rows=rows)
