# SPDX-License-Identifier: Apache-2.0
"""Both preprocessings, exactly as the official code does them: tiles for the language model, a square for SAM-2.

All functions take uint8 RGB [H, W, 3] arrays. PIL's bicubic filter is used because checkpoints were trained with it; on
a GPU the same filter is computed there, to one count of 255, from bytes that are uploaded as they are (`RESIZERS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sa2va_model.config.model import ModelConfig
from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.device import read_back
from sa2va_model.errors import InputError
from sa2va_model.io.guided_filter import guided_masks

Colour = tuple[float, float, float]
MEAN: Colour = (0.485, 0.456, 0.406)
STD: Colour = (0.229, 0.224, 0.225)
CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)


def check_rgb(image: np.ndarray, where: str = "image") -> np.ndarray:
    """Returns `image` if it is a non-empty uint8 [H, W, 3] array.

    Raises:
        InputError: it is not; what can be turned into one is said (`as_rgb`).
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        hint = "; 16 bits: images.as_rgb" if kind == np.uint16 else ""
        raise InputError(
            f"{where}: type is {kind}; expected a uint8 array of shape [H, W, 3]{hint}"
        )
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        convertible = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 2, 4))
        hint = "; greyscale and alpha: images.as_rgb" if convertible and image.size else ""
        raise InputError(
            f"{where}: shape is {list(image.shape)}; expected [H, W, 3] with H, W > 0{hint}"
        )
    return image


def as_rgb(image: np.ndarray, where: str = "image") -> np.ndarray:
    """Greyscale [H, W] or [H, W, 1], with alpha [H, W, 2 or 4], or 16 bits as uint8 RGB [H, W, 3].

    Alpha is dropped, as PIL does when the official code converts; of 16 bits the upper eight are kept.

    Raises:
        InputError: an array of any other kind.
    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if isinstance(image, np.ndarray) and image.ndim == 2:
        image = image[..., None]
    if isinstance(image, np.ndarray) and image.ndim == 3:
        if image.shape[2] in (1, 2):
            image = image[..., [0, 0, 0]]
        elif image.shape[2] == 4:
            image = image[..., :3]
    return np.ascontiguousarray(check_rgb(image, where))


Size = tuple[int, int]  # height, width


def resize_by_pil(image: np.ndarray, sizes: Sequence[Size], device: torch.device) -> list[Tensor]:
    """One image at several sizes by PIL's bicubic filter: float32 [3, h, w], whole numbers 0..255, on `device`."""
    picture = Image.fromarray(image)
    out = []
    for height, width in sizes:
        small = np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
        out.append(torch.from_numpy(small).permute(2, 0, 1).float().to(device))
    return out


def resize_on_device(
    image: np.ndarray, sizes: Sequence[Size], device: torch.device
) -> list[Tensor]:
    """The same computed on `device`: rows, then columns, each rounded to whole numbers as PIL does."""
    given = torch.from_numpy(np.ascontiguousarray(image))
    if device.type == "cuda":
        given = given.pin_memory()  # from PyTorch's pool: what is uploaded is not waited for
    pixels = given.to(device, non_blocking=True).permute(2, 0, 1)[None].float()
    out = []
    for height, width in sizes:
        narrow = _bicubic(pixels, (pixels.shape[2], width))
        out.append(_bicubic(narrow, (height, width))[0])
    return out


def _bicubic(pixels: Tensor, size: Size) -> Tensor:
    """Whole numbers 0..255 [1, 3, H, W] at another size, in whole numbers."""
    if pixels.shape[2:] == size:
        return pixels
    scaled = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)
    return scaled.round_().clamp_(0, 255)


RESIZERS = {"cuda": resize_on_device}
"""Who resizes for a kind of device; PIL for all others."""


def resized(image: np.ndarray, sizes: Sequence[Size], device: torch.device) -> list[Tensor]:
    """One image at several sizes, by what is quickest for `device` (see `resize_by_pil`)."""
    return RESIZERS.get(device.type, resize_by_pil)(image, sizes, device)


