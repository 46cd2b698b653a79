# SPDX-License-Identifier: Apache-2.0
"""What a run needs before it starts: trained numbers by part, and an estimate of the device memory.

The estimate counts what can be counted (weights, gradients, AdamW, kept activations of the language model, the mask
decoder's and the encoders' working memory) and is good to about a third; `sa2va train --dry-run` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sa2va_model.sa2va import Sa2VA
from sa2va_training.families import family_of
from sa2va_training.run.settings import Settings
from sa2va_training.run.trainables import counts

_PER_LAYER = 34  # bytes of activations per token and channel of a transformer layer in 16 bits (arXiv 2205.05198)
_PER_CELL = (
    40  # bytes a decoded mask keeps per cell of its logits and channel of the finest features
)


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device, without sharding."""

    weights: int
    training: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.training + self.activations + self.working


def _size(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def estimate(model: Sa2VA, settings: Settings, *, tokens: int) -> Estimate:
    """What one process needs.

    Args:
        model: prepared for training.
        tokens: of one sample's row.
    """
    parts = counts(model)
    trained = sum(t for t, _ in parts.values())
    weights = _size(model)
    if settings.loss.keep and settings.rehearsal is not None:
        weights += _size(model.mllm)  # as it was
    batches, sam = settings.batches, model.config.sam2
    text = model.mllm.language_model.config.get_text_config()
    layers, hidden = int(text.num_hidden_layers), int(text.hidden_size)
    rows = batches.batch * tokens
    if settings.train.checkpointing:
        activations = rows * hidden * (2 * layers + _PER_LAYER)
    else:
        activations = rows * hidden * _PER_LAYER * layers
    width = 2 if next(model.parameters()).element_size() == 2 else 4
    activations = activations * width // 2
    masks = batches.batch * batches.frames * batches.expressions
    cells = masks * sam.mask_size**2 * (sam.hidden_dim // 8)
    pyramid = batches.batch * batches.frames * sam.hidden_dim * sam.mask_size**2 * width * 21 // 16
    seen = batches.batch * batches.frames * family_of(model.mllm).vision_bytes(width)
    return Estimate(weights, 12 * trained, activations, cells * _PER_CELL + pyramid + seen)
