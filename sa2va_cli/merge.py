# SPDX-License-Identifier: Apache-2.0
"""`sa2va merge`: adapters become a part of their model, as one checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "merge"
HELP = "Write a model and its adapter, or the mean of several, as one checkpoint that stands where the model stood."
EXAMPLES = """examples:
  sa2va merge runs/kitchen/adapter -o kitchen_model                        of the tiny model that ships
  sa2va merge runs/kitchen/adapter --share 0.5 -o kitchen_model            half of the way: learns less, forgets less
  sa2va merge runs/a/adapter runs/b/adapter -o kitchen_model               the mean of two runs, often better than both
  sa2va merge words/adapter memory_model --share 0.8 0.5 -o new_model      a share of each, added up
  sa2va merge runs/kitchen/adapter --model Sa2VA-1B -o Sa2VA-1B-kitchen    with the base's code, ids and type"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va merge`."""
    parser.add_argument(
        "changed",
        metavar="ADAPTER",
        nargs="+",
        help="folder that sa2va train has written, or a later checkpoint of the model; of several the mean is taken",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, help="a new folder")
    parser.add_argument(
        "--share",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="S",
        help="how far to go from the model's weights to those with the adapter (default: 1, all the way); "
        "one for all, or one for each, added up",
    )


def run(args: argparse.Namespace) -> int:
    """Merge; returns the exit status."""
    from sa2va_cli.output import write_json
    from sa2va_training.run.merged import merge

    folder = merge(args.model, [Path(a) for a in args.changed], Path(args.output), args.share)
    print(f"{folder}: a checkpoint for --model {folder}")
    write_json(args.json, {"folder": str(folder)})
    return 0
