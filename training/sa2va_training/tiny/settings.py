# SPDX-License-Identifier: Apache-2.0
"""The recipe: every number of every stage, by name; `key=value` on the command line overrides any of them.

Rates were found the hard way: a trained half that is started again at 6e-4 loses in a minute what it takes minutes to
regain; 2.5e-4 keeps it, and most of every gain comes while the rate falls.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sa2va_model.errors import InputError


@dataclass(frozen=True)
class StageSettings:
    """One stage of training.

    Attributes:
        kind: what is minimised; a key of `loop.STAGES`.
        shares: kinds of pictures and how often each is drawn.
        start: checkpoints to start from, each as "run:half", half being "sam", "words" or "all".
        images, each: pictures of a step, and expressions of each.
        none_share: how many expressions mean nothing that is there.
        rate: peak learning rate; `slow` scales it for parts that start trained (see `loop.parameter_groups`).
        minutes: wall-clock budget; the cosine schedule ends with it. 0 = `steps` counts.
        averaged: share of the budget, at its end, of whose weights the mean is kept beside the last ones; what starts
            from the run or exports it takes the mean.
        settle: steps in which only the aids move, for models whose aids are new (`revival.py`).
        threads: of each process. As many processes as `torchrun` starts share the work, each with `images` pictures a
            step.
        device: that the stage runs on: "cpu", "cuda" or "cuda:N".
        feeders: processes that make batches ahead; 0 = the training process makes them itself.
        look: evaluate every so many minutes; with `steps` only at the end.
        held: pictures or clips of each held-out shard that are looked at.
        spoken: the memory stage prompts with the model's own words; False = with teacher codes, so that it can run
            before the language half is there.
        like: folder of an exported model whose visual tokens `sight` also imitates, so that a language model that
            reads them can go on from where it is when the ViT or its stem is built anew.
        still: halves (see `loop.HALVES`) that do not move: without the stem a step of `words` takes two thirds.
        talk: share of the steps of `words` that are about questions, captions and regions instead of expressions.
        listing: share of these that are about captions and regions; the others ask for colours, counts and which one.
        masks: weight, in `words`, of the masks that the decoder draws from what is said; above 0 it is trained as well.
        codes: weight there of the distance to teacher codes, which masks make dispensable.
    """

    name: str
    kind: str
    shares: dict[str, float] = field(default_factory=lambda: {"flat": 1.0})
    start: tuple[str, ...] = ()
    images: int = 4
    each: int = 6
    none_share: float = 0.2
    rate: float = 6e-4
    slow: float = 1.0
    decay: float = 0.05
    warmup: float = 0.03
    floor: float = 0.03
    minutes: float = 0.0
    steps: int = 0
    look: float = 3.0
    held: int = 100
    settle: int = 0
    averaged: float = 0.0
    seed: int = 1
    threads: int = 1
    device: str = "cpu"
    feeders: int = 0
    spoken: bool = True
    like: str = ""
    talk: float = 0.35
    listing: float = 0.6
    masks: float = 0.0
    codes: float = 0.5
    still: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.minutes > 0) == (self.steps > 0):
            raise InputError(
                f"{self.name}: minutes is {self.minutes}, steps is {self.steps}; expected exactly one above 0"
            )
        if self.like and self.kind != "sight":
            raise InputError(
                f"{self.name}: like is {self.like!r}; expected a stage of kind 'sight', "
                f"as only that imitates a model, not {self.kind!r}"
            )
        if self.masks and self.kind != "words":
            raise InputError(
                f"{self.name}: masks is {self.masks}; expected 0 for a stage of kind {self.kind!r}, "
                f"as only 'words' weighs them"
            )
        for share in ("none_share", "averaged"):
            if not 0 <= getattr(self, share) < 1:
                raise InputError(
                    f"{self.name}: {share} is {getattr(self, share)}; expected 0 <= share < 1"
                )


_BOTH = {"flat": 0.4, "sim": 0.6}

RECIPE: dict[str, StageSettings] = {
    stage.name: stage
    for stage in (
        # The two halves know nothing of each other and can be trained at the same time, each on a core.
        StageSettings("sam", "sam", _BOTH, images=6, each=4, rate=5e-4, minutes=40, look=5),
        StageSettings("stem", "stem", _BOTH, images=64, each=1, rate=1e-3, minutes=22, seed=7),
        StageSettings(
            "sight",
            "sight",
            _BOTH,
            start=("stem:stem",),
            images=16,
            rate=1e-3,
            warmup=0.08,
            minutes=20,
            seed=5,
        ),
        # First read an encoder that stands still: twice the sentences in the same time …
        StageSettings(
            "words",
            "words",
            _BOTH,
            start=("sight:sight",),
            images=6,
            each=5,
            none_share=0.28,
            rate=8e-4,
            slow=0.0,
            minutes=34,
            look=7,
            seed=2,
        ),
        # … then let it move.
        StageSettings(
            "polish",
            "words",
            {"flat": 0.3, "sim": 0.7},
            start=("words:words",),
            images=6,
            each=5,
            none_share=0.28,
            rate=3e-4,
            minutes=36,
            look=9,
            seed=6,
        ),
        # From teacher codes, so that it can be trained beside the language half.
        StageSettings(
            "memory",
            "memory",
            {"flat-clips": 0.5, "sim-clips": 0.5},
            start=("sam:sam",),
            images=2,
            each=3,
            rate=8e-4,
            slow=0.25,
            minutes=60,
            look=15,
            held=24,
            seed=4,
            spoken=False,
        ),
        # The decoder learns to read what the language half really says, and memory what the decoder really draws.
        StageSettings(
            "together",
            "together",
            {"flat": 0.3, "sim": 0.7, "flat-clips": 0.5, "sim-clips": 0.5},
            start=("memory:sam", "polish:words"),
            images=2,
            each=3,
            none_share=0.28,
            rate=5e-4,
            slow=0.4,
            minutes=35,
            look=12,
            held=24,
            seed=8,
        ),
    )
}


def stage_settings(name: str, overrides: Sequence[str] = ()) -> StageSettings:
    """A stage of the recipe with `key=value` overrides.

    Raises:
        InputError: an unknown stage or key (with the nearest known one), or a value of the wrong type.
    """
    if name not in RECIPE:
        raise InputError(f"stage is {name!r}; expected one of {', '.join(RECIPE)}")
    changes: dict[str, Any] = {}
    known = {f.name: getattr(RECIPE[name], f.name) for f in fields(StageSettings)}
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"override {item!r}: expected key=value; {hint}")
        changes[key] = _parsed(key, text, known[key])
    if changes.get("steps"):
        changes.setdefault("minutes", 0.0)
    return replace(RECIPE[name], **changes)


def _parsed(key: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, dict):
            pairs = (part.split(":") for part in text.split(",") if part)
            return {kind: float(share) for kind, share in pairs}
        if isinstance(default, tuple):
            return tuple(part for part in text.split(",") if part)
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(default)(text)
    except (ValueError, KeyError) as error:
        raise InputError(f"override {key}={text!r}: expected a {type(default).__name__}") from error
