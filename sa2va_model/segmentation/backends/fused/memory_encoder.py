# SPDX-License-Identifier: Apache-2.0
"""The memory encoder for N masks on one image, channels last; the image's share is computed once."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from sam2.modeling.memory_encoder import CXBlock, MemoryEncoder
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, channels_last, nn

from sa2va_model.segmentation.backends.fused.kernels import Dense, Kernels
from sa2va_model.segmentation.backends.fused.recording import Recording
from sa2va_model.segmentation.backends.fused.triton_kernels.layer_norm import normalise

PLANES, FEW = 4, 16
"""Channels up to which each is normalised as a plane, and up to which the mean of squares is a product."""
_Stage = Callable[[Tensor], Tensor]


class FastMemoryEncoder:
    """Masks and image features to spatial memories.

    Args:
        side: of the feature map, in cells.
        kernels: of matrix products and convolutions; sums and normalisations are float32.
    """

    def __init__(self, module: MemoryEncoder, side: int, kernels: Kernels) -> None:
        rows = side * side
        self._pixels = _one_by_one(module.pix_feat_proj, kernels, rows)
        steps = list(module.mask_downsampler.encoder)
        self._stages = [
            _mask_stage(steps[i], steps[i + 1], kernels) for i in range(0, len(steps) - 1, 3)
        ]
        self._mask_out = _one_by_one(steps[-1], kernels, rows)
        self._blocks = [_Block(block, kernels, rows) for block in module.fuser.layers]
        self._out = _one_by_one(module.out_proj, kernels, rows)
        self._encode = Recording(self._layers, active=kernels.traits.records)

    def begin(self, top: Tensor) -> Tensor:
        """The image's share: [1, h, w, C] to the same."""
        return self._pixels(top).float()

    def __call__(self, begun: Tensor, masks: Tensor) -> Tensor:
        """Spatial memories.

        Args:
            begun: from `begin`.
            masks: float32 [N, 1, S, S], already scaled.

        Returns:
            float32 [N, h, w, memory_dim].
        """
        [out] = self._encode(begun, masks)
        return out

    def _layers(self, begun: Tensor, masks: Tensor) -> tuple[Tensor]:
        x = masks
        for stage in self._stages:
            x = stage(x)
        x = begun + self._mask_out(x.permute(0, 2, 3, 1))
        for block in self._blocks:
            x = block(x)
        return (self._out(x).float(),)


def _mask_stage(convolution: nn.Conv2d, norm: LayerNorm2d, kernels: Kernels) -> _Stage:
    if kernels.traits.layouts and convolution.out_channels <= FEW:
        planes = convolution.out_channels <= PLANES
        return (_PlanarStage if planes else _NarrowStage)(convolution, norm)
    return _MaskStage(convolution, norm, kernels)


class _NarrowStage:
    """A `_MaskStage` with few channels, which PyTorch normalises pixel by pixel; the result lies channels last.

    The convolution's own weights take the mean off.
    """

    _LAYOUT = channels_last

    def __init__(self, convolution: nn.Conv2d, norm: LayerNorm2d) -> None:
        assert convolution.bias is not None
        weight, bias = convolution.weight.detach().float(), convolution.bias.detach().float()
        weight, self._bias = weight - weight.mean(0, keepdim=True), bias - bias.mean()
        self._weight = weight.contiguous(memory_format=self._LAYOUT)
        self._stride, self._padding = convolution.stride, convolution.padding
        self._scale, self._shift = norm.weight.detach().float(), norm.bias.detach().float()
        self._mean = torch.full_like(self._scale, 1 / len(weight))[:, None]
        self._eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        """[N, C, s, s] to [N, C', s / 2, s / 2]."""
        x = self._convolve(x).permute(0, 2, 3, 1)
        narrow = ((x * x) @ self._mean).add_(self._eps).rsqrt_()
        out = F.gelu((x * narrow).mul_(self._scale).add_(self._shift))
        return out.permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor) -> Tensor:
        """Without the mean over channels; it lies as the weights do."""
        return F.conv2d(x.float(), self._weight, self._bias, self._stride, self._padding)


class _PlanarStage(_NarrowStage):
    """The same with each channel as a plane."""

    _LAYOUT = torch.contiguous_format

    def __call__(self, x: Tensor) -> Tensor:
        """[N, C, s, s] to [N, C', s / 2, s / 2]."""
        x = self._convolve(x)
        narrow = (x * x).mean(1, keepdim=True).add_(self._eps).rsqrt_()
        scale, shift = (part.view(-1, 1, 1) for part in (self._scale, self._shift))
        return F.gelu((x * narrow).mul_(scale).add_(shift))


class _MaskStage:
    """Convolution of stride 2, normalisation over channels, GELU."""

    def __init__(self, convolution: nn.Conv2d, norm: LayerNorm2d, kernels: Kernels) -> None:
        # The first two stages have too few channels for bfloat16 to pay.
        self._dtype = kernels.dtype if convolution.out_channels >= 64 else torch.float32
        assert convolution.bias is not None
        self._weight = convolution.weight.detach().to(self._dtype, memory_format=channels_last)
        self._bias = convolution.bias.detach().to(self._dtype)
        self._stride, self._padding = convolution.stride, convolution.padding
        self._norm = norm

    def __call__(self, x: Tensor) -> Tensor:
        """[N, C, s, s] to [N, C', s / 2, s / 2], channels last."""
        x = x.to(self._dtype).contiguous(memory_format=channels_last)
        x = F.conv2d(x, self._weight, self._bias, self._stride, self._padding)
        x = _norm_channels(x.permute(0, 2, 3, 1), self._norm, gelu=True)
        return x.permute(0, 3, 1, 2)


class _Block:
    """One ConvNeXt block."""

    def __init__(self, block: CXBlock, kernels: Kernels, rows: int) -> None:
        convolution = block.dwconv
        self._weight = convolution.weight.detach().float().contiguous(memory_format=channels_last)
        self._bias = convolution.bias.detach().float()
        self._padding, self._groups = convolution.padding, convolution.groups
        self._norm = block.norm
        self._first = kernels.dense_of(block.pwconv1, rows=rows, activation="gelu")
        weight, bias = block.pwconv2.weight.float(), block.pwconv2.bias.float()
        if block.gamma is not None:
            weight, bias = weight * block.gamma.float()[:, None], bias * block.gamma.float()
        self._second = kernels.dense(weight, bias, rows=rows)

    def __call__(self, x: Tensor) -> Tensor:
        """float32 [N, h, w, C] to the same."""
        wide = F.conv2d(
            x.permute(0, 3, 1, 2), self._weight, self._bias, 1, self._padding, 1, self._groups
        ).permute(0, 2, 3, 1)
        return x + self._second(self._first(_norm_channels(wide, self._norm)))


def _norm_channels(x: Tensor, norm: LayerNorm2d, *, gelu: bool = False) -> Tensor:
    """Over the last dimension; float32."""
    return normalise(x, norm.weight.float(), norm.bias.float(), norm.eps, gelu=gelu)


def _one_by_one(convolution: nn.Module, kernels: Kernels, rows: int) -> Dense:
    """A 1 x 1 convolution as a linear layer."""
    assert isinstance(convolution, nn.Conv2d)
    return kernels.dense(convolution.weight.flatten(1), convolution.bias, rows=rows)
