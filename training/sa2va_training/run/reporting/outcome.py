# SPDX-License-Identifier: Apache-2.0
"""What a run was worth, and what it leaves behind.

The model is measured before training (`before.json`, `before.npz`), and once more at the end, read back the way users
will load it: the bare model and the adapter that was written. Then come pictures, `results.json` and the merged
checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from sa2va_model.checkpoints.adapters import load_adapter, merge_adapter, save_adapter
from sa2va_model.checkpoints.load import load_model
from sa2va_model.sa2va import Sa2VA
from sa2va_training.data.sources import Source
from sa2va_training.metrics.overlap import overlap
from sa2va_training.run.blend import settle
from sa2va_training.run.job import Job
from sa2va_training.run.merged import save_merged
from sa2va_training.run.reporting import measure
from sa2va_training.run.reporting.journal import draw_curves, read_journal
from sa2va_training.run.seg import with_seg
from sa2va_training.run.settings import Settings
from sa2va_training.run.trainables import Trainables, prepare

Figures = dict[str, dict[str, float]]
"""`measure.figures` of each dataset, by its name."""


def measured_before(
    model: Sa2VA, sources: Sequence[Source], settings: Settings, folder: Path
) -> Figures:
    """What the model is worth before training. Measured once per run; kept for the end, also over an interruption.

    Args:
        model: as loaded.
        settings: say on how many samples (`measure`), and which ones (`seed`).
        folder: of the run; it exists.

    Returns:
        the figures of every dataset that has something to measure on.
    """
    file, masks = folder / "before.json", folder / "before.npz"
    if file.is_file() and masks.is_file():
        kept: Figures = json.loads(file.read_text(encoding="utf-8"))
        return kept
    seen = _measured(model, sources, settings)
    figures = {name: measure.figures(found) for name, found in seen.items()}
    packed: dict[str, Any] = {
        f"{name}/{n}": np.packbits(one.guess)
        for name, found in seen.items()
        for n, one in enumerate(found)
    }
    np.savez_compressed(masks, **packed)
    file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def _measured(
    model: Sa2VA, sources: Sequence[Source], settings: Settings
) -> dict[str, list[measure.Seen]]:
    """What the model sees of each dataset's validation part."""
    found: dict[str, list[measure.Seen]] = {}
    if not settings.measure:
        return found
    looked = [s for s in sources if s.validation is not None and len(s.validation)]
    total = sum(min(settings.measure, len(s.validation or ())) for s in looked)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=total)
        for source in looked:
            assert source.validation is not None
            found[source.name] = measure.look(
                model,
                source.validation,
                settings.measure,
                seed=settings.seed,
                tick=lambda: bar.advance(task),
            )
    return found


def finish(
    job: Job,
    before: Figures,
    gathered: Mapping[str, Any] | None,
    *,
    seconds: float,
    worked: float,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes what was learnt, reads it back as a user would, and measures that.

    Args:
        job: trained.
        before: what `measured_before` found.
        gathered: the learner's whole numbers where no process has all of them; None = the job's model has them.
        seconds: that training took.
        worked: seconds of processor time that it took.
        more: what else is to stand in the results.

    Returns:
        what `results.json` holds.

    Raises:
        InputError: the model that the run began with, or the adapter just written, cannot be read back.
    """
    folder, settings = job.folder, job.settings
    rows = read_journal(folder)
    draw_curves(rows, folder / "loss.png")
    fresh, notes = _write_adapter(job, gathered)
    seen = _measured(fresh, job.sources, settings)
    results = {
        "folder": str(folder),
        "steps": job.total,
        "seconds": round(seconds, 1),
        "processor_seconds": round(worked, 1),
        "before": before,
        "after": {name: measure.figures(found) for name, found in seen.items()},
        "skipped": sum("skipped" in row for row in rows),
        "last": rows[-1] if rows else {},
    }
    results |= dict(more or {})
    results |= {key: notes[key] for key in ("share", "aside") if key in notes}
    for name, found in list(seen.items())[:1]:
        measure.draw_comparison(
            _seen_before(folder, name, found), found, folder / "qualitative.png"
        )
    if settings.merge:
        if settings.train.bits:  # what was learnt beside quantised weights goes into the base's own
            fresh = with_seg(
                load_model(settings.model, device="cpu"),
                settings.train.seg,
                settings.batches.frames,
            )
            load_adapter(fresh, folder / "adapter")
        merge_adapter(fresh)
        save_merged(fresh, settings.model, folder / "merged")
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def _seen_before(folder: Path, name: str, after: Sequence[measure.Seen]) -> list[measure.Seen]:
    """What was seen before training, on the same pictures."""
    with np.load(folder / "before.npz") as masks:
        found = []
        for n, one in enumerate(after):
            bits = np.unpackbits(masks[f"{name}/{n}"])[: one.truth.size]
            guess = bits.reshape(one.truth.shape).astype(bool)
            iou = overlap(guess, one.truth).iou
            found.append(replace(one, guess=guess, iou=iou, found=bool(guess.any())))
    return found


def _write_adapter(job: Job, gathered: Mapping[str, Any] | None) -> tuple[Sa2VA, dict[str, Any]]:
    """The adapter folder; returns a fresh model with it, the way users will load it, and the adapter's notes."""
    settings, model, trained = job.settings, job.model, job.trainables
    job.learner.close_gate()
    if gathered is not None:
        model, trained = _whole(settings, gathered)
    device = job.accelerator.device
    place = "cpu" if device.type == "cpu" else str(device)
    fresh = load_model(settings.model, device=place, bits=settings.train.bits or None)
    with_seg(fresh, settings.train.seg, settings.batches.frames)
    notes = {"data": [source.name for source in job.sources], "steps": job.total}
    aside = [source.aside for source in job.sources if source.aside is not None]
    notes |= settle(model, trained.names, fresh, aside, forget=settings.forget, seed=settings.seed)
    adapter = job.folder / "adapter"
    save_adapter(model, adapter, base=job.base, parts=trained.parts, peft=trained.peft, notes=notes)
    load_adapter(fresh, adapter)
    return fresh, notes


def _whole(settings: Settings, gathered: Mapping[str, Any]) -> tuple[Sa2VA, Trainables]:
    """A model of our own with the whole numbers of a sharded run."""
    model = with_seg(
        load_model(settings.model, device="cpu"), settings.train.seg, settings.batches.frames
    )
    trained = prepare(model, settings.train)
    prefix = "model."
    numbers = {k.removeprefix(prefix): v for k, v in gathered.items() if k.startswith(prefix)}
    model.load_state_dict(numbers, strict=False)
    return model, trained
