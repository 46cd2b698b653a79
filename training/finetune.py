# SPDX-License-Identifier: Apache-2.0
"""From a settings file to a fine-tuned model: what `sa2va train` does, and what other programs may call.

RUN/settings.yaml  metrics.jsonl  tensorboard/  checkpoints/     while it trains
RUN/before.json  results.json  loss.png  qualitative.png        what it was worth
RUN/adapter/                                                    for `--adapter` and the node's LoadAdapter
RUN/merged/                                                     a checkpoint in the official layout
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sa2va_model.adapters import (
    fingerprint,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from sa2va_model.checkpoints import load_model, save_model, suit_threads
from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA
from sa2va_training import measure, state
from sa2va_training.allocator import keep_memory
from sa2va_training.asking import Asker
from sa2va_training.blend import Line, Tried, chosen
from sa2va_training.collage import Album
from sa2va_training.collate import Batch, Collator
from sa2va_training.estimate import estimate
from sa2va_training.feeder import Feeder
from sa2va_training.journal import draw_curves, read_journal
from sa2va_training.learner import Before, Learner
from sa2va_training.loop import Run, make_accelerator
from sa2va_training.memory import MemoryLearner
from sa2va_training.metrics.overlap import overlap
from sa2va_training.mixture import Mixture, repeats_for_shares
from sa2va_training.names import vocabulary
from sa2va_training.precision import decided
from sa2va_training.sample import Dataset
from sa2va_training.settings import Settings, save_settings
from sa2va_training.sources import Chosen, Source, by_task, open_sources, set_aside
from sa2va_training.trainables import Trainables, counts, prepare

DRY_STEPS = 2


@dataclass
class Job:
    """Everything one run consists of, ready to train."""

    settings: Settings
    accelerator: Accelerator
    model: Sa2VA
    trainables: Trainables
    learner: Learner
    feeder: Feeder
    sources: list[Source]
    base: str
    total: int

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.settings.output)


def finetune(
    settings: Settings, *, resume: bool = False, dry_run: bool = False, overfit: int = 0
) -> dict[str, Any]:
    """Trains as the settings say; every process of a launch calls this.

    Args:
        resume: go on with a run that was interrupted.
        dry_run: only a few steps, nothing is written; says what a step costs.
        overfit: train and measure on so many samples only, undisturbed: does it learn at all?

    Returns:
        What `results.json` holds.

    Raises:
        InputError: data, model or settings do not fit.
    """
    console = Console(stderr=True)
    if overfit:
        settings = _undisturbed(settings)
    folder = Path(settings.output)
    if not resume and not dry_run and state.latest(folder) is not None:
        raise InputError(
            f"output {folder}: holds a run already; expected a new folder, or --resume {folder}"
        )
    accelerator = make_accelerator(settings)
    settings = replace(settings, precision=decided(settings.precision, accelerator.device))
    main = accelerator.is_main_process
    model = _load(settings, accelerator)
    settings = resolved(settings, model)
    base = fingerprint(model)
    sources = open_all(settings, overfit)
    if main and not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        save_settings(settings, folder / "settings.yaml")
    before = _before(model, sources, settings, folder) if main and not dry_run else {}
    accelerator.wait_for_everyone()
    job = make_job(settings, accelerator, model, base, sources)
    first = job.feeder.micro(0, 0)
    if main:
        console.print(summary(job, first))
    run = Run(folder, settings, accelerator, job.learner, job.feeder, base, job.total)
    if dry_run:
        return _dry(run, job, console if main else None)
    if resume:
        done = run.resume()
        if main:
            console.print(f"going on after step {done} of {job.total}")
    begun, worked = time.monotonic(), time.process_time()
    run.train()
    seconds, worked = time.monotonic() - begun, time.process_time() - worked
    if accelerator.num_processes > 1 and state.sharded(accelerator):
        gathered = accelerator.get_state_dict(run.wrapped)
    else:
        gathered = None
    results: dict[str, Any] = {}
    if main:
        results = _finish(job, before, gathered, seconds, worked)
        console.print(outcome(results))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return results


def _undisturbed(settings: Settings) -> Settings:
    return replace(settings, batches=replace(settings.batches, augment="none", held_out=0.0))


def resolved(settings: Settings, model: Sa2VA) -> Settings:
    """What the settings leave to the model.

    Raises:
        InputError: memory is to be trained on single frames.
    """
    frames = settings.batches.frames or model.config.keyframes
    if settings.train.mode == "memory" and frames < 2:
        raise InputError(
            f"batches.frames is {frames}; expected 2 or more to train memory (memory.yaml has 6)"
        )
    return replace(settings, batches=replace(settings.batches, frames=frames))


def _load(settings: Settings, accelerator: Accelerator) -> Sa2VA:
    device = accelerator.device
    name = "cpu" if device.type == "cpu" else str(device)
    model = load_model(settings.model, device=name)
    if settings.precision == "fp32":
        model.float()
    suit_threads(model)
    if device.type == "cpu":
        keep_memory()
        cv2.setNumThreads(torch.get_num_threads())
    return model


def open_all(settings: Settings, overfit: int = 0) -> list[Source]:
    """Training data, and what is rehearsed beside it."""
    stills, share = settings.batches.frames == 1, settings.batches.held_out
    sources = open_sources(settings.data, held_out=share, stills=stills)
    if settings.rehearsal is not None:
        known = open_sources(settings.rehearsal, held_out=share, stills=stills)
        known = [replace(source, rehearsed=True) for source in known]
        sources += [set_aside(source, settings.aside) for source in known]
    if settings.validation is not None:
        given = open_sources(settings.validation, held_out=0.0, stills=stills)
        for n, source in enumerate(given[: len(sources)]):
            sources[n] = replace(sources[n], validation=source.train)
    if overfit:
        few = Chosen(sources[0].train, range(min(overfit, len(sources[0].train))))
        return [Source(few, few)]
    return sources


def make_job(
    settings: Settings, accelerator: Accelerator, model: Sa2VA, base: str, sources: list[Source]
) -> Job:
    """Puts model, data and process together."""
    batches = settings.batches
    torch.manual_seed(settings.seed)  # LoRA starts at random
    trained, repeats, rehearsed = weighted(sources, batches.talk)
    before = Before(model) if settings.loss.keep and rehearsed else None
    trainables = prepare(model, settings.train)
    kind = MemoryLearner if settings.train.mode == "memory" else Learner
    cache = int(batches.cache_gb * 2**30)
    words = vocabulary(trained) if settings.loss.names and kind is Learner else ()
    learner = kind(model, settings.train, settings.loss, cache=cache, before=before, words=words)
    mixture = Mixture(
        trained, batches.batch * accelerator.num_processes, repeats=repeats, seed=settings.seed
    )
    scored = learner.loss.score > 0
    asker = Asker(
        model.config,
        batches,
        settings.seed,
        scored=scored,
        window=settings.train.mode == "memory",
        album=Album(trained) if batches.collage else None,
        things=bool(words),
    )
    feeder = Feeder(
        mixture,
        asker,
        Collator(
            learner.mllm,
            mask_target=settings.loss.target,
            max_tokens=batches.max_tokens,
            words=words,
        ),
        batch=batches.batch,
        accumulate=batches.accumulate,
        seed=settings.seed,
        rank=accelerator.process_index,
        workers=batches.workers,
        rehearsed=rehearsed,
    )
    whole = settings.epochs * mixture.batches_per_epoch / batches.accumulate
    total = settings.steps or max(1, round(whole))
    return Job(settings, accelerator, model, trainables, learner, feeder, sources, base, total)


def weighted(
    sources: Sequence[Source], talk: float
) -> tuple[list[Dataset], tuple[float, ...] | None, set[int]]:
    """Datasets of one task each, how often each of them counts (None = all alike), and which are rehearsed.

    The weight of the first source is 1 where only the others have one.
    """
    datasets: list[Dataset] = []
    rehearsed: set[int] = set()
    shares: list[float] = []
    given = any(source.weight is not None for source in sources)
    for source in sources:
        weight = source.weight or (1.0 if given else float(len(source.train)))
        masks, words = by_task(source.train)
        both = masks is not None and words is not None and bool(talk)
        if source.rehearsed:
            rehearsed |= {len(datasets), len(datasets) + both}
        if masks is None or words is None or not talk:
            datasets.append(source.train if masks is None or words is None else masks)
            shares.append(weight)
            continue
        datasets += [masks, words]
        shares += [weight * (1 - talk), weight * talk]
    if not given and len(datasets) == len(sources):
        return datasets, None, rehearsed
    repeats = repeats_for_shares(shares, [len(dataset) for dataset in datasets])
    return datasets, repeats, rehearsed


# --- what it says ----------------------------------------------------------------------------------------------------


def summary(job: Job, first: Batch) -> Table:
    """The table at the start: data, trained numbers, memory."""
    settings, processes = job.settings, job.accelerator.num_processes
    table = Table(title=f"sa2va train → {settings.output}", title_justify="left")
    for column in ("", "what", "how much"):
        table.add_column(column)
    for n, source in enumerate(job.sources):
        held = len(source.validation) if source.validation is not None else 0
        weight = "" if source.weight is None else f", weight {source.weight:g}"
        table.add_row(
            "data" if n == 0 else "",
            source.name,
            f"{len(source.train)} samples, {held} to measure{weight}",
        )
    table.add_section()
    for n, (part, (trained, every)) in enumerate(counts(job.model).items()):
        if every:
            words = f"{trained:,} of {every:,}" if trained else f"frozen ({every:,})"
            table.add_row("trained" if n == 0 else "", part, words)
    table.add_section()
    samples = settings.batches.batch * settings.batches.accumulate * processes
    table.add_row("steps", f"{job.total} of {samples} samples", f"{processes} process(es)")
    table.add_row("", f"in {settings.precision}", f"on {job.accelerator.device}")
    needed = estimate(job.model, settings, tokens=first.ids.shape[1])
    parts = (
        f"weights {_gb(needed.weights)}, gradients and AdamW {_gb(needed.training)}, "
        f"activations {_gb(needed.activations)}, images and masks {_gb(needed.working)}"
    )
    table.add_row("memory", f"about {_gb(needed.total)} on {job.accelerator.device}", parts)
    return table


def outcome(results: dict[str, Any]) -> Table:
    """The table at the end: before and after."""
    table = Table(title="before → after", title_justify="left")
    table.add_column("data")
    names = ("giou", "ciou", "found", "refused")
    for name in names:
        table.add_column(name)
    for data, after in results["after"].items():
        before = results["before"].get(data, {})
        cells = [
            f"{before.get(name, float('nan')):.3f} → {after[name]:.3f}" if name in after else ""
            for name in names
        ]
        table.add_row(data, *cells)
    table.caption = (
        f"{results['seconds']:.0f} s; {results['folder']}: adapter/, loss.png, qualitative.png"
    )
    if "share" in results:
        table.caption += f"; {results['share']:.0%} of the way from before to after"
    return table


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


# --- before and after ------------------------------------------------------------------------------------------------


def _measured(model: Sa2VA, sources: Sequence[Source], settings: Settings) -> dict[str, Any]:
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


def _before(
    model: Sa2VA, sources: Sequence[Source], settings: Settings, folder: Path
) -> dict[str, Any]:
    """Measured once per run; kept for the end, also over an interruption."""
    file, masks = folder / "before.json", folder / "before.npz"
    if file.is_file() and masks.is_file():
        return {"figures": json.loads(file.read_text(encoding="utf-8"))}
    seen = _measured(model, sources, settings)
    figures = {name: measure.figures(found) for name, found in seen.items()}
    packed: dict[str, Any] = {
        f"{name}/{n}": np.packbits(one.guess)
        for name, found in seen.items()
        for n, one in enumerate(found)
    }
    np.savez_compressed(masks, **packed)
    file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return {"figures": figures}


def _old(folder: Path, name: str, after: Sequence[measure.Seen]) -> list[measure.Seen]:
    """What was seen before training, on the same pictures."""
    with np.load(folder / "before.npz") as masks:
        found = []
        for n, one in enumerate(after):
            bits = np.unpackbits(masks[f"{name}/{n}"])[: one.truth.size]
            guess = bits.reshape(one.truth.shape).astype(bool)
            iou = overlap(guess, one.truth).iou
            found.append(replace(one, guess=guess, iou=iou, found=bool(guess.any())))
    return found


def _finish(
    job: Job,
    before: dict[str, Any],
    gathered: dict[str, Any] | None,
    seconds: float,
    worked: float,
) -> dict[str, Any]:
    """Writes what was learnt, reads it back as a user would, and measures that."""
    folder, settings = job.folder, job.settings
    rows = read_journal(folder)
    draw_curves(rows, folder / "loss.png")
    fresh, notes = _write(job, gathered)
    seen = _measured(fresh, job.sources, settings)
    results = {
        "folder": str(folder),
        "steps": job.total,
        "seconds": round(seconds, 1),
        "processor_seconds": round(worked, 1),
        "before": before.get("figures", {}),
        "after": {name: measure.figures(found) for name, found in seen.items()},
        "last": rows[-1] if rows else {},
    }
    results |= {key: notes[key] for key in ("share", "aside") if key in notes}
    for name, found in list(seen.items())[:1]:
        measure.draw_comparison(_old(folder, name, found), found, folder / "qualitative.png")
    if settings.merge:
        merge_adapter(fresh)
        save_model(fresh, folder / "merged")
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def _write(job: Job, gathered: dict[str, Any] | None) -> tuple[Sa2VA, dict[str, Any]]:
    """The adapter folder; returns a fresh model with it, the way users will load it, and the adapter's notes."""
    settings, model, trained = job.settings, job.model, job.trainables
    job.learner.close_gate()
    if gathered is not None:  # sharded: put the whole numbers into a model of our own
        model = load_model(settings.model, device="cpu")
        trained = prepare(model, settings.train)
        prefix = "model."
        state_dict = {
            k.removeprefix(prefix): v for k, v in gathered.items() if k.startswith(prefix)
        }
        model.load_state_dict(state_dict, strict=False)
    device = job.accelerator.device
    fresh = load_model(settings.model, device="cpu" if device.type == "cpu" else str(device))
    notes = {"data": [source.name for source in job.sources], "steps": job.total}
    notes |= _weighed(job, model, trained, fresh)
    adapter = job.folder / "adapter"
    save_adapter(model, adapter, base=job.base, parts=trained.parts, peft=trained.peft, notes=notes)
    load_adapter(fresh, adapter)
    return fresh, notes


