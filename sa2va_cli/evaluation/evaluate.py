# SPDX-License-Identifier: Apache-2.0
"""`sa2va evaluate`: a model's figures on a dataset, by the protocol that the dataset's authors publish."""

from __future__ import annotations

import argparse
import hashlib
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sa2va_cli.models import add_adapter, open_model
from sa2va_model.errors import InputError
from sa2va_model.io.file_names import inside

if TYPE_CHECKING:
    from sa2va_model.sa2va import Sa2VA
    from sa2va_training.data.readers import DatasetConfig
    from sa2va_training.data.sample import Dataset
    from sa2va_training.evaluation.predictor import Asking, ModelPredictor
    from sa2va_training.evaluation.recorded import RecordedTracks
    from sa2va_training.evaluation.report import Figures

    Measured = tuple[DatasetConfig, Asking, dict[str, Any]]

WIDEST = 10  # measures that stand beside each other in a terminal
NAME = "evaluate"
HELP = "Measure a model on a dataset: J&F, cIoU, gIoU, AP50, METEOR, CIDEr, answers."
EXAMPLES = """examples:
  sa2va evaluate my_folder                          a simple folder (docs/datasets.md)
  sa2va evaluate my_folder --on runs/kitchen --adapter runs/kitchen/adapter     what that run has held out of it
  sa2va evaluate refcoco_testA.yaml --model Sa2VA-1B
  sa2va evaluate mevis.yaml keyframes=uniform       another choice of keyframes
  sa2va evaluate clips.yaml tracking=live           frame by frame, as on a robot
  sa2va evaluate a.mcap b.mcap tracking=live        recordings with their truth (topic= and truth= name topics)
  sa2va evaluate bags/ tracking=live                all recordings of a folder
  sa2va evaluate run.mcap tracking=recorded         what the robot itself marked (its topics tracks and mask)
  sa2va evaluate revos.yaml limit=20 -o out/quick   a quick look
  sa2va evaluate suite.yaml -o runs/suite           a list of datasets, one after the other, and one page
  sa2va evaluate revos.yaml shard=0/8 --device cuda & … shard=7/8 …   eight processes
  torchrun --nproc-per-node 8 -m sa2va_model evaluate revos.yaml --model Sa2VA-4B      the same, a GPU each

A YAML file says `format:` and `root:` (docs/evaluation.md lists the formats and their protocols).
A YAML file that is a list of such mappings, folders and files is a suite.
A run that was stopped goes on where it was; writes records.jsonl, results.json, report.html and qualitative.png."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va evaluate`."""
    parser.add_argument(
        "dataset", metavar="DATASET", help="YAML file, a simple folder, or a rosbag2 with truth"
    )
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="tracking, keyframes, count, fps, wording, protocol, export, shard, limit, or an option of the format; "
        "further recordings",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="folder of the run (default: runs/evaluate/NAME)"
    )
    add_adapter(parser)
    parser.add_argument(
        "--on",
        metavar="RUN",
        help="only what this run of sa2va train has held out of the dataset",
    )
    parser.add_argument(
        "--restart", action="store_true", help="measure again what was measured before"
    )


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit status."""
    from sa2va_cli.output import write_json

    models: list[Sa2VA] = []
    _open_bags(args)
    suite = suite_of(Path(args.dataset).expanduser())
    if suite is None:
        given = settings(args.dataset, args.settings)
        default = inside(Path("runs/evaluate"), given[0].title, "name")
        write_json(args.json, measure(given, Path(args.output or default), args, models))
        return 0
    from sa2va_training.evaluation.page import write_index

    folder = Path(args.output or inside(Path("runs/evaluate"), Path(args.dataset).stem, "name"))
    found: list[tuple[str, dict[str, Any]]] = []
    entries = [settings_of(*entry, args.settings) for entry in suite]
    _check_names([config.title for config, _, _ in entries], args.dataset)
    for given in entries:
        title = given[0].title
        found.append((title, measure(given, inside(folder, title, "name"), args, models)))
        write_index(folder, found)
    write_json(folder / "results.json", dict(found))
    write_json(args.json, dict(found))
    print(f"{folder}: index.html, results.json")
    return 0


def _open_bags(args: argparse.Namespace) -> None:
    """Where recordings are named, makes a dataset folder of them in the output and has that measured."""
    from sa2va_cli.data.truth import bags_of, folder_of_bags

    first = Path(args.dataset).expanduser()
    bags = bags_of(first)
    more = [item for item in args.settings if "=" not in item]
    if not bags:
        return
    for item in more:
        found = bags_of(Path(item).expanduser())
        if not found:
            raise InputError(f"{item}: is no rosbag2, expected recordings, or key=value")
        bags += found
    own = [item for item in args.settings if item.startswith(("topic=", "truth=", "tracks="))]
    named = dict(item.split("=", 1) for item in own)
    output = Path(args.output or inside(Path("runs/evaluate"), first.stem, "name"))
    folder = output / "dataset"
    args.tracks = named.get("tracks", "")
    args.bags = folder_of_bags(bags, folder, topic=named.get("topic"), truth=named.get("truth", ""))
    args.output, args.dataset = str(output), str(folder)
    args.settings = [item for item in args.settings if item not in (*own, *more)]
    if not any(item.startswith("name=") for item in args.settings):
        args.settings.append(f"name={first.stem}")


def measure(
    given: Measured, folder: Path, args: argparse.Namespace, models: list[Sa2VA]
) -> dict[str, Any]:
    """Measure one dataset.

    Args:
        given: of `settings`.
        folder: of the run.
        args: `--model`, `--adapter`, `--on`, `--restart`.
        models: the model, once it was needed.

    Returns:
        What `results.json` holds.
    """
    from sa2va_cli.output import Progress, write_json
    from sa2va_training.data.held_out import among, read_held_out
    from sa2va_training.data.readers import open_dataset
    from sa2va_training.evaluation.page import write_report
    from sa2va_training.evaluation.report import report
    from sa2va_training.evaluation.run import EvaluationRun

    config, asking, own = given
    dataset = open_dataset(config)
    if args.on is not None:
        dataset = among(dataset, read_held_out(Path(args.on), config.title, config.root))
    official = own["protocol"] == "official"
    if official and config.format != "ref_davis17":
        raise InputError(
            f"protocol is 'official', which only ref_davis17 has (format is '{config.format}')"
        )
    recorded = asking.tracking == "recorded"
    name = "recorded tracks" if recorded else args.model
    measured = EvaluationRun(
        dataset,
        folder,
        {
            **_head(config, asking, own, name, len(dataset)),
            "adapter": args.adapter,
            "on": args.on,
        },
        keep_masks=official,
        live=asking.fps if asking.tracking == "live" or recorded else 0.0,
        export=bool(own["export"]),
        shard=_shard(own["shard"]),
    )
    done = measured.start(afresh=args.restart)
    share, left = len(measured.share), measured.left(done)
    if left < share:
        print(f"{folder}: {share - left} of {share} samples were measured before")
    if left:
        predictor = _recorded(args, config, dataset) if recorded else _model(args, asking, models)
        with Progress(left, config.title, unit="sample") as progress:
            for _ in measured.go(predictor, done):
                progress.step()
    with measured.reporting():
        measured.finish()
        protocol = f"{config.format}:official" if official else config.format
        records, finished = measured.records()
        figures = report(records, protocol=protocol)
        if finished < len(dataset):
            print(
                f"{folder}: {finished} of {len(dataset)} samples so far; other shards are missing"
            )
        results = {
            "dataset": config.title,
            "samples": len(dataset),
            "measured": finished,
            "model": name or "tiny",
            "adapter": args.adapter,
            "asked": asdict(asking),
            "figures": figures,
        }
        write_json(folder / "results.json", results)
        write_report(folder, results, records)
    _print(config.title, figures)
    print(f"{folder}: report.html, results.json, qualitative.png, records.jsonl")
    return results


def _model(args: argparse.Namespace, asking: Asking, models: list[Sa2VA]) -> ModelPredictor:
    """The model, opened once for all datasets."""
    from sa2va_training.evaluation.predictor import ModelPredictor

    if not models:
        args.device = _own_device(args.device)
        models.append(open_model(args))
    return ModelPredictor(models[0], asking)


def _recorded(args: argparse.Namespace, config: DatasetConfig, dataset: Dataset) -> RecordedTracks:
    """What robots marked while the recordings were made."""
    from sa2va_cli.evaluation.recorded import recorded_tracks

    found = recorded_tracks(getattr(args, "bags", {}), config.root, getattr(args, "tracks", ""))
    found.check(dataset)
    return found


def suite_of(path: Path) -> list[tuple[dict[str, Any], Path, str]] | None:
    """The datasets of a YAML file that is a list, as `settings_of` takes them; None = it is no suite.

    Raises:
        InputError: an entry is neither a mapping nor a folder or file.
    """
    from sa2va_training.data.readers import read_yaml

    if path.suffix not in (".yaml", ".yml"):
        return None
    values = read_yaml(path, lists=True)
    if not isinstance(values, list):
        return None
    found = []
    for number, entry in enumerate(values):
        if isinstance(entry, dict):
            found.append((dict(entry), path.parent, f"{path}: entry {number}"))
        elif isinstance(entry, str):
            found.append(_named(str(path.parent / Path(entry).expanduser())))
        else:
            raise InputError(f"{path}: entry {number} is {entry!r}; expected a mapping or a path")
    return found


def _check_names(names: list[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{where}: {twice[0]!r} occurs twice; expected a `name:` of its own for each dataset"
        )


def settings(dataset: str, overrides: list[str]) -> Measured:
    """What is measured and how, for a YAML file or a simple folder; see `settings_of`."""
    return settings_of(*_named(dataset), overrides)


def _named(dataset: str) -> tuple[dict[str, Any], Path, str]:
    from sa2va_training.data.readers import read_yaml
    from sa2va_training.data.sources import folder_mapping

    path = Path(dataset).expanduser()
    if path.is_dir():
        return folder_mapping(path), Path(), dataset
    return read_yaml(path), path.parent, dataset


def settings_of(values: dict[str, Any], base: Path, dataset: str, overrides: list[str]) -> Measured:
    """What is measured and how.

    Args:
        values: as YAML has them.
        base: what relative paths start from.
        dataset: for messages.
        overrides: key=value.

    Returns:
        The dataset, how clips are asked about, and `protocol`, `export` and `shard`.

    Raises:
        InputError: something is unknown or of the wrong kind.
    """
    from sa2va_training.data.plain_yaml import parse_yaml
    from sa2va_training.data.readers import DatasetConfig
    from sa2va_training.evaluation.predictor import Asking

    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise InputError(f"{item!r}: expected key=value, such as tracking=live")
        try:
            values[key] = parse_yaml(text)
        except yaml.YAMLError as error:
            raise InputError(f"{item!r:.120}: the value is no YAML") from error
    asked = {f.name: values.pop(f.name) for f in fields(Asking) if f.name in values}
    if str(values.get("format", "")).lstrip("g").startswith("refcoco") and "wording" not in asked:
        asked["wording"] = "{} in this image"
    own = {
        "protocol": str(values.pop("protocol", "")),
        "export": values.pop("export", False),
        "shard": str(values.pop("shard", _own_shard())),
    }
    if own["protocol"] not in ("", "official"):
        raise InputError(
            f"{dataset}: protocol is {own['protocol']!r}, expected 'official' or nothing"
        )
    numbers = {"count": int, "fps": (int, float)}
    for key, value in asked.items():
        if not isinstance(value, numbers.get(key, str)):  # type: ignore[arg-type]
            raise InputError(f"{dataset}: {key} is {value!r}, expected another type of value")
    return DatasetConfig.from_mapping(values, base, dataset), Asking(**asked), own


def _own_shard() -> str:
    """The share of this process where `torchrun` started several; all of it otherwise."""
    return f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}"


def _own_device(device: str) -> str:
    """The GPU of this process where `torchrun` started several on a machine, if `auto` may choose."""
    local = os.environ.get("LOCAL_RANK")
    if device != "auto" or local is None:
        return device
    import torch

    return f"cuda:{local}" if torch.cuda.device_count() > int(local) else device


def _shard(text: str) -> tuple[int, int]:
    """ "1/4" = the second of four processes that share a dataset."""
    number, slash, count = text.partition("/")
    if slash and number.isdigit() and count.isdigit() and int(number) < int(count):
        return int(number), int(count)
    raise InputError(f"shard is {text!r}, expected i/n such as 0/2 and 1/2")


def _head(
    config: DatasetConfig, asking: Asking, own: dict[str, Any], model: str | None, samples: int
) -> dict[str, Any]:
    """What makes two runs the same."""
    return {
        "dataset": config.title,
        "format": config.format,
        "root": str(config.root.resolve()),
        "options": {key: str(value) for key, value in config.options.items()},
        "samples": samples,
        "asking": asdict(asking),
        "protocol": own["protocol"],
        "model": model or "tiny",
        "weights": _fingerprint(model),
    }


def _fingerprint(model: str | None) -> str:
    """Changes when the files of the model do."""
    from sa2va_model.checkpoints.load import SHIPPED

    folder = Path(model) if model else SHIPPED
    found = hashlib.sha256()
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.suffix in (".safetensors", ".json", ".bin"):
            found.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return found.hexdigest()[:16]


def _print(title: str, figures: Figures) -> None:
    """One table for each task."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not figures:
        print(f"{title}: nothing to measure offline (no truth, or free conversation only)")
    for task, rows in figures.items():
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        cells = {
            label: [_cell(name, row.get(name)) for name in names] for label, row in rows.items()
        }
        if len(names) > WIDEST:  # a measure a line
            labels, names = names, list(cells)
            columns = zip(*cells.values(), strict=True)
            cells = {label: list(column) for label, column in zip(labels, columns, strict=True)}
        table = Table(title=f"{title}: {task}", title_justify="left")
        table.add_column("")
        for name in names:
            table.add_column(name, justify="right")
        for label, row in cells.items():
            table.add_row(label, *row)
        console.print(table)


def _cell(name: str, value: float | None) -> str:
    if value is None or value != value:
        return "–"
    return str(int(value)) if name == "n" else f"{value:.3f}"
