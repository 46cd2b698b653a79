# SPDX-License-Identifier: Apache-2.0
"""Writes the simple folder of docs/datasets.md: pictures, label images and one line of JSON per picture or clip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.file_names import inside, write_whole

ANNOTATIONS = "annotations.jsonl"


class FolderWriter:
    """Adds pictures and clips to a simple folder; what is already in it stays.

    A record is written after its pictures, in one piece, so a folder whose writer was stopped can be read and
    continued.
    """

    def __init__(self, root: Path | str, *, quality: int = 95) -> None:
        """Create the folder if it is not there.

        Args:
            root: the folder.
            quality: of JPEG pictures; 0 = PNG.
        """
        self.root = Path(root)
        self._quality = quality
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._file = (self.root / ANNOTATIONS).open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{root}: {error.strerror}, expected a folder to write to") from error

    def add_image(
        self,
        name: str,
        rgb: np.ndarray,
        labels: np.ndarray | None,
        objects: Mapping[int, str],
        **said: Any,
    ) -> None:
        """One picture.

        Args:
            name: file name without ending; may hold folders.
            rgb: uint8 [H, W, 3].
            labels: integers [H, W], 0 = nothing; None = not annotated.
            objects: what each label is called.
            said: `expressions`, `questions`, `captions`, `split`, `notes`, `recording` as in docs/datasets.md.
        """
        record: dict[str, Any] = {"image": self._picture(f"images/{name}", rgb)}
        if labels is not None:
            record["labels"] = self._labels(f"masks/{name}", labels)
        self._record(record, objects, said)

    def add_clip(
        self,
        name: str,
        frames: Sequence[np.ndarray],
        labels: Sequence[np.ndarray | None],
        objects: Mapping[int, str],
        **said: Any,
    ) -> None:
        """One clip; arguments as in `add_image`, one entry per frame (labels None = frame not annotated)."""
        for t, (rgb, label) in enumerate(zip(frames, labels, strict=True)):
            self._picture(f"images/{name}/{t:05d}", rgb)
            if label is not None:
                self._labels(f"masks/{name}/{t:05d}", label)
        record: dict[str, Any] = {"clip": f"images/{name}"}
        if any(label is not None for label in labels):
            record["labels"] = f"masks/{name}"
        self._record(record, objects, said)

    def add_picture(self, name: str, rgb: np.ndarray) -> str:
        """One picture without a record, which `put` writes; one that is there already stays. Returns its path."""
        ending = ".jpg" if self._quality else ".png"
        if inside(self.root / "images", name + ending, "picture").exists():
            return f"images/{name}{ending}"
        return self._picture(f"images/{name}", rgb)

    def add_labels(self, name: str, labels: np.ndarray) -> None:
        """The label image of one picture without a record."""
        self._labels(f"masks/{name}", labels)

    def put(
        self, what: Mapping[str, str], first: Mapping[str, Any] | None = None, **said: Any
    ) -> None:
        """A record of what `what` names (image or clip); one that is there keeps its other fields.

        Args:
            first: fields that are written only where the record has none of them.
            said: fields that are written in any case.
        """
        file = self.root / ANNOTATIONS
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        ((key, path),) = what.items()
        found = [n for n, line in enumerate(lines) if f'"{path}"' in line]
        for n in found:
            old = json.loads(lines[n])
            if old.get(key) == path:
                fresh = {k: v for k, v in (first or {}).items() if not old.get(k)}
                lines[n] = json.dumps({**old, **fresh, **said}, ensure_ascii=False) + "\n"
                write_whole(file, "".join(lines).encode())
                self._file.close()
                self._file = file.open("a", encoding="utf-8")
                return
        self._record(dict(what), {}, {**(first or {}), **said})

    def _record(
        self, record: dict[str, Any], objects: Mapping[int, str], said: Mapping[str, Any]
    ) -> None:
        record["objects"] = {str(number): {"name": name} for number, name in objects.items()}
        record |= {key: value for key, value in said.items() if value}
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def _picture(self, stem: str, rgb: np.ndarray) -> str:
        ending, options = (
            (".jpg", [cv2.IMWRITE_JPEG_QUALITY, self._quality]) if self._quality else (".png", [])
        )
        self._write(stem + ending, rgb[:, :, ::-1], options)
        return stem + ending

    def _labels(self, stem: str, labels: np.ndarray) -> str:
        kind = np.uint8 if int(labels.max(initial=0)) < 256 else np.uint16
        self._write(stem + ".png", labels.astype(kind), [])
        return stem + ".png"

    def _write(self, name: str, pixels: np.ndarray, options: list[int]) -> None:
        path = inside(self.root, name, "picture")
        path.parent.mkdir(parents=True, exist_ok=True)
        ok, data = cv2.imencode(path.suffix, np.ascontiguousarray(pixels), options)
        if not ok:
            raise RuntimeError(f"{path}: OpenCV cannot encode {pixels.shape} {pixels.dtype}")
        write_whole(path, data.tobytes())

    def close(self) -> None:
        """Close the annotation file."""
        self._file.close()

    def __enter__(self) -> FolderWriter:
        """Use as `with FolderWriter(…) as folder`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()
