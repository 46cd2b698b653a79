# SPDX-License-Identifier: Apache-2.0
"""`sa2va bench WHAT`: measures one half of the model and prints a table; --json has everything.

WHAT is a module `WHAT.py` beside this one with HELP, EXAMPLES, add_arguments(parser) and run(args) -> exit
status, as every subcommand has. The common options (--model, --device, --json, --debug) are already on the parser. A
module that is not there is not offered.
"""

from __future__ import annotations

import argparse
import importlib
from importlib.util import find_spec

from sa2va_cli.main import add_common

NAME = "bench"
HELP = "Measure on this machine. Everything is timed with the device synchronised; figures go to --json as well."
EXAMPLES = """examples:
  sa2va bench grounding
  sa2va bench grounding --preset 1b,4b,8b --random-weights --device cuda --json out/grounding.json
  sa2va bench tracker --objects 1,4 --against sam2"""

BENCHMARKS = {
    "tracker": "frames per second of the tracker, also against the sam2 package",
    "grounding": "seconds from a sentence to its mask, official flow and ours in one run",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmarks that are installed, each with its own options."""
    kinds = parser.add_subparsers(dest="benchmark", metavar="WHAT", required=True, title="WHAT")
    for name, line in BENCHMARKS.items():
        if find_spec(f"sa2va_cli.bench.{name}") is None:
            continue
        module = importlib.import_module(f"sa2va_cli.bench.{name}")
        sub = kinds.add_parser(
            name,
            help=line,
            description=module.HELP,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            conflict_handler="resolve",
        )
        add_common(sub, nested=True)
        module.add_arguments(sub)
        sub.set_defaults(run_benchmark=module.run)


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit status."""
    return int(args.run_benchmark(args) or 0)
