# SPDX-License-Identifier: Apache-2.0
"""The mask tokenizer: masks to two codebook entries and back, on an image that SAM-2.1 sees.

An encoder, a two-way transformer like the mask decoder's, makes one vector of a mask and its box; a residual quantizer
makes two entries of it. Their sum is one more prompt of SAM-2's own mask decoder.

Letters: K masks, C hidden channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam.transformer import TwoWayTransformer
from torch import Tensor, nn

from sa2va_model.checkpoints.files.pickled_files import load_pickled
from sa2va_model.checkpoints.files.sam2_files import recognise
from sa2va_model.checkpoints.meta_init import unallocated
from sa2va_model.config.segmenter import Sam2Config
from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.io.given import ImageLike, as_image
from sa2va_model.samtok.words import BOOK, DEPTH, Code
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import ImageFeatures

FILE = "mask_tokenizer_256x2.pth"
"""Its name beside a published SAMTok; SAM-2.1's weights are in it, the stock file beside it is not needed."""
_SAM, _ENCODER, _BOOKS = "model.sam2_model.", "model.sam2_model.sam_mask_encoder.", "quantizer."
CERTAIN = 0.5
"""Logit above which a pixel is the object's, as the official code has it."""


class MaskEncoder(nn.Module):
    """One vector of a mask: names are the official ones."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        width = config.hidden_dim
        self.transformer = TwoWayTransformer(
            depth=2, embedding_dim=width, mlp_dim=config.decoder_mlp_dim, num_heads=8
        )
        self.mask_tokens = nn.Embedding(1, width)


class Codebook(nn.Module):
    """Entries [BOOK + 1, C]; the last one is nothing. What training keeps of it is in the files, too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(BOOK + 1, width))
        self.register_buffer("cluster_size_ema", torch.zeros(BOOK))
        self.register_buffer("embed_ema", torch.zeros(BOOK, width))


class MaskTokenizer(nn.Module):
    """Masks to words and back."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.sam2 = Sam2(config)
        self.encoder = MaskEncoder(config)
        self.codebooks = nn.ModuleList([Codebook(config.hidden_dim) for _ in range(DEPTH)])

    @torch.inference_mode()
    def encode(self, image: ImageLike, masks: np.ndarray) -> list[Code]:
        """The two entries that stand for each of bool [K, H, W] masks of one image.

        Raises:
            InputError: a mask of another size than the image, or an empty one.
        """
        image = as_image(image)
        if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
            raise InputError(
                f"masks: shape {list(masks.shape)}; expected [K, {image.shape[0]}, {image.shape[1]}]"
            )
        features = self._features(image)
        return [self._encoded(features, mask.astype(bool)) for mask in masks]

    def _encoded(self, features: ImageFeatures, mask: np.ndarray) -> Code:
        sam, config = self.sam2.sam2_model, self.sam2.config
        rows, columns = np.nonzero(mask)
        if not len(rows):
            raise InputError("masks: one is empty; expected something in it")
        # The box from the first to the last pixel, not behind it.
        corners = [[columns.min(), rows.min()], [columns.max(), rows.max()]]
        box = torch.tensor(np.array(corners), dtype=torch.float32, device=self.sam2.device)
        box = box / torch.tensor(mask.shape[::-1], device=box.device) * config.image_size
        size = (config.mask_size,) * 2
        given = torch.from_numpy(mask)[None, None].float().to(box.device)
        dense = F.interpolate(given, size, mode="bilinear", align_corners=False, antialias=True)
        labels = torch.tensor([[2, 3]], dtype=torch.int32, device=box.device)
        sparse, dense = sam.sam_prompt_encoder(points=(box[None], labels), boxes=None, masks=dense)
        tokens = torch.cat([self.encoder.mask_tokens.weight[None], sparse], 1)
        seen = self.sam2.without_memory(features) + dense
        out, _ = self.encoder.transformer(seen, sam.sam_prompt_encoder.get_dense_pe(), tokens)
        return self._nearest(out[0, 0])

    def _nearest(self, vector: Tensor) -> Code:
        entries = []
        for table in self._tables():
            entry = int((table[:BOOK] - vector).pow(2).sum(1).argmin())
            entries.append(entry)
            vector = vector - table[entry]
        return entries[0], entries[1]

    @torch.inference_mode()
    def decode(self, image: ImageLike, codes: Sequence[Code]) -> np.ndarray:
        """The masks that codes stand for on an image: bool [K, H, W].

        Raises:
            InputError: an entry that no codebook has.
        """
        image = as_image(image)
        height, width = image.shape[:2]
        if not codes:
            return np.zeros((0, height, width), bool)
        features = self._features(image)
        plain = self.sam2.without_memory(features).expand(len(codes), -1, -1, -1)
        prompts = torch.stack([self._vector(code) for code in codes])[:, None]
        decoded = self.sam2.decode_tokens(features, plain, extra=prompts, multimask=True)
        logits = F.interpolate(
            decoded.logits, (height, width), mode="bilinear", align_corners=False
        )
        masks: np.ndarray = (logits[:, 0] > CERTAIN).cpu().numpy()
        return masks

    def _vector(self, code: Code) -> Tensor:
        if not (0 <= code[0] < BOOK and -1 <= code[1] < BOOK):
            raise InputError(f"mask words are {code}; expected two numbers of 0 to {BOOK - 1}")
        # Where a text has no second word, the official code takes the first entry of the second book.
        first, second = (t[max(e, 0)] for t, e in zip(self._tables(), code, strict=True))
        return first + second

    def _tables(self) -> list[Tensor]:
        """The codebooks' entries, [entries, C] each."""
        return [book.get_parameter("weight") for book in self.codebooks]

    def _features(self, image: np.ndarray) -> ImageFeatures:
        pixels = images.sam_pixels(image, self.sam2.config, self.sam2.device)
        return self.sam2.encode_image(pixels.to(self.sam2.dtype))

    def official(self) -> dict[str, Tensor]:
        """Its tensors as the published file has them."""
        parts = (
            (_SAM, self.sam2.sam2_model),
            (_ENCODER, self.encoder),
            (f"{_BOOKS}codebooks.", self.codebooks),
        )
        return {begin + k: t for begin, part in parts for k, t in part.state_dict().items()}


