# SPDX-License-Identifier: Apache-2.0
"""`sa2va compare`: two evaluations of one dataset against each other."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "compare"
HELP = "Compare two evaluations of one dataset: paired bootstrap, wins and losses."
EXAMPLES = """examples:
  sa2va evaluate my_folder -o runs/a
  sa2va evaluate my_folder -o runs/b --adapter runs/kitchen/adapter
  sa2va compare runs/a runs/b -o runs/a_b

B is better where the interval of B - A lies above 0. writes compare.html and gains.png."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va compare`."""
    parser.add_argument("first", metavar="A", help="folder that sa2va evaluate has written")
    parser.add_argument("second", metavar="B", help="another one, of the same dataset")
    parser.add_argument("-o", "--output", metavar="OUT", help="folder of the page (default: none)")


def run(args: argparse.Namespace) -> int:
    """Compare; returns the exit status."""
    from rich.console import Console
    from rich.table import Table

    from sa2va_cli.output import write_json
    from sa2va_training.evaluation.compare import compare

    first, second = Path(args.first), Path(args.second)
    found = compare(first, second)
    table = Table()
    for head in ("task", "n", "A", "B", "B - A", "95 %", "won", "lost"):
        table.add_column(head, justify="left" if head == "task" else "right")
    for c in found:
        span = f"{c.low:+.3f} to {c.high:+.3f}"
        means = (f"{c.first:.3f}", f"{c.second:.3f}", f"{c.second - c.first:+.3f}")
        table.add_row(c.task, str(len(c.pairs)), *means, span, str(c.won), str(c.lost))
    Console().print(table)
    if args.output:
        from sa2va_training.evaluation.page import write_comparison

        Path(args.output).mkdir(parents=True, exist_ok=True)
        write_comparison(Path(args.output), first, second, found)
        print(f"{args.output}: compare.html, gains.png")
    values = [
        {
            "task": c.task,
            "n": len(c.pairs),
            "a": c.first,
            "b": c.second,
            "interval": [c.low, c.high],
            "won": c.won,
            "lost": c.lost,
        }
        for c in found
    ]
    write_json(args.json, {"a": str(first), "b": str(second), "tasks": values})
    return 0
