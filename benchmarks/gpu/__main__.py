# SPDX-License-Identifier: Apache-2.0
"""Everything that wants a GPU, in six minutes: exactness first, then speed.

    PYTHONPATH=benchmarks python -m gpu --out out/gpu
    PYTHONPATH=benchmarks python -m gpu --out out/gpu --device cpu --small       that it runs at all

Each section is a process with a limit of its own and leaves its result as JSON; those that have one are skipped when it
is run again. The table fits a screen. Weights are random but in `shipped`: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from gpu import exactness, speed
from gpu.child import Section, run
from gpu.setting import Setting

Work = Callable[..., dict[str, Any]]
LARGE_ONLY = ("track tiny", "sentences 4b", "sentences 8b", "sentences 26b", "vos_optimized")
"""Sections that differ from another one by the model's size alone, which `--small` does without; the last compiles."""


def sections(setting: Setting) -> list[Section]:
    """In the order in which they are worth their time."""

    def part(name: str, limit: float, work: Work, *given: object, **named: object) -> Section:
        patience = 6 if setting.small else 1  # there it shares a processor with other work
        return Section(name, limit * patience, partial(work, setting, *given, **named))

    return [
        part("numbers", 30, exactness.numbers),
        part("shipped", 25, exactness.shipped),
        part("track large", 45, speed.tracking, "large", (1, 16)),
        part("track tiny", 20, speed.tracking, "tiny", (1,)),
        part("track sam3", 30, speed.tracking, "sam3", (1, 4)),
        part("node", 30, speed.node),
        part("sentences 1b", 20, speed.sentences, "1b"),
        part("sentences 4b", 20, speed.sentences, "4b"),
        part("sentences 8b", 20, speed.sentences, "8b"),
        part("train ours", 20, speed.training, "ours"),
        part("train published", 20, speed.training, "published"),
        part("sentences 26b", 45, speed.sentences, "26b"),
        part("long run", 25, speed.long_run),
        part("vos_optimized", 120, speed.tracking, "large", (1,), optimized=True),
    ]


def main() -> int:
    """Measure; 1 if a section failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="default: out/gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="nano sizes: that it runs at all")
    parser.add_argument(
        "--budget", type=float, metavar="S", help="seconds, all in all; default: 360, --small 1200"
    )
    parser.add_argument("--only", default="", metavar="NAME,...", help="these sections")
    parser.add_argument("--clip", type=Path, help="frames (.jpg), truth of some of them (.png)")
    args = parser.parse_args()
    budget = args.budget or (1200 if args.small else 360)
    begin = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(torch.device(args.device), args.small, args.clip)
    chosen = [s for s in sections(setting) if not args.only or s.name in args.only.split(",")]
    if args.small:
        chosen = [s for s in chosen if s.name not in LARGE_ONLY]
    rows = {}
    for section in chosen:
        row = rows[section.name] = run(section, args.out, budget - (time.monotonic() - begin))
        mark = "ok  " if "result" in row else "FAIL"
        text = json.dumps(row.get("result", row.get("error")), default=str).replace('"', "")
        print(f"{mark} {section.name:16s} {row['seconds']:6.1f} s  {text[:600]}", flush=True)
        report = {"device": _device(setting.device), "sections": rows}
        (args.out / "report.json").write_text(json.dumps(report, indent=1))
    return int(any("error" in row and row["error"] != "no time left" for row in rows.values()))


def _device(device: torch.device) -> dict[str, str]:
    """Asked in the end: a process that has touched the GPU cannot fork."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**versions, "device": str(device), "cuda": str(torch.version.cuda)}


if __name__ == "__main__":
    sys.exit(main())
