# SPDX-License-Identifier: Apache-2.0
"""Tables of the paper as files: which figure of which evaluation stands in which column, and what was published.

title: …
source: where the published numbers are from
cells:
  - column: RefCOCO
    dataset: {format: refcoco, root: ref_seg, split: val}    # root below the data root; asking options as well
    had: where the data is to be had
    figure: [referring, images, all, cIoU]                   # path in results.json, task first
    published: {Sa2VA-8B: 0.816}
    tolerance: 0.01
  - column: MMBench
    elsewhere: "VLMEvalKit: MMBench_DEV_EN"                  # how it is measured, where not here
extends: table06                                             # cells of another table before these,
columns: [RefCOCO, RefCOCO+]                                 # of which only some are taken
recipe: paper.yaml                                           # a table whose models are trained first:
rows:
  - row: without image QA
    train: {data: {mixture: table02, drop: [llava]}}         # settings; roots lie below the data root
    columns: [RefCOCO]                                       # what it is measured on; default: everything
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_training.data.readers import read_yaml
from sa2va_training.data.shipped import find_config

Json = dict[str, Any]
_KEYS = ("column", "dataset", "had", "figure", "published", "tolerance", "elsewhere")
_FIELDS = ("title", "source", "cells", "extends", "columns", "recipe", "rows")


@dataclass(frozen=True)
class TableCell:
    """One number of a table.

    Attributes:
        dataset: what `sa2va evaluate` takes, `root` below the data root.
        figure: task, row and figure in the results.
        published: by model, as fractions.
        tolerance: difference that counts as the same.
        elsewhere: what measures it; "" = it is measured here.
    """

    column: str
    dataset: Mapping[str, Any]
    figure: tuple[str, str, str]
    had: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = 0.01
    elsewhere: str = ""


@dataclass(frozen=True)
class TrainedRow:
    """A row whose model is trained first.

    Attributes:
        train: settings that differ from the recipe, by their dotted names.
        columns: what it is measured on; () = all cells.
    """

    name: str
    train: Mapping[str, Any]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        recipe: settings file of `rows`.
        rows: models that are trained; none = the model that is given is measured.
    """

    name: str
    title: str
    source: str
    cells: tuple[TableCell, ...]
    recipe: str = "paper.yaml"
    rows: tuple[TrainedRow, ...] = ()


@dataclass(frozen=True)
class TableRow:
    """A cell that was run, or why it was not.

    Attributes:
        ours, paper: fractions.
        note: what is missing.
        row: of a table whose models are trained.
    """

    cell: TableCell
    ours: float | None = None
    paper: float | None = None
    note: str = ""
    row: str = ""

    @property
    def title(self) -> str:
        """Row and column."""
        return f"{self.row}: {self.cell.column}" if self.row else self.cell.column

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.ours is None or self.paper is None else self.ours - self.paper

    def as_dict(self) -> Json:
        """For JSON."""
        apart = self.difference
        return {
            "column": self.cell.column,
            **({"row": self.row} if self.row else {}),
            "ours": self.ours,
            "paper": self.paper,
            "difference": apart,
            "same": None if apart is None else abs(apart) <= self.cell.tolerance,
            "note": self.note,
        }


def read_table(name: str) -> PaperTable:
    """A table by its name (`table06`), or a file of one's own.

    Raises:
        InputError: there is none, or a cell has a field that is missing, unknown or of the wrong kind.
    """
    path = find_config(name, "paper")
    values = read_yaml(path)
    if unknown := sorted(set(values) - set(_FIELDS)):
        raise InputError(f"{path}: unknown field {unknown[0]!r}; expected {', '.join(_FIELDS)}")
    cells = values.get("cells", [] if "extends" in values else None)
    if not isinstance(cells, list) or not (cells or "extends" in values):
        raise InputError(f"{path}: field 'cells' is {cells!r:.60}; expected a list of cells")
    made = tuple(_cell(cell, f"{path}: cells[{n}]") for n, cell in enumerate(cells))
    if "extends" in values:
        made = (*_inherited(str(values["extends"]), values.get("columns"), path), *made)
    names = [cell.column for cell in made]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: a column occurs twice; expected names of their own")
    title, source = str(values.get("title", path.stem)), str(values.get("source", ""))
    given = values.get("rows") or []
    if not isinstance(given, list):
        raise InputError(f"{path}: field 'rows' is {given!r:.60}; expected a list of rows")
    rows = tuple(_trained(row, names, f"{path}: rows[{n}]") for n, row in enumerate(given))
    recipe = str(values.get("recipe", "paper.yaml"))
    return PaperTable(path.stem, title, source, made, recipe, rows)


