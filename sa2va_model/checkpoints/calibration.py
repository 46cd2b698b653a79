# SPDX-License-Identifier: Apache-2.0
"""How far a model's scores can be trusted: numbers measured on clips with truth, kept beside the weights.

`benchmarks/hard_set/calibrate.py` fits them and writes `calibration.json` into a checkpoint's folder, from where
`load_model` reads it. A checkpoint without that file, or whose weights have changed since, gets cautious values that
need no trained scores beyond the predicted IoU.
"""

from __future__ import annotations

import json
import logging
import zlib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json

FILE = "calibration.json"
_PART = 1 << 18  # bytes at both ends of a weights file


@dataclass(frozen=True)
class EvidenceWeights:
    """Weights of the evidence that a mask is on the object; the sum is a log-likelihood ratio (positive = it is).

    Attributes:
        object_score: per unit of SAM-2's object score, clipped to ±6.
        quality: per unit of predicted IoU.
        look: per unit of cosine between the mask's image features and the object's own.
        area: per unit of |log(area / the object's own area)|, clipped to 1.5.
    """

    object_score: float = 0.5
    quality: float = 4.0
    look: float = 0.0
    area: float = 0.0
    bias: float = -1.2


@dataclass(frozen=True)
class Calibration:
    """What is known of one model's scores.

    Attributes:
        memory, spoken: weights for masks from memory, and from the [SEG] embedding alone.
        prefer_margin: the embedding's mask is taken where its predicted IoU exceeds memory's by this …
        prefer_overlap: … and both overlap by at least this (IoU).
        admit: evidence from which on a frame is remembered.
        weight: of one frame's evidence in the log-odds; below 1 because frames resemble each other. Uncalibrated scores
            count little: two denials in a row take a mask away.
        confirmed, denied: log-likelihood ratios of a yes and a no of the language model.
        floor: the log-odds that an object is in view cannot fall lower, so that one that returns is believed soon.
        hide: log-odds below which a tracked object counts as unseen.
        show: log-odds from which on an occluded one is seen again.
        regain: log-odds from which on a lost one is reacquired.
        redetect: the stored embedding alone may bring a lost object back. Only where it was measured that this is
            seldom wrong: a decoder whose object score is untrained finds something on every image.
        drift: so much more evidence must the embedding's mask have than memory's, where they disagree.
    """

    memory: EvidenceWeights = field(default_factory=EvidenceWeights)
    spoken: EvidenceWeights = field(default_factory=EvidenceWeights)
    prefer_margin: float = 0.1
    prefer_overlap: float = 0.1
    admit: float = 0.0
    weight: float = 0.05
    confirmed: float = 2.0
    denied: float = -2.5
    floor: float = -3.0
    hide: float = 0.0
    show: float = 0.5
    regain: float = 2.5
    drift: float = 2.0
    redetect: bool = False

    @property
    def start(self) -> float:
        """Log-odds of an object that was found or pointed at just now."""
        return max(self.regain, self.show, 2.0)

    @staticmethod
    def read(folder: Path) -> Calibration:
        """Read the file of a checkpoint's folder, or take the cautious values without one for these weights.

        Raises:
            InputError: the file holds something else.
        """
        path = folder / FILE
        if not path.is_file():
            return Calibration()
        content = read_json(path, dict)
        try:
            values = Calibration.of(content["values"])
            made_for = content["weights"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: {type(error).__name__} {error}; expected what benchmarks/hard_set/calibrate.py writes"
            ) from error
        from sa2va_model.checkpoints.files.safetensors_files import (
            weights_mark,  # needs torch, the values do not
        )

        if made_for in (weights_mark(folder), _files_mark(folder)):
            return values
        logging.getLogger(__name__).warning(
            "%s was made for other weights and is not used; run benchmarks/hard_set/calibrate.py",
            path,
        )
        return Calibration()

    @staticmethod
    def of(values: dict[str, Any]) -> Calibration:
        """Build from plain values; unknown names are refused.

        Raises:
            TypeError: a name or a value that does not belong here.
        """
        known = {f.name for f in fields(Calibration)}
        if unknown := sorted(set(values) - known):
            raise TypeError(f"unknown value {unknown[0]!r}")
        heads = {
            name: EvidenceWeights(**values[name]) for name in ("memory", "spoken") if name in values
        }
        rest = {name: value for name, value in values.items() if name not in heads}
        rest = {n: bool(v) if n == "redetect" else float(v) for n, v in rest.items()}
        return replace(
            Calibration(**rest),
            memory=heads.get("memory", EvidenceWeights()),
            spoken=heads.get("spoken", EvidenceWeights()),
        )

    def write(self, folder: Path, found: dict[str, Any]) -> Path:
        """Write the file.

        Args:
            found: how the values came about and what they reached, for people.
        """
        from sa2va_model.checkpoints.files.safetensors_files import weights_mark

        path = folder / FILE
        content = {"weights": weights_mark(folder), "values": asdict(self), "found": found}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path


def _files_mark(folder: Path) -> str:
    """Return what calibrations named before there was `weights_mark`: sizes and both ends of the files."""
    mark = 0
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as data:
            mark = zlib.crc32(data.read(_PART), zlib.crc32(str(size).encode(), mark))
            data.seek(max(0, size - _PART))
            mark = zlib.crc32(data.read(_PART), mark)
    return f"{mark:08x}"
