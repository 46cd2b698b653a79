# SPDX-License-Identifier: Apache-2.0
"""From what stands under `data:` to open datasets, cut into training and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json
from sa2va_training.data.held_out import all_pictures, annotated, divide
from sa2va_training.data.readers.registry import DatasetConfig, open_dataset, read_yaml
from sa2va_training.data.readers.shards import Shards
from sa2va_training.data.readers.simple import SimpleFolder
from sa2va_training.data.sample import Dataset, Sample
from sa2va_training.data.shipped import find_config

_MANY = 50_000


@dataclass(frozen=True)
class Source:
    """One dataset and its part in the whole.

    Attributes:
        validation: what it is measured on; None = nothing.
        weight: of all draws; None = by its number of samples.
        repeats: how often each sample counts in an epoch.
        root: its folder; held: names of the pictures that it is measured on.
        rehearsed: the model knows it already.
        aside: what chooses how far to go; see `blend`.
    """

    train: Dataset
    validation: Dataset | None
    weight: float | None = None
    repeats: float = 1.0
    rehearsed: bool = False
    aside: Dataset | None = None
    root: Path = Path()
    held: frozenset[str] = frozenset()

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
    division = divide(source.train, share)
    if division.held is None:
        return source
    return replace(source, train=division.train, aside=Stills(division.held))


def by_task(dataset: Dataset) -> tuple[Dataset | None, Dataset | None]:
    """The samples with masks, and those with words only; None where there are none.

    Samples whose expressions nobody annotated have nothing to teach and are left out. A very large dataset is one thing
    throughout and is not gone through.
    """
    if len(dataset) > _MANY or isinstance(dataset, Shards):
        return (dataset, None) if dataset[0].task == "segment" else (None, dataset)
    tasks = [_task(dataset[index]) for index in range(len(dataset))]
    found: list[Dataset | None] = []
    for task, suffix in (("segment", ""), ("text", " (words)")):
        indices = [i for i, t in enumerate(tasks) if t == task]
        found.append(Chosen(dataset, indices, dataset.name + suffix) if indices else None)
    return found[0], found[1]


def _task(sample: Sample) -> str:
    """Its task, "" where nothing can be asked."""
    open_ = sample.referrings and not any(
        r.absent or (r.target is not None and r.target.annotated) for r in sample.referrings
    )
    return "" if open_ and not sample.turns else sample.task


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
            self._places += [(index, t) for t in range(len(sample.frames)) if _told(sample, t)]
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


def _told(sample: Sample, frame: int) -> bool:
    """Whether a frame alone can be asked about; what a finished answer marks has to be seen on it."""
    if not sample.targets:
        return annotated(sample, frame)
    masks = [target.masks[frame] for target in sample.targets]
    return all(mask is not None and mask.read(*sample.size()).any() for mask in masks)


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
    return [
        _open(entry, held_out=held_out, stills=stills, base=place)
        for entry, place in _entries(spec, base)
    ]


def _entries(spec: Any, base: Path) -> list[tuple[Any, Path]]:
    """Each dataset that is named, and what its paths start from; a YAML file may hold a list of them."""
    if isinstance(spec, (list, tuple)):
        return [found for entry in spec for found in _entries(entry, base)]
    if isinstance(spec, Mapping) and "mixture" in spec:
        return _mixture(spec, base)
    if isinstance(spec, (str, Path)):
        path = base / Path(spec).expanduser()
        if path.is_file() and path.suffix in (".yaml", ".yml"):
            values = read_yaml(path, lists=True)
            if isinstance(values, list):
                return _entries(values, path.parent)
    return [(spec, base)]


def _mixture(spec: Mapping[str, Any], base: Path) -> list[tuple[Any, Path]]:
    """A list of datasets that ships or lies somewhere, with another root, some of them left out."""
    where = f"mixture {spec['mixture']!r}"
    unknown = sorted(set(spec) - {"mixture", "root", "drop"})
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; expected mixture, root and drop")
    path = find_config(str(spec["mixture"]), "paper")
    listed = read_yaml(path, lists=True)
    if not isinstance(listed, list) or not all(isinstance(e, Mapping) for e in listed):
        raise InputError(f"{path}: holds no list of datasets; expected one")
    root = base / Path(str(spec["root"])).expanduser() if "root" in spec else path.parent
    dropped = spec.get("drop") or []
    dropped = {str(name) for name in ([dropped] if isinstance(dropped, str) else dropped)}
    names = [str(entry.get("name")) for entry in listed]
    for name in sorted(dropped - set(names)):
        raise InputError(f"{where}: drop names {name!r}; expected some of {', '.join(names)}")
    return [(e, root) for e, name in zip(listed, names, strict=True) if name not in dropped]


def _open(entry: Any, *, held_out: float, stills: bool, base: Path) -> Source:
    values, where, base = _mapping(entry, base)
    weight = values.pop("weight", None)
    if weight is not None and not (isinstance(weight, (int, float)) and weight > 0):
        raise InputError(f"{where}: weight is {weight!r}; expected a number above 0")
    if weight is not None and "repeats" in values:
        raise InputError(f"{where}: has weight and repeats; expected one of them")
    config = DatasetConfig.from_mapping(values, base, where)
    if "split" not in values and config.format == "simple" and _has_splits(config):
        train = open_dataset(replace(config, options={**config.options, "split": "train"}))
        validation: Dataset | None = open_dataset(
            replace(config, options={**config.options, "split": "val"})
        )
        held = all_pictures(validation) if validation else frozenset[str]()
    else:
        opened = open_dataset(config)
        if isinstance(opened, Shards):  # whole files: nothing is fetched to decide
            train, validation = opened.cut(held_out)
            held = frozenset[str]()
        else:
            division = divide(opened, held_out)
            train, validation, held = division.train, division.held, division.pictures
    whole = isinstance(train, Shards)
    return Source(
        Stills(train) if stills and not whole else train,
        Stills(validation)
        if validation and not whole
        else validation,  # they are measured one by one
        weight,
        config.repeats,
        root=config.root,
        held=held,
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
    if isinstance(entry, int) and not isinstance(entry, bool):
        entry = str(entry)  # a folder called 20261127
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
    return folder_mapping(path), str(path), Path()


def folder_mapping(folder: Path) -> dict[str, Any]:
    """What a dataset's YAML file would say about a folder."""
    return {"format": _format(folder), "root": str(folder), "name": folder.resolve().name}


def _format(folder: Path) -> str:
    """The simple folder, or the official fine-tuning format, whose records have a `mask`."""
    file = folder / "annotations.json"
    if file.is_file() and not (folder / "annotations.jsonl").is_file():
        try:
            records = read_json(file)
        except InputError:
            return "simple"  # its reader says what is wrong
        if isinstance(records, list) and records and isinstance(records[0], dict):
            return "finetune" if "mask" in records[0] else "simple"
    return "simple"


def _has_splits(config: DatasetConfig) -> bool:
    records = SimpleFolder(config.root, config.title).records
    return any("split" in r and r.text("split") == "val" for r in records)
