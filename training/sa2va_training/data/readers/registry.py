# SPDX-License-Identifier: Apache-2.0
"""Datasets by the name of their format, from one YAML description or one dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_training.data.plain_yaml import read_yaml_file
from sa2va_training.data.readers import (
    chat,
    clips,
    finetune,
    grounded,
    ref_sav,
    refcoco,
    regions,
    shards,
    simple,
)
from sa2va_training.data.sample import Dataset, Sample

Opener = Callable[..., Dataset]
"""Takes `root: Path` and `name: str`, then keyword options with defaults."""

FORMATS: dict[str, Opener] = {
    "simple": simple.open_simple,
    "shards": shards.open_shards,
    "finetune": finetune.open_finetune,
    "llava": chat.open_llava,
    "video_chat": chat.open_video_chat,
    "refcoco": refcoco.open_refcoco,
    "refcoco+": refcoco.open_refcoco_plus,
    "refcocog": refcoco.open_refcocog,
    "grefcoco": refcoco.open_grefcoco,
    "grandf": grounded.open_grandf,
    "openpsg": grounded.open_openpsg,
    "refcocog_gcg": grounded.open_refcocog_gcg,
    "flickr_gcg": grounded.open_flickr_gcg,
    "gcg_eval": grounded.open_gcg_eval,
    "mevis": clips.open_mevis,
    "revos": clips.open_revos,
    "ref_youtube_vos": clips.open_ref_youtube_vos,
    "ref_davis17": clips.open_ref_davis17,
    "ref_sav": ref_sav.open_ref_sav,
    "ref_sav_eval": clips.open_ref_sav_eval,
    "osprey": regions.open_osprey,
    "region_captions": regions.open_region_captions,
}


@dataclass(frozen=True)
class DatasetConfig:
    """Which dataset, and how it is used.

    Attributes:
        format: a name of `FORMATS`.
        root: the dataset's folder.
        name: what tables call it; "" = the format and the split.
        limit: use only the first so many samples; None = all.
        repeats: in a mixture: how often each sample counts; may be a fraction.
        options: of the format (`split` and where its files lie, if not as published).
    """

    format: str
    root: Path
    name: str = ""
    limit: int | None = None
    repeats: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InputError(
                f"format is {self.format!r}{_near(self.format, list(FORMATS))}, "
                f"expected one of {', '.join(FORMATS)}"
            )
        known = _options(self.format)
        for key in self.options:
            if key not in known:
                raise InputError(
                    f"dataset of format '{self.format}': unknown option '{key}'{_near(key, known)}, "
                    f"expected some of format, root, name, limit, repeats, {', '.join(known)}"
                )
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}, expected a whole number above 0")
        if not self.repeats > 0:
            raise InputError(f"repeats is {self.repeats}, expected a number above 0")

    @property
    def title(self) -> str:
        """The name, or the format and the split."""
        split = str(self.options.get("split", ""))
        return self.name or (f"{self.format}-{split}" if split else self.format)

    @classmethod
    def from_mapping(cls, values: Any, base: Path, where: str) -> DatasetConfig:
        """From YAML.

        Args:
            values: the mapping as YAML has it.
            base: folder that a relative `root` starts from.
            where: file (and entry), for messages.

        Raises:
            InputError: a field is missing, unknown or of the wrong type.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"{where}: expected a mapping with 'format' and 'root'")
        for key in ("format", "root"):
            if not isinstance(values.get(key), str):
                raise InputError(
                    f"{where}: field '{key}' is {values.get(key)!r}, expected text; see docs/datasets.md"
                )
        limit, repeats = values.get("limit"), values.get("repeats", 1.0)
        if limit is not None and not isinstance(limit, int):
            raise InputError(f"{where}: field 'limit' is {limit!r}, expected a whole number")
        if not isinstance(repeats, (int, float)):
            raise InputError(f"{where}: field 'repeats' is {repeats!r}, expected a number")
        rest = {
            key: value
            for key, value in values.items()
            if key not in ("format", "root", "name", "limit", "repeats")
        }
        try:
            return cls(
                format=values["format"],
                root=base / Path(values["root"]).expanduser(),
                name=str(values.get("name") or ""),
                limit=limit,
                repeats=float(repeats),
                options=rest,
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


def open_dataset(config: DatasetConfig) -> Dataset:
    """Opens a dataset: reads its annotation files, no picture.

    Raises:
        InputError: the folder or an annotation file is missing or damaged, or the dataset is empty.
    """
    if not config.root.is_dir():
        raise InputError(f"{config.title}: root {config.root} is no folder")
    dataset = FORMATS[config.format](config.root, config.title, **config.options)
    if not len(dataset):
        raise InputError(
            f"{config.title}: no sample in {config.root} for "
            f"{dict(config.options) or 'these options'}, expected at least one"
        )
    if config.limit is not None and config.limit < len(dataset):
        return _First(dataset, config.limit)
    return dataset


class _First:
    """The first samples of a dataset."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.name = dataset.name
        self._dataset, self._count = dataset, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(f"{self.name}: sample {index} of {self._count}")
        return self._dataset[index]


def read_yaml(path: Path, *, lists: bool = False) -> Any:
    """A YAML file that is a mapping.

    Args:
        lists: it may be a list, too.

    Raises:
        InputError: missing, damaged or something else.
    """
    values = read_yaml_file(path)
    if isinstance(values, dict) or (lists and isinstance(values, list)):
        return values
    raise InputError(f"{path}: expected a mapping such as 'format: simple'")


def _options(name: str) -> list[str]:
    """The keyword options of a format."""
    parameters = inspect.signature(FORMATS[name]).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def _near(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, 1)
    return f" (did you mean '{near[0]}'?)" if near else ""