def _weighed(job: Job, model: Sa2VA, trained: Trainables, before: Sa2VA) -> dict[str, Any]:
    """Goes back as far as too much was forgotten; what was tried on the way."""
    aside = [source.aside for source in job.sources if source.aside is not None]
    if not aside:
        return {}
    line = Line(model, trained.names, before)
    model.eval()

    def worth() -> float:
        model.forget()
        seen = [
            one
            for dataset in aside
            for one in measure.look(model, dataset, len(dataset), seed=job.settings.seed)
        ]
        return measure.figures(seen).get("giou", 0.0)

    line.go(0.0)
    known = worth()
    share, tried = chosen(line, worth, known - job.settings.forget)
    model.forget()
    places = {str(one.share): one.worth for one in (Tried(0.0, known), *tried)}
    return {"share": share, "aside": places}


def _dry(run: Run, job: Job, console: Console | None) -> dict[str, Any]:
    """A few steps, and what they cost."""
    rows = run.rehearse(DRY_STEPS)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    seconds = rows[-1]["seconds"]
    results = {
        "seconds_per_step": seconds,
        "hours": round(seconds * job.total / 3600, 2),
        "peak_memory_gb": round(peak / 1e9, 2),
        "rows": rows,
    }
    if console is not None:
        memory = f", {_gb(peak)} at most" if peak else ""
        console.print(
            f"dry run: {seconds:.2f} s per step{memory}; "
            f"all {job.total} steps would take {results['hours']} h"
        )
    return results
