# SPDX-License-Identifier: Apache-2.0
"""The model in training: Sa2VA itself plus the teacher code and the aids, which are dropped at export."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from sam2.modeling.sam.transformer import Attention
from torch import Tensor, nn
from transformers.models.internvl.modeling_internvl import InternVLVisionModel

from sa2va_model.checkpoints.presets import tiny_config
from sa2va_model.config.model import ModelConfig
from sa2va_model.mllm.tiled import TiledMllm
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import Decoded, ImageFeatures
from sa2va_training.objectives.gaze import Gaze
from sa2va_training.tiny.data.batches import fitted
from sa2va_training.tiny.data.language import tiny_tokenizer
from sa2va_training.tiny.data.packing import Packer
from sa2va_training.tiny.norms import add_norms
from sa2va_training.tiny.objectives.aids import MapAids, WordAids
from sa2va_training.tiny.objectives.teacher import TeacherCode

AIDS = ("map_aids.", "word_aids.")
SAM_HALF = ("model.sam2.", "map_aids.")
STEM = ("model.mllm.vision_model.embeddings.patch_embeddings.", "word_aids.stem")
_STEM = "model.mllm.vision_model.embeddings.patch_embeddings.projection.stem."
EYE = (_STEM + "eye.",)
CONVOLUTIONS = (*EYE, *(f"{_STEM}{index}." for index in range(16)))
SIGHT = ("model.mllm.vision_model.", "model.mllm.mlp1.", "word_aids.visual")
WORD_HALF = ("model.mllm.", "model.text_hidden_fcs.", "word_aids.")


@dataclass(frozen=True)
class Encoded:
    """An image batch as SAM-2 sees it: what the decoder reads, and the raw pyramid for the aids.

    Attributes:
        features: B rows.
        fine, coarse: [B, C, S/4, S/4] and [B, C, S/16, S/16].
    """

    features: ImageFeatures
    fine: Tensor
    coarse: Tensor


class TinyLearner(nn.Module):
    """Sa2VA with everything that only training needs."""

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        tokenizer = tiny_tokenizer()
        self.shipped_config = config or tiny_config(len(tokenizer))
        # A gated mask has no gradient, so the gate is left to the run time.
        open_gate = replace(self.shipped_config.sam2, object_score_gate=False)
        self.model = Sa2VA(replace(self.shipped_config, sam2=open_gate), tokenizer)
        _prepare_vision(self.mllm.vision_model)
        add_norms(self.model)
        _drop_nothing(self.model)
        width, hidden = open_gate.hidden_dim, int(self.shipped_config.llm["hidden_size"])
        self.teacher = TeacherCode(width)
        self.map_aids = MapAids(width)
        self.word_aids = WordAids(hidden, self.mllm.vision_model.config.hidden_size)
        self.packer = Packer(self.mllm)
        language = self.model.mllm.language_model.model
        self.gaze = Gaze(language)
        # What is named next follows from what was named before: only the last layer can look for it.
        self.choice = Gaze(language, layers=(len(language.layers) - 1,))

    @property
    def mllm(self) -> TiledMllm:
        """The language half."""
        mllm = self.model.mllm
        assert isinstance(mllm, TiledMllm)
        return mllm

    @property
    def side(self) -> int:
        """Side of the square that SAM-2 sees, pixels."""
        return self.shipped_config.sam2.image_size

    @property
    def cells(self) -> int:
        """Side of its mask logits."""
        return self.shipped_config.sam2.mask_size

    @property
    def sam2(self) -> Sam2:
        """The SAM-2 half."""
        return self.model.sam2

    def encode(self, pixels: Tensor) -> Encoded:
        """As `Sam2.encode_image`, for any size of picture, with the pyramid before the decoder's projections."""
        sam = self.sam2.sam2_model
        out = sam.image_encoder(fitted(pixels, self.side))
        fine, middle, top = out["backbone_fpn"]
        decoder = sam.sam_mask_decoder
        features = ImageFeatures(
            top, out["vision_pos_enc"][-1], (decoder.conv_s0(fine), decoder.conv_s1(middle))
        )
        return Encoded(features, fine, top)

    def decode(self, features: ImageFeatures, codes: Tensor, each: int) -> Decoded:
        """Masks for `each` codes of every image: codes [B · each, C]."""
        rows = repeat_rows(features, each)
        return self.sam2.decode_tokens(rows, self.sam2.without_memory(rows), extra=codes[:, None])


def repeat_rows(features: ImageFeatures, each: int) -> ImageFeatures:
    """Features with one row for each prompt."""
    fine, middle = (level.repeat_interleave(each, 0) for level in features.high)
    return ImageFeatures(
        features.top.repeat_interleave(each, 0),
        features.position.repeat_interleave(each, 0),
        (fine, middle),
    )


@torch.no_grad()
def _prepare_vision(vision: InternVLVisionModel) -> None:
    """A start for the ViT that trains from scratch: plain linear layers, positions that can be read off.

    A random learnt position embedding hides x and y from the language model for most of a short training.
    """
    for module in vision.encoder.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    table = vision.embeddings.position_embeddings
    side, width = int((table.shape[1] - 1) ** 0.5), table.shape[2]
    middle = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    waves = math.pi * torch.logspace(0, math.log10(side / 2), width // 4)
    angles = [axis.flatten()[:, None] * waves for axis in (x, y)]
    table.zero_()
    table[0, 1:] = 0.5 * torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)


def _drop_nothing(model: Sa2VA) -> None:
    """No dropout: a small model that sees few pictures twice underfits, and memory attention takes twice as long."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, Attention):
            module.dropout_p = 0.0


def take(learner: TinyLearner, state: Mapping[str, Tensor], prefixes: Iterable[str]) -> int:
    """Loads the entries of `state` that start with one of `prefixes` and still fit; returns how many."""
    own = learner.state_dict()
    fits = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    chosen = {k: v for k, v in fits.items() if k.startswith(tuple(prefixes))}
    for name, tensor in chosen.items():
        own[name].copy_(tensor)
    return len(chosen)
