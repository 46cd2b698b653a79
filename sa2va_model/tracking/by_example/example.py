# SPDX-License-Identifier: Apache-2.0
"""ObjectExample: pictures on which an object is shown, and the file they are kept in.

A file holds pictures and masks, none of a model's numbers: it can be looked at, and outlives the weights that
made it. It is a safetensors file, so that reading one runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.file_names import inside, write_whole
from sa2va_model.io.pictures import decode_image, decode_pixels
from sa2va_model.io.preprocessing import check_rgb
from sa2va_model.regions import Region

ENDING = ".object"
FORMAT = "sa2va object 1"
MAX_VIEWS = 4
"""Pictures of one object."""
MAX_BYTES = 2**26
LONGEST_NAME = 80


@dataclass(frozen=True)
class ObjectView:
    """One picture of an object.

    Attributes:
        rgb: uint8 [H, W, 3].
        region: where the object is on it.
    """

    rgb: np.ndarray
    region: Region

    def __post_init__(self) -> None:
        check_rgb(self.rgb, "example")
        self.region.prompt(self.rgb.shape)  # it lies on the picture


@dataclass(frozen=True)
class ObjectExample:
    """An object by pictures of it.

    Attributes:
        name: what it is called.
        views: one to `MAX_VIEWS`.
    """

    name: str
    views: tuple[ObjectView, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.views) <= MAX_VIEWS:
            raise InputError(
                f"example {self.name!r}: {len(self.views)} views; expected 1 to {MAX_VIEWS}"
            )

    def write(self, path: Path) -> Path:
        """Write the file; the folder is made if it is not there.

        Raises:
            InputError: a view has no mask, or the file cannot be written.
        """
        from safetensors.numpy import save

        tensors: dict[str, np.ndarray] = {}
        for k, view in enumerate(self.views):
            if view.region.mask is None:
                raise InputError(f"example {self.name!r}: view {k} has no mask; expected one")
            tensors[f"picture_{k}"] = _png(view.rgb[..., ::-1])
            tensors[f"mask_{k}"] = _png(view.region.mask.astype(np.uint8) * 255)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, save(tensors, {"format": FORMAT, "name": self.name}))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; expected a place to write to") from error
        return path


def read_example(path: Path) -> ObjectExample:
    """Read an object's file.

    Raises:
        InputError: it is not there, is too large, damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: has {size} bytes; expected at most {MAX_BYTES}")
        with safe_open(str(path), framework="numpy") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected an object's file") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}; expected an object's file") from error
    if about.get("format") != FORMAT:
        raise InputError(f"{path}: format is {about.get('format')!r}; expected {FORMAT!r}")
    count = sum(name.startswith("picture_") for name in tensors)
    if not 1 <= count <= MAX_VIEWS:
        raise InputError(f"{path}: holds {count} pictures; expected 1 to {MAX_VIEWS}")
    name = str(about.get("name", ""))[:LONGEST_NAME] or "object"
    return ObjectExample(name, tuple(_view(tensors, k, path) for k in range(count)))


def _view(tensors: Mapping[str, Any], k: int, path: Path) -> ObjectView:
    for name in (f"picture_{k}", f"mask_{k}"):
        if name not in tensors or tensors[name].dtype != np.uint8:
            raise InputError(f"{path}: has no {name} of bytes; expected a PNG file's")
    rgb = decode_image(tensors[f"picture_{k}"].tobytes(), f"{path}: picture_{k}")
    mask = decode_pixels(tensors[f"mask_{k}"].tobytes(), f"{path}: mask_{k}")
    try:
        return ObjectView(rgb, Region(mask=mask > 0))
    except InputError as error:
        raise InputError(f"{path}: view {k}: {error}") from error


def _png(pixels: np.ndarray) -> np.ndarray:
    written, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    assert written
    return data.ravel()


class ObjectFolder:
    """Objects that were saved under a name, one file each.

    Args:
        folder: made when the first one is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return what is saved, in order."""
        return sorted(path.name.removesuffix(ENDING) for path in self.folder.glob(f"*{ENDING}"))

    def save(self, example: ObjectExample) -> Path:
        """Write an example under its name, in place of an earlier one of that name.

        Raises:
            InputError: the name is none for a file, or it cannot be written.
        """
        return example.write(self._path(example.name))

    def read(self, name: str) -> ObjectExample:
        """Read what was saved under a name.

        Raises:
            InputError: nothing was, or the file is damaged.
        """
        path = self._path(name)
        if not path.is_file():
            known = ", ".join(self.names()) or "none"
            raise InputError(f"no object is saved as {name!r} in {self.folder}; there is {known}")
        return read_example(path)

    def _path(self, name: str) -> Path:
        plain = "_".join(name.lower().removeprefix("the ").split())
        if not plain or "/" in plain or len(plain) > LONGEST_NAME or plain.startswith("."):
            raise InputError(
                f"object's name is {name!r:.100}; expected 1 to {LONGEST_NAME} characters without '/'"
            )
        return inside(self.folder, f"{plain}{ENDING}", "object's name")
