# SPDX-License-Identifier: Apache-2.0
"""What the mask decoder draws from the language half's own [SEG]s, so that masks teach the words and the eye as well.

SAM-2's image encoder stands still; the decoder moves along (`loop.TRAINED` with `StageSettings.masks`).
"""

from __future__ import annotations

from torch import Tensor

from sa2va_model.segmentation.types import ImageFeatures
from sa2va_training.run.precision import half_precision
from sa2va_training.tiny.data.batches import PictureBatch
from sa2va_training.tiny.learner import TinyLearner
from sa2va_training.tiny.objectives.losses import decoded_loss


def spoken_loss(
    learner: TinyLearner,
    batch: PictureBatch,
    image: Tensor,
    codes: Tensor,
    cover: Tensor,
    found: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """Mask, object score and quality of N codes.

    Args:
        image: long [N], the picture of each.
        codes: [N, C], as `text_hidden_fcs` gives them.
        cover: [N, h, w], the share of each mask cell that is meant; found: bool [N].
    """
    with half_precision():
        seen = learner.encode(batch.pixels).features
        fine, middle = (level[image] for level in seen.high)
        rows = ImageFeatures(seen.top[image], seen.position[image], (fine, middle))
        plain = learner.sam2.without_memory(rows)
        decoded = learner.sam2.decode_tokens(rows, plain, extra=codes[:, None])
    return decoded_loss(decoded, cover, found)
