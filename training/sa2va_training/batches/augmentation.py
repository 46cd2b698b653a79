# SPDX-License-Identifier: Apache-2.0
"""What cameras do to pictures: light, colour balance, blur, noise, compression. Geometry stays, so truths stay."""

from __future__ import annotations

import cv2
import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def disturb(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One picture as another camera might have taken it.

    Args:
        rgb: uint8 [H, W, 3].

    Returns:
        uint8 [H, W, 3].
    """
    if rng.random() < 0.1:
        return rgb
    image: np.ndarray = rgb.astype(np.float32)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4)))
    gain = rng.uniform(0.65, 1.35) * rng.uniform(0.9, 1.1, 3)
    mean = float(image.mean())
    image = (image - mean) * float(rng.uniform(0.7, 1.3)) + mean
    image = image * gain.astype(np.float32) + float(rng.uniform(-15, 15))
    grey = image @ _LUMA
    image = grey[..., None] + (image - grey[..., None]) * float(rng.uniform(0.6, 1.3))
    if rng.random() < 0.5:
        image = image + rng.standard_normal(image.shape, np.float32) * float(rng.uniform(1, 9))
    image = np.clip(image, 0, 255)
    if rng.random() < 0.4:
        image = 255 * (image / 255) ** float(rng.uniform(0.7, 1.4))
    result: np.ndarray = image.astype(np.uint8)
    if rng.random() < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))]
        coded = cv2.imencode(".jpg", result, quality)[1]
        result = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return result


def disturb_clip(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All frames of a clip uint8 [T, H, W, 3] as one other camera might have taken them."""
    seed = int(rng.integers(1 << 62))
    return np.stack([disturb(frame, np.random.default_rng(seed)) for frame in clip])


def without(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture from which something was taken away; its surroundings grow into the hole.

    Args:
        rgb: uint8 [H, W, 3]; mask: bool [H, W] of what goes.
    """
    hole = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8))
    return np.asarray(cv2.inpaint(np.ascontiguousarray(rgb), hole, 3, cv2.INPAINT_TELEA))
