# SPDX-License-Identifier: Apache-2.0
"""Pages about evaluations: figures, plots, the worst cases first; and one model against another.

OUT/report.html   plots.png   looks/        of one evaluation
OUT/index.html                              of a suite
OUT/compare.html  gains.png                 of two evaluations
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sa2va_training.evaluation.compare import Comparison, Pair
from sa2va_training.evaluation.facts import TITLES, breakdown, score_of
from sa2va_training.evaluation.plots import draw_gains, draw_plots
from sa2va_training.evaluation.run import look_file

Json = dict[str, Any]
WORST = 24
_STYLE = (
    "body{font:15px sans-serif;margin:2em;max-width:1300px}table{border-collapse:collapse;margin:.5em 0 1.5em}"
    "td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child"
    "{text-align:left}figure{display:inline-block;margin:4px;width:300px;vertical-align:top;font-size:.85em}"
    "figure img{width:300px}.sure{font-weight:bold}"
)


def write_report(folder: Path, results: Mapping[str, Any], records: Sequence[Json]) -> None:
    """The page of one evaluation.

    Args:
        folder: of the evaluation.
        results: what `results.json` holds.
    """
    parts = breakdown(records)
    scored = [(score, record) for record in records if (score := score_of(record)) is not None]
    body = [f"<p>model {_words(results['model'])}, adapter {_words(results['adapter'])}, "]
    body.append(f"{results['measured']} of {results['samples']} samples</p>")
    for task, rows in results["figures"].items():
        body.append(f"<h2>{_words(task)}</h2>{_figures(rows)}")
    if scored:
        draw_plots([score for score, _ in scored], parts, TITLES, folder / "plots.png")
        body.append('<h2>Where it is good and where not</h2><img src="plots.png" alt="plots">')
        body.append("<h2>The worst first</h2>")
        worst = sorted(scored, key=lambda found: found[0])[:WORST]
        body += [_case(folder, folder, record, f"{score:.2f}") for score, record in worst]
    _page(folder / "report.html", str(results["dataset"]), body)


def write_index(folder: Path, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """The page of a suite: a table of all figures, with links to the reports.

    Args:
        entries: folder's name and results of each evaluation.
    """
    body = []
    for name, results in entries:
        link = f'<a href="{html.escape(name)}/report.html">{_words(results["dataset"])}</a>'
        body.append(f"<h2>{link}</h2>")
        body += [f"{_words(task)}{_figures(rows)}" for task, rows in results["figures"].items()]
    _page(folder / "index.html", folder.name, body)


def write_comparison(folder: Path, first: Path, second: Path, found: Sequence[Comparison]) -> None:
    """The page of two evaluations, with their pictures where both have kept them."""
    rows = "".join(
        f"<tr class={'sure' if c.sure else 'unsure'}><td>{c.task}<td>{len(c.pairs)}<td>{c.first:.3f}<td>{c.second:.3f}"
        f"<td>{c.second - c.first:+.3f}<td>{c.low:+.3f} to {c.high:+.3f}<td>{c.won}<td>{c.lost}"
        for c in found
    )
    heads = "".join(f"<th>{h}" for h in ("task", "n", "A", "B", "B - A", "95 %", "won", "lost"))
    body = [f"<p>A: {_words(first)}<br>B: {_words(second)}</p><table><tr>{heads}{rows}</table>"]
    draw_gains([pair.gain for c in found for pair in c.pairs], folder / "gains.png")
    body.append('<img src="gains.png" alt="gains">')
    for c in found:
        for title, pairs in (("lost", c.pairs[:8]), ("won", c.pairs[::-1][:8])):
            shown = [p for p in pairs if (p.gain > 0) == (title == "won") and p.gain]
            if shown:
                body.append(f"<h2>{c.task}: {title} most</h2>")
            body += [_pair(folder, first, second, pair) for pair in shown]
    _page(folder / "compare.html", "comparison", body)


def _pair(folder: Path, first: Path, second: Path, pair: Pair) -> str:
    a = _case(folder, first, pair.record, f"A {pair.first:.2f}")
    return f"<div>{a}{_case(folder, second, pair.record, f'B {pair.second:.2f}')}</div>"


def _case(page: Path, folder: Path, record: Json, score: str) -> str:
    picture = folder / look_file(record)
    facts = ", ".join(f"{k} {v:g}" for k, v in record.get("facts", {}).items())
    words = f"<b>{score}</b> {_words(record['asked'])}<br>{_words(record['id'])}<br>{facts}"
    shown = ""
    if picture.is_file():
        shown = f'<img src="{html.escape(os.path.relpath(picture, page))}" loading=lazy>'
    return f"<figure>{shown}<figcaption>{words}</figcaption></figure>"


def _figures(rows: Mapping[str, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    head = "".join(f"<th>{_words(name)}" for name in ("", *names))
    lines = "".join(
        f"<tr><td>{_words(label)}"
        + "".join(f"<td>{_number(name, row.get(name))}" for name in names)
        for label, row in rows.items()
    )
    return f"<table><tr>{head}{lines}</table>"


def _number(name: str, value: float | None) -> str:
    if value is None or value != value:
        return "–"
    return str(int(value)) if name == "n" else f"{value:.3f}"


def _words(value: object) -> str:
    return html.escape(str(value))


def _page(path: Path, title: str, body: Sequence[str]) -> None:
    head = (
        f"<!doctype html><meta charset=utf-8><title>{_words(title)}</title><style>{_STYLE}</style>"
    )
    text = f"{head}<h1>{_words(title)}</h1>" + "\n".join(body) + "\n"
    path.write_text(text, encoding="utf-8")