def load_mask_tokenizer(
    path: str | Path, *, config: Sam2Config | None = None, device: torch.device | str = "cpu"
) -> MaskTokenizer:
    """A published mask tokenizer.

    Args:
        config: of its SAM-2; None = the published size that the tensors have.

    Raises:
        InputError: no such file, something else, or a tensor that is missing, unknown or of another shape.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected SAMTok's {FILE}")
    stored = load_pickled(file)
    if not isinstance(stored, Mapping) or not any(str(k).startswith(_BOOKS) for k in stored):
        raise InputError(f"{file}: has no {_BOOKS}codebooks; expected SAMTok's {FILE}")
    if config is None:
        sam = {k.removeprefix(_SAM): t for k, t in stored.items() if k.startswith(_SAM)}
        found = recognise(sam, str(file))
        assert isinstance(found, Sam2Config)
        config = found
    # As its own code sets SAM-2: no gate, the best of three candidates, mean and deviation unrounded.
    config = replace(
        config, object_score_gate=False, stability_fallback=False, rounded_normalisation=False
    )
    with unallocated():
        tokenizer = MaskTokenizer(config).eval()
    own = tokenizer.official()
    for name in sorted(set(own) ^ set(stored)):
        what = "is missing" if name in own else "has no place in a mask tokenizer"
        raise InputError(f"{file}: tensor {name!r} {what}")
    for name, tensor in own.items():
        if stored[name].shape != tensor.shape:
            raise InputError(
                f"{file}: tensor {name!r} has shape {list(stored[name].shape)}; expected {list(tensor.shape)}"
            )
    for begin, part in (
        (_ENCODER, tokenizer.encoder),
        (f"{_BOOKS}codebooks.", tokenizer.codebooks),
        (_SAM, tokenizer.sam2.sam2_model),
    ):
        names = part.state_dict()
        part.load_state_dict({name: stored[begin + name].float() for name in names}, assign=True)
    return tokenizer.to(device).requires_grad_(False)