@cache
def _statistics(
    values: tuple[Colour, Colour], rounded: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of colours, [3, 1, 1]."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in values)
        return (mean.bfloat16().float(), std.bfloat16().float()) if rounded else (mean, std)


def normalise(
    pixels: Tensor, *, rounded: bool = False, values: tuple[Colour, Colour] = (MEAN, STD)
) -> Tensor:
    """Values 0..255 [..., 3, H, W] to `(x / 255 - mean) / std`, contiguous; mean and std in bfloat16 if `rounded`."""
    mean, std = _statistics(values, rounded, pixels.device)
    return ((pixels / 255 - mean) / std).contiguous()


@dataclass(frozen=True)
class TileCut:
    """How the language model's view of an image is cut.

    Attributes:
        side: of a tile, pixels.
        least, most: tiles of one image, without the thumbnail.
        dynamic: as many tiles as fit the image; otherwise one.
        thumbnail: the whole image as one tile behind the others, where there are several.
    """

    side: int
    least: int = 1
    most: int = 12
    dynamic: bool = True
    thumbnail: bool = True


def tile_grid(width: int, height: int, tiling: TileCut) -> tuple[int, int]:
    """Columns and rows of tiles whose aspect is nearest to the image's (InternVL's dynamic resolution).

    Of equally near grids the larger is taken if the image has more than half of its pixels.
    """
    grids = sorted(
        {
            (columns, rows)
            for columns in range(1, tiling.most + 1)
            for rows in range(1, tiling.most + 1)
            if tiling.least <= columns * rows <= tiling.most
        },
        key=lambda grid: grid[0] * grid[1],
    )
    aspect, best, difference = width / height, (1, 1), float("inf")
    for columns, rows in grids:
        candidate = abs(aspect - columns / rows)
        half = 0.5 * tiling.side**2 * columns * rows
        if candidate < difference or (candidate == difference and width * height > half):
            best, difference = (columns, rows), candidate
    return best


def tiles(
    image: np.ndarray,
    tiling: TileCut,
    *,
    single: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The language model's view of one image: [T, 3, s, s] with s = `tiling.side`.

    Args:
        image: uint8 [H, W, 3].
        single: squash to one tile, as is done for the frames of a clip.
        device: where the tiles are wanted.

    Returns:
        float32; row-major tiles and, if there is more than one, the thumbnail last.
    """
    side, device = tiling.side, torch.device(device)
    height, width = check_rgb(image).shape[:2]
    columns, rows = (1, 1)
    if tiling.dynamic and not single:
        columns, rows = tile_grid(width, height, tiling)
    sizes = [(side * rows, side * columns)]
    if tiling.thumbnail and columns * rows > 1:
        sizes.append((side, side))
    grid, *thumbnail = resized(image, sizes, device)
    parts = grid.unflatten(2, (columns, side)).unflatten(
        1, (rows, side)
    )  # [3, rows, s, columns, s]
    parts = parts.permute(1, 3, 0, 2, 4).flatten(0, 1)
    return normalise(torch.cat([parts, *(small[None] for small in thumbnail)]))


def sam_pixels(
    image: np.ndarray, config: SegmenterConfig, device: torch.device | str = "cpu"
) -> Tensor:
    """The segmenter's view of one image: float32 [1, 3, S, S], squashed to the square without keeping the aspect."""
    size = (config.image_size, config.image_size)
    [pixels] = resized(check_rgb(image), [size], torch.device(device))
    if config.half_normalisation:
        return (pixels[None] / 127.5 - 1).contiguous()
    return normalise(pixels[None], rounded=config.rounded_normalisation)


def masks_to_image(logits: Tensor, image_size: int, height: int, width: int) -> Tensor:
    """Mask logits at the size of the user's image, in the two bilinear steps of the official code.

    Args:
        logits: [N, 1, 4h, 4w].

    Returns:
        float32 [N, height, width]; positive = object.
    """
    square = F.interpolate(
        logits.float(), size=(image_size, image_size), mode="bilinear", align_corners=False
    )
    return F.interpolate(square, size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def masks_on(logits: Tensor, config: SegmenterConfig, picture: np.ndarray) -> np.ndarray:
    """Masks at the size of the user's picture, along its edges where `config.guided_radius` says so.

    Args:
        logits: [N, 1, 4h, 4w].
        picture: RGB uint8 [H, W, 3].

    Returns:
        bool [N, H, W].
    """
    [read] = read_back(mask_source(logits, config, picture))
    return drawn_masks(read, config, picture)


def mask_source(logits: Tensor, config: SegmenterConfig, picture: np.ndarray) -> Tensor:
    """What the host has to read of masks, for `drawn_masks`: bool [N, H, W], or their cells where it draws itself."""
    if config.guided_radius:
        return logits[:, 0].float()
    return masks_to_image(logits, config.image_size, *picture.shape[:2]) > 0


def drawn_masks(read: np.ndarray, config: SegmenterConfig, picture: np.ndarray) -> np.ndarray:
    """Masks, bool [N, H, W], of what was read."""
    return guided_masks(read, picture, config.guided_radius) if config.guided_radius else read


def region_cells(mask: np.ndarray, config: ModelConfig) -> Tensor:
    """Which visual tokens of a tile a region covers: bool [r, r], r = `config.region_size`, nearest sampling."""
    grid = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
    return F.interpolate(grid, size=(config.region_size,) * 2, mode="nearest")[0, 0].bool()


def mask_box(mask: np.ndarray) -> tuple[tuple[int, int, int, int] | None, int]:
    """The box (x0, y0, x1, y1; ends exclusive) of a bool [H, W] mask, and its area; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None, 0
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return box, int(mask.sum())
