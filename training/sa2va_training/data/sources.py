# SPDX-License-Identifier: Apache-2.0
"""From what stands under `data:` to open datasets, cut into training and validation."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_training.data.readers.registry import DatasetConfig, open_dataset, read_yaml
from sa2va_training.data.readers.simple import SimpleFolder
from sa2va_training.data.sample import Dataset, Sample

_MANY = 50_000


@dataclass(frozen=True)
class Source:
    """One dataset and its part in the whole.

    Attributes:
        validation: what it is measured on; None = nothing.
        weight: of all draws; None = by its number of samples.
        rehearsed: the model knows it already.
        aside: what chooses how far to go; see `blend`.
    """

    train: Dataset
    validation: Dataset | None
    weight: float | None = None
    rehearsed: bool = False
    aside: Dataset | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.train.name


class Chosen:
    """Some samples of a dataset."""

    def __init__(self, dataset: Dataset, indices: Sequence[int], name: str = "") -> None:
        self.name = name or dataset.name
        self._dataset, self._indices = dataset, tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[self._indices[index]]


def set_aside(source: Source, share: float) -> Source:
    """The same source with a share of its training pictures set aside."""
    kept, held = _cut(source.train, share)
    if not held:
        return source
    aside = Chosen(source.train, held)
    return replace(source, train=Chosen(source.train, kept), aside=aside)


def by_task(dataset: Dataset) -> tuple[Dataset | None, Dataset | None]:
    """The samples with masks, and those with words only; None where there are none.

    A very large dataset is one thing throughout and is not gone through.
    """
    if len(dataset) > _MANY:
        return (dataset, None) if dataset[0].task == "segment" else (None, dataset)
    tasks = [dataset[index].task for index in range(len(dataset))]
    found: list[Dataset | None] = []
    for task, suffix in (("segment", ""), ("text", " (words)")):
        indices = [i for i, t in enumerate(tasks) if t == task]
        found.append(Chosen(dataset, indices, dataset.name + suffix) if indices else None)
    return found[0], found[1]


class Stills:
    """Every annotated frame of every clip as an image of its own; images stay as they are."""

    def __init__(self, dataset: Dataset) -> None:
        self.name, self._dataset = dataset.name, dataset
        self._places: list[tuple[int, int | None]] = []
        for index in range(len(dataset)):
            sample = dataset[index]
            if not sample.clip:
                self._places.append((index, None))
                continue
            self._places += [(index, t) for t in range(len(sample.frames)) if _known(sample, t)]
        if not self._places:
            raise InputError(
                f"{self.name}: no frame of its clips is annotated; expected at least one"
            )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        place, frame = self._places[index]
        sample = self._dataset[place]
        if frame is None:
            return sample
        return replace(sample.with_frames([frame]), clip=False, id=f"{sample.id}#{frame}")


def _known(sample: Sample, frame: int) -> bool:
    targets = (*sample.targets, *(r.target for r in sample.referrings if r.target))
    return any(target.masks[frame] is not None for target in targets)


def open_sources(spec: Any, *, held_out: float, stills: bool, base: Path = Path()) -> list[Source]:
    """Opens what `data:` names.

    Args:
        spec: a folder, a YAML file, a mapping (see docs/datasets.md; plus `weight`), or a list of these.
        held_out: share kept for measuring where a dataset has no `val` split.
        stills: clips are used as single images.
        base: what relative paths start from.

    Raises:
        InputError: nothing is named, or something cannot be opened.
    """
    if spec is None or spec == []:
        raise InputError("data is not set; expected a dataset folder, as in data=my_folder")
    entries = spec if isinstance(spec, (list, tuple)) else [spec]
    return [_open(entry, held_out=held_out, stills=stills, base=base) for entry in entries]


def _open(entry: Any, *, held_out: float, stills: bool, base: Path) -> Source:
    values, where, base = _mapping(entry, base)
    weight = values.pop("weight", None)
    if weight is not None and not (isinstance(weight, (int, float)) and weight > 0):
        raise InputError(f"{where}: weight is {weight!r}; expected a number above 0")
    config = DatasetConfig.from_mapping(values, base, where)
    if "split" not in values and config.format == "simple" and _has_splits(config):
        train = open_dataset(replace(config, options={**config.options, "split": "train"}))
        validation: Dataset | None = open_dataset(
            replace(config, options={**config.options, "split": "val"})
        )
        if stills:
            train, validation = Stills(train), Stills(validation) if validation else None
        return Source(train, validation, weight)
    whole = open_dataset(config)
    if stills:
        whole = Stills(whole)
    kept, held = _cut(whole, held_out)
    return Source(
        Chosen(whole, kept) if held else whole, Chosen(whole, held) if held else None, weight
    )


def _mapping(entry: Any, base: Path) -> tuple[dict[str, Any], str, Path]:
    """An entry of `data:` as a mapping, its name for messages, and what its paths start from."""
    if isinstance(entry, Mapping):
        values = dict(entry)
        values.setdefault("format", "simple")
        if "data" in values:
            values["root"] = values.pop("data")
        if isinstance(values.get("root"), str):
            values.setdefault("name", Path(values["root"]).name)
        return values, f"data {values.get('root')!r}", base
    if not isinstance(entry, (str, Path)):
        raise InputError(f"data is {entry!r}; expected a folder, a YAML file or a mapping")
    path = base / Path(entry).expanduser()
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        values = read_yaml(path)
        return values, str(path), path.parent
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; expected a dataset folder (docs/datasets.md) or a YAML file"
        )
    return {"format": _format(path), "root": str(path), "name": path.name}, str(path), Path()


def _format(folder: Path) -> str:
    """The simple folder, or the official fine-tuning format, whose records have a `mask`."""
    file = folder / "annotations.json"
    if file.is_file() and not (folder / "annotations.jsonl").is_file():
        try:
            records = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            return "simple"  # its reader says what is wrong
        if isinstance(records, list) and records and isinstance(records[0], dict):
            return "finetune" if "mask" in records[0] else "simple"
    return "simple"


def _has_splits(config: DatasetConfig) -> bool:
    records = SimpleFolder(config.root, config.title).records
    return any("split" in r and r.text("split") == "val" for r in records)


def _cut(dataset: Dataset, share: float) -> tuple[list[int], list[int]]:
    """Indices to train on and to measure on. A picture is on one side only, and stays there as data is added."""
    if share <= 0:
        return list(range(len(dataset))), []
    place = []
    for index in range(len(dataset)):
        sample = dataset[index]
        name = Path(sample.frames[0].name).name if sample.frames else sample.id
        place.append(zlib.crc32(name.encode()) % 10_000)
    kept = [i for i, p in enumerate(place) if p >= share * 10_000]
    held = [i for i, p in enumerate(place) if p < share * 10_000]
    if not held or not kept:  # very few samples: the picture with the smallest number is held out
        low = min(place)
        kept = [i for i, p in enumerate(place) if p != low]
        held = [i for i, p in enumerate(place) if p == low]
    return (kept, held) if kept else (held, [])
