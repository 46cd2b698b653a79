# SPDX-License-Identifier: Apache-2.0
"""`sa2va reproduce`: a table of the paper, run on the data that is there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_cli.models import add_adapter
from sa2va_model.errors import InputError
from sa2va_model.io.file_names import inside

if TYPE_CHECKING:
    from sa2va_model.sa2va import Sa2VA
    from sa2va_training.evaluation.tables import TableCell, TableRow

NAME = "reproduce"
HELP = "Run a table of the paper on the data that is there: ours, the paper's, the difference."
EXAMPLES = """examples:
  sa2va reproduce table06 --model Sa2VA-8B --data-root data
  sa2va reproduce table20 --data my_clips         the table's questions on other data, without the paper's numbers

TABLE is one that ships (training/configs/paper) or a YAML file. A cell without its data says where that is had.
What was run before is not run again. Writes table.md, results.json and a folder for each cell."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va reproduce`."""
    add_adapter(parser)
    parser.add_argument("table", metavar="TABLE", help="table06, table10, table20, or a YAML file")
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
    args.on = None
    models: list[Sa2VA] = []
    rows: list[TableRow] = []
    name = args.model or "tiny"
    for cell in table.cells:
        rows.append(_row(cell, folder, args, models))
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
    if all(row.ours is None for row in rows):
        raise InputError(
            f"--data-root {args.data_root}: has none of the table's datasets (table.md says which)"
        )
    return int(any(row.as_dict()["same"] is False for row in rows))


def _row(cell: TableCell, folder: Path, args: argparse.Namespace, models: list[Sa2VA]) -> TableRow:
    """One cell, run or not."""
    from sa2va_cli.evaluation.evaluate import measure, settings_of
    from sa2va_training.data.sources import folder_mapping
    from sa2va_training.evaluation.predictor import Asking
    from sa2va_training.evaluation.tables import TableRow, figure_of, paper_value

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
    results = measure(given, inside(folder, cell.column.replace(" ", "_"), "column"), args, models)
    return TableRow(cell, figure_of(results, cell.figure), paper)
