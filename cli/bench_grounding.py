# SPDX-License-Identifier: Apache-2.0
"""`sa2va bench grounding`: seconds from a sentence to its mask, official flow and ours in one run."""

from __future__ import annotations

import argparse

HELP = "Time the official flow (token by token, SAM-2 once for each object) and ours in one run."
EXAMPLES = """examples:
  sa2va bench grounding
  sa2va bench grounding --preset 1b --random-weights --frames 1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va bench grounding`."""
    parser.add_argument("--frames", type=int, default=5, metavar="N", help="keyframes (default: 5)")


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit status."""
    from sa2va_model.errors import InputError

    raise InputError("bench grounding: not measured in this version")
