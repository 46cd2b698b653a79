# SPDX-License-Identifier: Apache-2.0
"""`sa2va verify-golden`: a checkpoint with recorded answers of the official code, compared stage by stage."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sa2va_model.checkpoints.golden import CaseReport

NAME = "verify-golden"
HELP = (
    "Load DIR as a checkpoint, run the cases recorded in it and print the largest absolute difference of every stage. "
    "Exit status 1 if one is over its tolerance."
)
EXAMPLES = """examples:
  sa2va verify-golden golden/internvl
  sa2va verify-golden golden/internvl --case video_T3"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va verify-golden`."""
    parser.add_argument("folder", metavar="DIR", help="checkpoint folder with golden cases")
    parser.add_argument("--case", metavar="NAME", help="run this case only")


def run(args: argparse.Namespace) -> int:
    """Verify; returns the exit status."""
    from sa2va_cli.output import write_json
    from sa2va_model.checkpoints.golden import verify
    from sa2va_model.checkpoints.load import pick_device

    # Answers were recorded on a CPU.
    device = "cpu" if args.device == "auto" else str(pick_device(args.device))
    reports = verify(args.folder, case=args.case, device=device)
    _print(reports)
    write_json(args.json, {"folder": args.folder, "cases": [_record(report) for report in reports]})
    failed = [report.name for report in reports if not report.passed]
    if failed:
        print(f"{len(failed)} of {len(reports)} cases over tolerance: {', '.join(failed)}")
        return 1
    print(f"all {len(reports)} cases within tolerance")
    return 0


def _print(reports: list[CaseReport]) -> None:
    width = max((len(stage.name) for report in reports for stage in report.stages), default=0)
    for report in reports:
        print(f"{report.name}: {'ok' if report.passed else 'OVER TOLERANCE'}")
        for stage in report.stages:
            mark = "" if stage.passed else "  <-- over"
            print(
                f"  {stage.name:{width}s}  {stage.largest_difference:10.3e}  "
                f"(tolerance {stage.tolerance:.0e}){mark}"
            )


def _record(report: CaseReport) -> dict[str, Any]:
    return {
        "name": report.name,
        "passed": report.passed,
        "stages": [
            {
                "name": stage.name,
                "largest_difference": stage.largest_difference,
                "tolerance": stage.tolerance,
                "passed": stage.passed,
            }
            for stage in report.stages
        ],
    }
