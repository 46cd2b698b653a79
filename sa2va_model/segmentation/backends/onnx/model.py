# SPDX-License-Identifier: Apache-2.0
"""OnnxSam2: a `Sam2` for inference whose four heavy pieces are exported graphs.

The bank, the gates and the choice among masks stay with the host, as they are. What is small and depends on a prompt
(clicks, a given mask, pointers) is computed by the weights themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sa2va_model.device import DeviceTraits, traits_of
from sa2va_model.segmentation.backends.fused.model import without_encoder
from sa2va_model.segmentation.backends.onnx.graph import Graph
from sa2va_model.segmentation.backends.onnx.manifest import SegmenterEntry
from sa2va_model.segmentation.backends.onnx.providers import ProviderOptions
from sa2va_model.segmentation.backends.onnx.shapes import limits_of
from sa2va_model.segmentation.memory_bank import MemoryBank
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import Decoded, ImageFeatures

UNREAD = -30000.0
"""Added to scores of what is not read: no weight is left of them, in float16 either."""


class OnnxSam2(Sam2):
    """SAM-2 for inference by ONNX Runtime.

    Args:
        weights: what was exported.
        folder: of the manifest; `entry`: the graphs of these weights at the size that is wanted.
        options: who runs them.
    """

    def __init__(
        self, weights: Sam2, folder: Path, entry: SegmenterEntry, options: ProviderOptions
    ) -> None:
        nn.Module.__init__(self)
        self.config = replace(weights.config, image_size=entry.image_size)
        self._traits = traits_of(weights.device)
        side = self.config.feature_size
        with torch.inference_mode(False), torch.no_grad():
            self.sam2_model = without_encoder(weights, entry.image_size, side)
            sam = self.sam2_model
            probe = torch.zeros(1, 1, side, side, device=weights.device)
            position = weights.sam2_model.image_encoder.neck.position_encoding
            self._position = position(probe).float()  # [1, C, h, w]
            head = sam.sam_mask_decoder
            self._fixed = torch.cat(
                [head.obj_score_token.weight, head.iou_token.weight, head.mask_tokens.weight]
            ).float()
            self._sparse, self._dense = super()._prompt_tokens(1, None, None, None)
        limits = limits_of(entry.config)
        graphs = {k: Graph(folder, graph, options, limits) for k, graph in entry.graphs.items()}
        self.graphs = graphs
        self.requires_grad_(False)

    @property
    def traits(self) -> DeviceTraits:
        """What the host computes on."""
        return self._traits

    @property
    def batched(self) -> bool:
        """Objects are always stepped as one batch."""
        return True

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Image features without memory; pixels [1, 3, S, S]."""
        top, fine, middle = self.graphs["image"](pixels.float())
        return ImageFeatures(top, self._position, (fine, middle))

    def attend_memory(
        self, features: ImageFeatures, bank: MemoryBank, rows: Sequence[int]
    ) -> Tensor:
        """Image features conditioned on the memory of each row's object: [N, C, h, w]."""
        on_cpu = self._traits.reads_back
        most = max(bank.conditioning(row) for row in rows) if on_cpu else bank.max_conditioning
        index = torch.tensor(rows, device=self.device)
        view = bank.view(index, most, trimmed=on_cpu)
        (out,) = self.graphs["memory_attention"](
            features.top,
            view.spatial.float(),
            view.code,
            _bias(view.used),
            view.pointers.float(),
            view.age / bank.recent_pointers,
            _bias(view.pointer_used),
        )
        return out

    def encode_memory(
        self, features: ImageFeatures, decoded: Decoded, *, prompted: bool = False
    ) -> Tensor:
        """Spatial memories of N objects on one frame: [N, memory_cells, memory_dim]."""
        hard = float(prompted and self.config.binarize_prompted)
        (memory,) = self.graphs["memory_encoder"](
            features.top,
            decoded.logits.float(),
            (decoded.object_scores <= 0).float(),
            torch.tensor([hard], device=self.device),
        )
        return memory

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
        fixed = self._fixed.expand(len(conditioned), -1, -1)
        masks, ious, tokens, _, scores = self.graphs["decoder"](
            conditioned + dense, *features.high, torch.cat([fixed, sparse], dim=1)
        )
        if multimask:
            return masks[:, 1:], ious[:, 1:], tokens[:, 1:], scores
        single = masks[:, :1], ious[:, :1]
        if self.config.stability_fallback:
            head = self.sam2_model.sam_mask_decoder
            single = head._dynamic_multimask_via_stability(masks, ious)
        return *single, tokens[:, :1], scores


def _bias(used: Tensor) -> Tensor:
    """bool [N, L] to what is added to scores."""
    return (~used).float() * UNREAD
