# SPDX-License-Identifier: Apache-2.0
"""`sa2va reproduce`: a table of the paper, run on the data that is there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_cli.models import add_adapter
from sa2va_model.errors import InputError
from sa2va_model.io.file_names import inside

if TYPE_CHECKING:
    from sa2va_model.sa2va import Sa2VA
    from sa2va_training.evaluation.tables import PaperTable, TableCell, TableRow, TrainedRow

NAME = "reproduce"
HELP = "Run a table of the paper on the data that is there: ours, the paper's, the difference."
EXAMPLES = """examples:
  sa2va reproduce table06 --model Sa2VA-8B --data-root data
  sa2va reproduce table20 --data my_clips         the table's questions on other data, without the paper's numbers
  sa2va reproduce table12 --model START --data-root data       its models are trained first, from this one
  sa2va reproduce table12 --data my_clips steps=300 batches.step=8         the same on other data, in less time

TABLE is one that ships (training/configs/paper) or a YAML file. A cell without its data says where that is had.
What was run before is not run again, and a training that was stopped goes on. Writes table.md, results.json and a
folder for each cell."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va reproduce`."""
    add_adapter(parser)
    parser.add_argument("table", metavar="TABLE", help="table06 to table20, or a YAML file")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="of `sa2va train`, for tables that train",
    )
    parser.add_argument(
        "--data-root", metavar="D", default="data", help="Sa2VA's data folder (default: data)"
    )
    parser.add_argument(
        "--data", metavar="FOLDER", help="a simple folder in place of every dataset"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="folder of the run (default: runs/reproduce/TABLE)"
    )
    parser.add_argument("--restart", action="store_true", help="run again what was run before")


def run(args: argparse.Namespace) -> int:
    """Reproduce; returns the exit status: 1 where a figure is further from the paper's than it may be."""
    from sa2va_cli.output import write_json
    from sa2va_training.evaluation.tables import markdown, read_table

    table = read_table(args.table)
    folder = Path(args.output or Path("runs/reproduce") / table.name)
    if args.settings and not table.rows:
        raise InputError(f"{args.settings[0]}: {table.name} trains nothing; expected no settings")
    rows: list[TableRow] = []
    name = args.model or "tiny"
    for row in _rows(table, folder, args):
        rows.append(row)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(markdown(table, rows, name), encoding="utf-8")
    results = {
        "table": table.name,
        "model": name,
        "adapter": args.adapter,
        "data": args.data,
        "rows": [row.as_dict() for row in rows],
    }
    write_json(folder / "results.json", results)
    write_json(args.json, results)
    print(markdown(table, rows, name))
    here = any(not cell.elsewhere for cell in table.cells)
    if here and all(row.ours is None for row in rows):
        raise InputError(
            f"--data-root {args.data_root}: has none of the table's datasets (table.md says which)"
        )
    return int(any(row.as_dict()["same"] is False for row in rows))


def _rows(table: PaperTable, folder: Path, args: argparse.Namespace) -> Iterator[TableRow]:
    """Every cell, of every model."""
    from sa2va_training.evaluation.tables import TableRow

    if not table.rows:
        args.on, models, known = None, list[Any](), dict[str, Any]()
        yield from (_row(cell, folder, args, models, known) for cell in table.cells)
        return
    for row in table.rows:
        place = inside(folder, row.name.replace(" ", "_"), "row")
        given = argparse.Namespace(**vars(args))
        given.on, models, known = None, [], {}
        cells = [cell for cell in table.cells if not row.columns or cell.column in row.columns]
        try:
            given.model = str(_trained(table, row, place / "run", args))
        except InputError as error:
            if args.data is not None:
                raise
            note = " ".join(str(error).split())
            yield from (TableRow(cell, note=note, row=row.name) for cell in cells)
            continue
        if args.data is not None:
            given.on = str(place / "run")
        for cell in cells:
            yield replace(_row(cell, place, given, models, known), row=row.name)


def _trained(table: PaperTable, row: TrainedRow, run: Path, args: argparse.Namespace) -> Path:
    """The model of a row, trained now or before."""
    from sa2va_training.run import state
    from sa2va_training.run.finetune import finetune
    from sa2va_training.run.settings_files import load_settings

    merged = run / "merged"
    if (run / "results.json").is_file() and (merged / "config.json").is_file():
        return merged
    values: dict[str, Any] = dict(row.train)
    if args.data is not None:
        values |= {"data": args.data, "batches.held_out": 0.1}
    else:
        values["data"] = _below(values.get("data"), Path(args.data_root).expanduser())
    values |= {"output": str(run), "model": args.model, "merge": True, "device": args.device}
    words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    settings = load_settings(table.recipe, [*words, *args.settings])
    print(f"{table.name}: {row.name}: training into {run}")
    finetune(settings, resume=state.latest(run) is not None)
    return merged


def _below(data: Any, root: Path) -> Any:
    """What a row trains on, with its roots below the data root."""
    if isinstance(data, list):
        return [_below(entry, root) for entry in data]
    if isinstance(data, dict):
        return {**data, "root": str((root / str(data.get("root", ""))).resolve())}
    return data


def _row(
    cell: TableCell,
    folder: Path,
    args: argparse.Namespace,
    models: list[Sa2VA],
    known: dict[str, dict[str, Any]],
) -> TableRow:
    """One cell, run or not.

    Args:
        models: the model, once it was needed; known: what it was measured on before.
    """
    from sa2va_cli.evaluation.evaluate import measure, settings_of
    from sa2va_training.data.sources import folder_mapping
    from sa2va_training.evaluation.predictor import Asking
    from sa2va_training.evaluation.tables import TableRow, figure_of, paper_value

    if cell.elsewhere:
        paper = paper_value(cell, args.model or "tiny")
        return TableRow(cell, paper=paper, note=f"measured by {cell.elsewhere}")
    values: dict[str, Any] = dict(cell.dataset)
    paper = paper_value(cell, args.model or "tiny")
    base = Path(args.data_root).expanduser()
    if args.data is not None:
        asked = {key: values[key] for key in Asking.__dataclass_fields__ if key in values}
        values, base, paper = folder_mapping(Path(args.data)) | asked, Path(), None
    root = base / str(values.get("root"))
    if not root.is_dir():
        had = f"; had from {cell.had}" if cell.had else ""
        return TableRow(cell, paper=paper, note=f"no data at {root}{had}")
    given = settings_of(values, base, f"{args.table}: {cell.column}", [])
    key = repr(given)
    if key not in known:
        place = inside(folder, cell.column.replace(" ", "_"), "column")
        known[key] = measure(given, place, args, models)
    try:
        return TableRow(cell, figure_of(known[key], cell.figure), paper)
    except InputError as error:  # such as an image figure of clips, or METEOR without Java
        return TableRow(cell, paper=paper, note=str(error))
