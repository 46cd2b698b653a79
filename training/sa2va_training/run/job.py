# SPDX-License-Identifier: Apache-2.0
"""What one run consists of: model, data and process, put together as the settings say.

`finetune` takes a job from here and trains it; benchmarks and tests make one of a model of their own. Nothing is
written here, and no forward pass is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import torch
from accelerate import Accelerator

from sa2va_model.checkpoints.load import load_model, suit_threads
from sa2va_model.errors import InputError
from sa2va_model.freed_memory import keep_freed_memory
from sa2va_model.sa2va import Sa2VA
from sa2va_training.batches.asking import Asker
from sa2va_training.batches.collage import Album
from sa2va_training.batches.collate import Collator
from sa2va_training.batches.feeder import Feeder
from sa2va_training.data.held_out import all_pictures
from sa2va_training.data.mixture import Mixture, repeats_for_shares
from sa2va_training.data.sample import Dataset
from sa2va_training.data.sources import Chosen, Source, by_task, open_sources, set_aside
from sa2va_training.families import family_of
from sa2va_training.objectives.learner import Before, Learner
from sa2va_training.objectives.memory import MemoryLearner
from sa2va_training.objectives.names import vocabulary
from sa2va_training.run.seg import with_seg
from sa2va_training.run.settings import Settings
from sa2va_training.run.trainables import Trainables, prepare


@dataclass
class Job:
    """Everything one run consists of, ready to train.

    Attributes:
        sources: what it learns from and is measured on.
        base: fingerprint of the model before training.
        total: optimiser steps.
    """

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


def load_base(settings: Settings, accelerator: Accelerator) -> Sa2VA:
    """The model that is to be trained, on the device of this process.

    Args:
        settings: with a precision that is decided.

    Raises:
        InputError: the checkpoint cannot be loaded.
    """
    device = accelerator.device
    name = "cpu" if device.type == "cpu" else str(device)
    bits = settings.train.bits or None
    model = load_model(settings.model, device=name, profile="reference", bits=bits)
    with_seg(model, settings.train.seg, settings.batches.frames)
    model.vocabulary = None  # what it is taught next is not on the list
    if settings.precision == "fp32":
        model.float()
    suit_threads(model)
    if device.type == "cpu":
        keep_freed_memory()
        cv2.setNumThreads(torch.get_num_threads())
    return model


def resolved(settings: Settings, model: Sa2VA) -> Settings:
    """The settings with what they leave to the model.

    Raises:
        InputError: memory is to be trained on single frames.
    """
    frames = settings.batches.frames or model.config.keyframes
    if settings.train.mode == "memory" and frames < 2:
        raise InputError(
            f"batches.frames is {frames}; expected 2 or more to train memory (memory.yaml has 6)"
        )
    return replace(settings, batches=replace(settings.batches, frames=frames))


def open_all(settings: Settings, overfit: int = 0) -> list[Source]:
    """Training data, and what is rehearsed beside it.

    Args:
        settings: resolved.
        overfit: only so many samples of the first dataset, to train and to measure on; 0 = everything.

    Raises:
        InputError: no data is named, or some of it cannot be opened.
    """
    stills, share = settings.batches.frames == 1, settings.batches.held_out
    sources = open_sources(settings.data, held_out=share, stills=stills)
    if settings.rehearsal is not None:
        known = open_sources(settings.rehearsal, held_out=share, stills=stills)
        known = [replace(source, rehearsed=True) for source in known]
        sources += [set_aside(source, settings.aside) for source in known]
    if settings.validation is not None:
        given = open_sources(settings.validation, held_out=0.0, stills=True)
        for n, source in enumerate(given[: len(sources)]):
            held = all_pictures(source.train)
            sources[n] = replace(sources[n], validation=source.train, root=source.root, held=held)
    if overfit:
        few = Chosen(sources[0].train, range(min(overfit, len(sources[0].train))))
        return [Source(few, few)]
    return sources


def make_job(
    settings: Settings, accelerator: Accelerator, model: Sa2VA, base: str, sources: list[Source]
) -> Job:
    """Puts model, data and process together.

    Args:
        settings: resolved.
        model: as loaded; LoRA is put into it, and what is not trained is frozen.
        base: its fingerprint, taken before.

    Raises:
        InputError: the model's family cannot be trained, a dataset is empty, or an answer has no single `[SEG]`.
    """
    batches = settings.batches
    torch.manual_seed(settings.seed)  # LoRA starts at random
    trained, repeats, rehearsed = weighted(sources, batches.talk)
    before = Before(model) if settings.loss.keep and rehearsed else None
    trainables = prepare(model, settings.train)
    learner = _learner(settings, model, trained, before)
    parallel = batches.batch * accelerator.num_processes
    mixture = Mixture(trained, parallel, repeats=repeats, seed=settings.seed)
    feeder = _feeder(settings, learner, mixture, accelerator.process_index, rehearsed)
    whole = settings.epochs * mixture.batches_per_epoch / batches.accumulate
    total = settings.steps or max(1, round(whole))
    return Job(settings, accelerator, model, trainables, learner, feeder, sources, base, total)


def _learner(
    settings: Settings, model: Sa2VA, datasets: Sequence[Dataset], before: Before | None
) -> Learner:
    """The learner of this mode; only one of the language half reads names."""
    family = family_of(model.mllm)
    for name, value in (
        ("loss.names", settings.loss.names),
        ("batches.naming", settings.batches.naming),
    ):
        if value and not family.regions:
            raise InputError(
                f"{name} is {value}; expected 0 for the {type(model.mllm).__name__} family, which has no regions"
            )
    kind = MemoryLearner if settings.train.mode == "memory" else Learner
    cache = int(settings.batches.cache_gb * 2**30)
    words = vocabulary(datasets) if settings.loss.names and kind is Learner else ()
    return kind(model, settings.train, settings.loss, cache=cache, before=before, words=words)


def _feeder(
    settings: Settings, learner: Learner, mixture: Mixture, rank: int, rehearsed: set[int]
) -> Feeder:
    """What asks about the samples of a mixture and makes batches of them for one process."""
    batches = settings.batches
    words = learner.names.words if learner.names is not None else ()
    asker = Asker(
        learner.model.config,
        batches,
        settings.seed,
        scored=learner.loss.score > 0,
        window=settings.train.mode == "memory",
        album=Album(mixture.datasets) if batches.collage else None,
        things=bool(words),
    )
    collator = Collator(
        learner.mllm,
        mask_target=settings.loss.target,
        max_tokens=batches.max_tokens,
        words=words,
    )
    return Feeder(
        mixture,
        asker,
        collator,
        batch=batches.batch,
        accumulate=batches.accumulate,
        seed=settings.seed,
        rank=rank,
        workers=batches.workers,
        rehearsed=rehearsed,
    )


def weighted(
    sources: Sequence[Source], talk: float
) -> tuple[list[Dataset], tuple[float, ...], set[int]]:
    """The datasets of a mixture. The weight of the first source is 1 where only the others have one.

    Args:
        talk: share of words (questions and captions) where a source has masks beside them; 0 = none.

    Returns:
        datasets of one task each, how often each of them counts in an epoch, and which are rehearsed.

    Raises:
        InputError: a weight is not above 0.
    """
    datasets: list[Dataset] = []
    rehearsed: set[int] = set()
    shares: list[float] = []
    given = any(source.weight is not None for source in sources)
    for source in sources:
        weight = source.weight or (1.0 if given else source.repeats * len(source.train))
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
        return datasets, tuple(source.repeats for source in sources), rehearsed
    repeats = repeats_for_shares(shares, [len(dataset) for dataset in datasets])
    return datasets, repeats, rehearsed