def _inherited(name: str, columns: Any, path: Path) -> list[TableCell]:
    """Cells of another table."""
    others = {cell.column: cell for cell in read_table(name).cells}
    wanted = list(others) if columns is None else columns
    for column in wanted if isinstance(wanted, list) else [wanted]:
        if column not in others:
            raise InputError(
                f"{path}: columns: {name} has no {column!r}; it has {', '.join(others)}"
            )
    return [others[column] for column in wanted]


def _trained(values: Any, known: Sequence[str], where: str) -> TrainedRow:
    if not isinstance(values, Mapping) or set(values) - {"columns"} != {"row", "train"}:
        raise InputError(f"{where}: is {values!r:.60}; expected row, train and perhaps columns")
    if not isinstance(values["train"], Mapping) or not isinstance(values["row"], str):
        raise InputError(f"{where}: expected row (text) and train (a mapping of settings)")
    columns = values.get("columns") or []
    if not isinstance(columns, list) or not set(columns) <= set(known):
        raise InputError(
            f"{where}: columns is {columns!r:.80}; expected some of {', '.join(known)}"
        )
    return TrainedRow(values["row"], dict(values["train"]), tuple(columns))


def _cell(values: Any, where: str) -> TableCell:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: is {values!r:.60}; expected a mapping")
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise InputError(f"{where}: unknown field {unknown[0]!r}; expected {', '.join(_KEYS)}")
    published = {str(k): float(v) for k, v in (values.get("published") or {}).items()}
    had, tolerance = str(values.get("had", "")), float(values.get("tolerance", 0.01))
    if isinstance(values.get("column"), str) and isinstance(values.get("elsewhere"), str):
        nothing = ("", "", "")
        return TableCell(
            values["column"], {}, nothing, had, published, tolerance, elsewhere=values["elsewhere"]
        )
    figure, dataset = values.get("figure"), values.get("dataset")
    if not isinstance(figure, list) or len(figure) != 3:
        raise InputError(f"{where}: figure is {figure!r}; expected task, row and figure")
    if not isinstance(dataset, Mapping) or not isinstance(values.get("column"), str):
        raise InputError(f"{where}: expected column (text) and dataset (a mapping)")
    task, row, name = map(str, figure)
    return TableCell(values["column"], dict(dataset), (task, row, name), had, published, tolerance)


def figure_of(results: Mapping[str, Any], path: Sequence[str]) -> float:
    """A figure of an evaluation's results.

    Raises:
        InputError: the evaluation has no such figure.
    """
    place: Any = results["figures"]
    for name in path:
        if not isinstance(place, Mapping) or name not in place:
            known = ", ".join(place) if isinstance(place, Mapping) else "nothing"
            raise InputError(f"{results['dataset']}: has no figure {name!r}; there is {known}")
        place = place[name]
    return float(place)


def paper_value(cell: TableCell, model: str) -> float | None:
    """What was published for a model: by the name of its folder, or the part of a hub's name behind the owner."""
    return cell.published.get(Path(model).name)


def markdown(table: PaperTable, rows: Sequence[TableRow], model: str) -> str:
    """The table as text, in percent."""
    lines = [f"# {table.title}", "", f"Model: {model}. {table.source}".rstrip(), ""]
    lines += ["| column | ours | paper | difference | |", "|---|---|---|---|---|"]
    for row in rows:
        values = (_percent(row.ours), _percent(row.paper), _percent(row.difference, sign=True))
        lines.append(f"| {row.title} | {' | '.join(values)} | {row.note} |")
    return "\n".join(lines) + "\n"


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    return f"{100 * value:{'+' if sign else ''}.1f}"
