# SPDX-License-Identifier: Apache-2.0
"""What a run shows a person: one table before the first step, one after the last.

`finetune` prints them. Everything in them is counted or measured elsewhere: trained numbers in `trainables`, memory in
`estimate`, before and after in `outcome`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from sa2va_training.batches.batch import Batch
from sa2va_training.data.sources import Source
from sa2va_training.run.job import Job
from sa2va_training.run.reporting.estimate import estimate
from sa2va_training.run.trainables import counts

FIGURES = ("giou", "ciou", "found", "refused")
"""Of those that `measure.figures` has, the ones that are compared."""


def summary(job: Job, first: Batch) -> Table:
    """The table at the start: data, trained numbers, steps, memory.

    Args:
        first: a batch of the run; activations are estimated by its length.
    """
    table = Table(title=f"sa2va train → {job.settings.output}", title_justify="left")
    for column in ("", "what", "how much"):
        table.add_column(column)
    _add_data(table, job.sources)
    table.add_section()
    for n, (part, (trained, every)) in enumerate(counts(job.model).items()):
        if every:
            words = f"{trained:,} of {every:,}" if trained else f"frozen ({every:,})"
            table.add_row("trained" if n == 0 else "", part, words)
    table.add_section()
    _add_cost(table, job, tokens=first.ids.shape[1])
    return table


def _add_data(table: Table, sources: Sequence[Source]) -> None:
    for n, source in enumerate(sources):
        held = len(source.validation) if source.validation is not None else 0
        weight = "" if source.weight is None else f", weight {source.weight:g}"
        table.add_row(
            "data" if n == 0 else "",
            source.name,
            f"{len(source.train)} samples, {held} to measure{weight}",
        )


def _add_cost(table: Table, job: Job, tokens: int) -> None:
    settings, processes = job.settings, job.accelerator.num_processes
    samples = settings.batches.batch * settings.batches.accumulate * processes
    table.add_row("steps", f"{job.total} of {samples} samples", f"{processes} process(es)")
    table.add_row("", f"in {settings.precision}", f"on {job.accelerator.device}")
    needed = estimate(job.model, settings, tokens=tokens)
    parts = (
        f"weights {readable(needed.weights)}, gradients and AdamW {readable(needed.training)}, "
        f"activations {readable(needed.activations)}, images and masks {readable(needed.working)}"
    )
    table.add_row("memory", f"about {readable(needed.total)} on {job.accelerator.device}", parts)


def comparison(results: dict[str, Any]) -> Table:
    """The table at the end: before and after, dataset by dataset.

    Args:
        results: what `outcome.finish` returns.
    """
    table = Table(title="before → after", title_justify="left")
    table.add_column("data")
    for name in FIGURES:
        table.add_column(name)
    for data, after in results["after"].items():
        before = results["before"].get(data, {})
        cells = [
            f"{before.get(name, float('nan')):.3f} → {after[name]:.3f}" if name in after else ""
            for name in FIGURES
        ]
        table.add_row(data, *cells)
    picture = ", qualitative.png" if (Path(results["folder"]) / "qualitative.png").is_file() else ""
    table.caption = f"{results['seconds']:.0f} s; {results['folder']}: adapter/, loss.png{picture}"
    if not results["after"]:
        table.caption += "; nothing was held out to measure on (batches.held_out, measure)"
    if "best" in results:
        table.caption += f"; weights of step {results['best']}, the best of those measured"
    if results.get("skipped"):
        table.caption += f"; {results['skipped']} step(s) were not finite and skipped"
    if "share" in results:
        table.caption += f"; {results['share']:.0%} of the way from before to after"
    return table


def readable(size: int) -> str:
    """Bytes as a person reads them, in GB or MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
