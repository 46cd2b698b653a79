# SPDX-License-Identifier: Apache-2.0
"""`manifest.json` of a folder of exported graphs: whose they are, what they take, how exact they were.

Needs neither torch nor ONNX.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError

FILE = "manifest.json"
FORMAT = 1
OPSET = 20
"""Of the ONNX operators; what the exporter of the supported torch writes."""
PARTS = ("image", "memory_attention", "decoder", "memory_encoder")
"""The graphs of one SAM-2."""


@dataclass(frozen=True)
class GraphEntry:
    """One graph.

    Attributes:
        file: relative to the manifest.
        inputs, outputs: shapes by name, in order; a letter is a dimension that varies.
        difference: the largest between ONNX Runtime and PyTorch when it was exported, on the checker's inputs;
            relative to the largest value where that exceeds 1.
        tolerance: what was allowed.
    """

    file: str
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    difference: float
    tolerance: float


@dataclass(frozen=True)
class SegmenterEntry:
    """The graphs of one SAM-2 at one size.

    Attributes:
        fingerprint: of its weights (`sam2_fingerprint`).
        image_size: side of the image, pixels.
        config: fields of its `SegmenterConfig`.
        constants: small arrays that the host needs, file relative to the manifest.
    """

    fingerprint: str
    image_size: int
    config: dict[str, Any]
    graphs: dict[str, GraphEntry]
    constants: str


@dataclass(frozen=True)
class VisionEntry:
    """The language model's view of an image: its vision tower with the projector.

    Attributes:
        fingerprint: of the weights.
        graph: tiles [1, 3, s, s] to tokens [1, V, C] of the language model.
    """

    fingerprint: str
    graph: GraphEntry


@dataclass(frozen=True)
class Manifest:
    """All of a folder.

    Attributes:
        source: what was exported, by the name of its folder or file.
        half: products are float16.
        quantised: names of graphs in int8.
        versions: of torch, onnx and onnxruntime, when it was exported.
    """

    source: str
    segmenters: tuple[SegmenterEntry, ...]
    vision: VisionEntry | None = None
    half: bool = False
    quantised: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    opset: int = OPSET
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Into a folder."""
        text = json.dumps(asdict(self), indent=2)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def sizes(self) -> tuple[int, ...]:
        """Sizes of image that were exported, largest first."""
        return tuple(sorted({entry.image_size for entry in self.segmenters}, reverse=True))

    def find(self, folder: Path, fingerprint: str, image_size: int) -> SegmenterEntry:
        """The graphs for these weights at this size.

        Raises:
            InputError: another model's, or another size.
        """
        same = [entry for entry in self.segmenters if entry.fingerprint == fingerprint]
        if not same:
            raise InputError(
                f"{folder / FILE}: holds graphs of {self.source!r}, not of this model's SAM-2; "
                "expected a folder that sa2va export made of the same weights"
            )
        for entry in same:
            if entry.image_size == image_size:
                return entry
        sizes = ", ".join(str(entry.image_size) for entry in same)
        raise InputError(
            f"{folder / FILE}: resolution {image_size} was not exported; expected one of {sizes}, "
            f"or an export with --resolution {image_size}"
        )


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a folder, whose files are all there.

    Raises:
        InputError: no folder, no manifest or a broken one, another format or opset, a missing file.
    """
    path = Path(folder)
    file = path / FILE
    if not file.is_file():
        what = f"no {FILE} in it" if path.is_dir() else "no such folder"
        raise InputError(f"{path}: {what}; expected a folder that sa2va export has written")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not valid JSON ({error})") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise InputError(f"{file}: format is {found!r}; expected {FORMAT}")
    if values.get("opset") != OPSET:
        raise InputError(f"{file}: opset is {values.get('opset')!r}; expected {OPSET}")
    try:
        manifest = _from_dict(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: a field is missing or of the wrong kind ({error})") from error
    for name in _files(manifest):
        if not (path / name).is_file():
            raise InputError(f"{path / name}: no such file; {file} names it, export again")
    return manifest


def _files(manifest: Manifest) -> list[str]:
    names = [g.file for entry in manifest.segmenters for g in entry.graphs.values()]
    names += [entry.constants for entry in manifest.segmenters]
    return names + ([manifest.vision.graph.file] if manifest.vision else [])


def _from_dict(values: Mapping[str, Any]) -> Manifest:
    rest = {k: v for k, v in values.items() if k not in ("segmenters", "vision", "quantised")}
    vision = values.get("vision")
    return Manifest(
        segmenters=tuple(_segmenter(entry) for entry in values["segmenters"]),
        vision=VisionEntry(vision["fingerprint"], GraphEntry(**vision["graph"]))
        if vision
        else None,
        quantised=tuple(values.get("quantised", ())),
        **rest,
    )


def _segmenter(values: Mapping[str, Any]) -> SegmenterEntry:
    graphs = {name: GraphEntry(**graph) for name, graph in values["graphs"].items()}
    missing = [part for part in PARTS if part not in graphs]
    if missing:
        raise ValueError(f"graph {missing[0]!r} is missing")
    return SegmenterEntry(**{**values, "graphs": graphs})
