# SPDX-License-Identifier: Apache-2.0
"""Every number of a training run: what it means, its default and what it may be.

Defaults fine-tune a model of 1B to 4B parameters on one GPU with 24 GB. `settings_files.py` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sa2va_model.config.model import SEG_MODES
from sa2va_model.errors import InputError
from sa2va_training.objectives.losses import MaskLossSettings

MODES = ("lora", "full", "decoder", "memory")
TRACKERS = ("tensorboard", "wandb", "mlflow")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class PartSettings:
    """What is trained. The published recipe (Table 5 of the paper) is the default.

    Attributes:
        mode: "lora" = LoRA on the language model; "full" = all of its weights and the vision model's; "memory" = only
            what SAM-2 tracks with, on clips; "decoder" = the language model stays as it is, SAM-2's mask decoder and
            `text_hidden_fcs` learn.
        rank, alpha, dropout, targets: of LoRA; `targets` as `peft` takes them.
        memory_dropout: of SAM-2's memory attention in mode "memory"; 0 for a small model.
        embeddings: "none", "special" (only the rows of [SEG], <p>, </p>, <vp>, </vp>) or "all" (the whole table and
            the output layer, as published; they stay tied where they are).
        text_hidden, projector, decoder: train `text_hidden_fcs`, `mlp1`, SAM-2's mask decoder.
        vision: also the vision model. Always in mode "full".
        patches: where the vision model learns, also what makes patches of pixels: a patch embedding, or the
            convolutions in its place. Where it stays, it has no backward pass: a third of a step of the small model.
        encoder: also SAM-2's image encoder (published: never).
        bits: 4 or 8 = the language model's blocks are quantised and stay so, LoRA learns beside them (QLoRA, NF4 with
            double quantisation; arXiv 2305.14314); 0 = they are not.
        seg: how keyframes are prompted, as `ModelConfig.seg` ("single", "repetitive" or "unique"); "" = as the model
            was made. Another one changes the model that the run begins with, so its adapter fits no other: use
            `merged/`.
        checkpointing: recompute activations of the language model backwards, which saves memory.
    """

    mode: str = "lora"
    rank: int = 32
    alpha: int = 64
    dropout: float = 0.05
    targets: str = "all-linear"
    memory_dropout: float = 0.1
    embeddings: str = "none"
    text_hidden: bool = True
    projector: bool = True
    decoder: bool = True
    vision: bool = False
    patches: bool = True
    encoder: bool = False
    bits: int = 0
    seg: str = ""
    checkpointing: bool = True

    def __post_init__(self) -> None:
        _one_of("train.mode", self.mode, MODES)
        if self.bits not in (0, 4, 8):
            raise InputError(f"train.bits is {self.bits}; expected 4, 8 or 0")
        if self.bits and self.mode not in ("lora", "decoder"):
            raise InputError(
                f"train.bits is {self.bits} in mode {self.mode}; expected lora or decoder"
            )
        _one_of("train.seg", self.seg, ("", *SEG_MODES))
        if self.seg not in ("", "single") and self.mode == "memory":
            raise InputError(f"train.seg is {self.seg!r} in mode memory; expected single")
        _one_of("train.embeddings", self.embeddings, ("none", "special", "all"))
        _between("train.rank", self.rank, 1, 4096)
        for name in ("dropout", "memory_dropout"):
            _share(f"train.{name}", getattr(self, name))


@dataclass(frozen=True)
class OptimiserSettings:
    """AdamW and its schedule: linear warm-up, then cosine.

    Attributes:
        rate: peak learning rate of the language model.
        heads, decoder, encoder: factors on it for `text_hidden_fcs` and `mlp1`, for SAM-2, and for its image encoder
            where that is trained.
        warmup: share of all steps; floor: where the cosine ends, as a share of the peak.
        clip: largest norm of all gradients together.
    """

    rate: float = 1e-4
    heads: float = 1.0
    decoder: float = 0.3
    encoder: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.05
    warmup: float = 0.05
    floor: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        _above("optimiser.rate", self.rate, 0)
        _above("optimiser.clip", self.clip, 0)
        _share("optimiser.warmup", self.warmup)
        _between("optimiser.floor", self.floor, 0, 1)
        for name in ("heads", "decoder", "encoder", "decay"):
            _between(f"optimiser.{name}", getattr(self, name), 0, 1e6)
        if len(self.betas) != 2:
            raise InputError(f"optimiser.betas is {self.betas}; expected two shares")
        for beta in self.betas:
            _share("optimiser.betas", beta)


@dataclass(frozen=True)
class LossSettings(MaskLossSettings):
    """Weights. `mask`, `dice` and the points are the published ones.

    Attributes:
        text: of the mean cross entropy of answer tokens.
        decision: how many tokens the first one of an answer counts as; it says whether the thing is there at all.
        score, quality: of the object score and the predicted IoU; -1 = 0.3 and 0.2 where the run time relies on them
            (`object_score_gate`), else 0 as published.
        keep: of the squared distance, as a share, between the `[SEG]` codes of rehearsed pictures and those that the
            model gave before; against forgetting. Needs the memory of a second language half.
        names: of the words of every object's name, read off its visual tokens by a layer of its own, which is dropped
            afterwards; for new shapes. Only folders that name their `objects` have them.
        gaze: of where a few attention heads look when `[SEG]` is said, against the thing's place; for the tiny model
            that ships, whose heads were trained to look. Needs `batches.layout: branches`, a Qwen2, and
            its weights whole on every process.
        target: true masks at the size of the logits: "area" (share of the cell) or "nearest" (published).
    """

    text: float = 1.0
    decision: float = 1.0
    score: float = -1.0
    quality: float = -1.0
    keep: float = 0.0
    names: float = 0.0
    gaze: float = 0.0
    target: str = "area"

    def __post_init__(self) -> None:
        _one_of("loss.target", self.target, ("area", "nearest"))
        for name in ("mask", "dice", "text", "decision", "keep", "names", "gaze"):
            _between(f"loss.{name}", getattr(self, name), 0, 1e6)
        for name in ("score", "quality"):
            _between(f"loss.{name}", getattr(self, name), -1, 1e6)
        _between("loss.points", self.points, 0, 2**20)
        _between("loss.oversample", self.oversample, 1, 100)
        _between("loss.importance", self.importance, 0, 1)


@dataclass(frozen=True)
class DataSettings:
    """How samples become batches.

    Attributes:
        batch: samples per process and forward pass; accumulate: forward passes per step.
        step: samples of a step, over all processes; `accumulate` follows from it. 0 = `accumulate` says.
        frames: of a clip that are shown at once (published: 5); 1 = clips are used as single images; 0 = as many as the
            model is shown at run time (`keyframes`).
        alone: share of the draws of a clip that show one frame of it, as a robot is asked (published: 0). What is
            hidden for a while is rarely hidden on several frames at once, and would hardly ever be denied.
        expressions: of a sample that are used at once (published: 5).
        talk: share of the draws that are questions and captions, where a dataset has them beside expressions; 0 = none.
        layout: "branches" = questions about one picture do not see each other; "conversation" = one after the other,
            as published.
        answers: what is answered when it is found; "" = the first one the model was trained with.
        absent: what is answered when it is not there; "" = the model's own sentence.
        augment: "none", "light" or "strong" disturbance of the pictures.
        collage: share of the pictures into which named objects of other pictures are glued; questions are then
            written from the names. For little data; only folders that name their `objects` have them.
        denied: share of the questions about a collage that nothing in it answers.
        near: share of those that something in it nearly answers: all of their words but one are in its name.
        naming: share of the draws that ask for the names of such objects, as regions.
        variants: every picture is disturbed in so many fixed ways, so that features of frozen encoders can be kept;
            0 = anew every time.
        cache_gb: memory for such features; 0 = never keep any.
        stride: largest distance between neighbouring frames of a clip in mode "memory".
        held_out: share of the samples kept for measuring, where the data has no `val` split of its own.
        workers: threads that prepare batches.
    """

    batch: int = 1
    accumulate: int = 8
    step: int = 0
    frames: int = 0
    alone: float = 0.5
    expressions: int = 5
    talk: float = 0.2
    layout: str = "branches"
    answers: tuple[str, ...] = ("",)
    absent: str = ""
    augment: str = "light"
    collage: float = 0.0
    denied: float = 0.25
    near: float = 0.0
    naming: float = 0.0
    variants: int = 4
    cache_gb: float = 4.0
    stride: int = 3
    held_out: float = 0.1
    max_tokens: int = 8192
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("batch", "accumulate", "expressions", "stride", "max_tokens"):
            _between(f"batches.{name}", getattr(self, name), 1, 2**20)
        limits = (("frames", 1024), ("step", 2**20), ("variants", 2**20), ("workers", 256))
        for name, most in limits:
            _between(f"batches.{name}", getattr(self, name), 0, most)
        _between("batches.cache_gb", self.cache_gb, 0, 1e6)
        _one_of("batches.layout", self.layout, ("branches", "conversation"))
        _one_of("batches.augment", self.augment, ("none", "light", "strong"))
        for name in ("alone", "talk", "collage", "denied", "near", "naming", "held_out"):
            _share(f"batches.{name}", getattr(self, name))


@dataclass(frozen=True)
class Settings:
    """One run.

    Attributes:
        data: a dataset folder or YAML file, or a list of them; entries of a list may be mappings with `root` (or
            `data`), `format`, `weight` and whatever the format takes.
        validation: what before and after are measured on, in the order of `data` and `rehearsal`; default: the `val`
            split, else a share held out.
        rehearsal: what the model must not forget; drawn with this weight against `data`: {"data": …, "weight": 0.3}.
        aside: share of the rehearsed pictures that is not trained on but chooses how far to go from the weights of
            before to those of after; 0 = all the way. See `sa2va_training.run.blend`.
        forget: how much gIoU may fall on those pictures; below 0 = must rise.
        model: checkpoint folder; null = the tiny model that ships.
        output: the run's folder.
        steps: optimiser steps; 0 = `epochs` times the data.
        precision: "auto" = bf16 on CUDA and on CPUs that multiply it in hardware, else fp32.
        save_every, keep: steps between checkpoints, and how many are kept.
        measure: samples of every dataset that before and after are measured on; 0 = not at all.
        merge: also write the merged checkpoint in the official layout.
        validate_every: steps between measurements on what is held out; the weights of the best one become the adapter;
            0 = never, the last weights do.
        patience: measurements in a row that bring nothing better, after which the run ends; 0 = it goes to the end.
        trackers: where figures and pictures go beside `metrics.jsonl`: some of tensorboard, wandb and mlflow.
    """

    data: Any = None
    validation: Any = None
    rehearsal: Any = None
    aside: float = 0.0
    forget: float = 0.02
    model: str | None = None
    output: str = "runs/finetune"
    steps: int = 1000
    epochs: float = 1.0
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    save_every: int = 100
    keep: int = 2
    measure: int = 100
    merge: bool = True
    validate_every: int = 0
    patience: int = 0
    trackers: tuple[str, ...] = ("tensorboard",)
    train: PartSettings = field(default_factory=PartSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    batches: DataSettings = field(default_factory=DataSettings)

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        _share("aside", self.aside)
        _between("epochs", self.epochs, 0, 1e6)
        _between("forget", self.forget, -1, 1)  # below 0: it must rise
        if self.loss.gaze and self.batches.layout != "branches":
            raise InputError(
                f"loss.gaze is {self.loss.gaze} with batches.layout {self.batches.layout!r}; expected 'branches'"
            )
        for name in ("save_every", "keep"):
            _above(name, getattr(self, name), 0)
        for tracker in self.trackers:
            _one_of("trackers", tracker, TRACKERS)
        if self.validate_every and not self.measure:
            raise InputError("measure is 0 with validate_every; expected samples to measure on")
        if self.patience and not self.validate_every:
            raise InputError(
                f"patience is {self.patience}; expected validate_every above 0 with it"
            )
        if self.steps < 0 or (self.steps == 0 and self.epochs <= 0):
            raise InputError(
                f"steps is {self.steps}, epochs is {self.epochs}; expected one of them above 0"
            )


def stepped(settings: Settings, processes: int) -> Settings:
    """The settings with the `accumulate` that `step` asks for.

    Raises:
        InputError: the processes cannot share a step of that size.
    """
    batches = settings.batches
    if not batches.step:
        return settings
    together = batches.batch * processes
    if batches.step % together:
        raise InputError(
            f"batches.step is {batches.step} for {processes} process(es) of {batches.batch}; expected a multiple of "
            f"{together} (batches.batch=1, or another number of processes)"
        )
    return replace(settings, batches=replace(batches, accumulate=batches.step // together))


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}; expected one of {', '.join(known)}")


def _share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise InputError(f"{name} is {value}; expected 0 <= share < 1")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} is {value}; expected {low:g} to {high:g}")


def _above(name: str, value: float, low: float) -> None:
    if not value > low:
        raise InputError(f"{name} is {value}; expected more than {low}")
