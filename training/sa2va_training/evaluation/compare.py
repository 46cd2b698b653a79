# SPDX-License-Identifier: Apache-2.0
"""Two models on the same questions: paired bootstrap, wins and losses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_training.evaluation.facts import score_of

Json = dict[str, Any]
_SAME = 0.01
"""Scores that differ by less are a draw."""
ROUNDS = 10_000


@dataclass(frozen=True)
class Pair:
    """A question that both were asked."""

    record: Json
    first: float
    second: float

    @property
    def gain(self) -> float:
        """Of the second over the first."""
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """One task.

    Attributes:
        first, second: mean scores; low, high: of the difference, 95 % of bootstrap samples lie between them.
        won, lost: questions on which the second is better, worse; the rest are draws.
        pairs: by gain, losses first.
    """

    task: str
    first: float
    second: float
    low: float
    high: float
    won: int
    lost: int
    pairs: tuple[Pair, ...]

    @property
    def sure(self) -> bool:
        """The interval of the difference leaves out 0."""
        return self.low > 0 or self.high < 0


def read_records(folder: Path) -> tuple[Json, dict[str, Json]]:
    """The head and the records, by task and id, of an evaluation's folder; all shards together.

    Raises:
        InputError: it holds no evaluation.
    """
    files = sorted(folder.glob("records*.jsonl"))
    if not files:
        raise InputError(f"{folder}: no records.jsonl in it; expected a folder of sa2va evaluate")
    head: Json = {}
    out: dict[str, Json] = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            value = json.loads(line)
            if "head" in value:
                head = value["head"]
            elif "task" in value:
                out[f"{value['task']}|{value['id']}"] = value
    return head, out


def compare(first: Path, second: Path, *, seed: int = 0) -> list[Comparison]:
    """Compare two evaluations of one dataset.

    Raises:
        InputError: a folder holds no evaluation, or they have no question in common.
    """
    (_, ours), (_, theirs) = read_records(first), read_records(second)
    by_task: dict[str, list[Pair]] = {}
    for key, record in ours.items():
        other = theirs.get(key)
        one, two = score_of(record), None if other is None else score_of(other)
        if one is None or two is None or other is None:
            continue
        if record["asked"] != other["asked"]:
            raise InputError(
                f"{first} and {second}: {record['id']} asks {record['asked']!r} and {other['asked']!r}; "
                "expected evaluations of one dataset"
            )
        by_task.setdefault(record["task"], []).append(Pair(record, one, two))
    if not by_task:
        raise InputError(f"{first} and {second}: no question in common that has a score")
    return [_compared(task, pairs, seed) for task, pairs in by_task.items()]


def _compared(task: str, pairs: Sequence[Pair], seed: int) -> Comparison:
    gains = np.array([pair.gain for pair in pairs])
    low, high = bootstrap(gains, seed=seed)
    return Comparison(
        task,
        float(np.mean([pair.first for pair in pairs])),
        float(np.mean([pair.second for pair in pairs])),
        low,
        high,
        int((gains > _SAME).sum()),
        int((gains < -_SAME).sum()),
        tuple(sorted(pairs, key=lambda pair: pair.gain)),
    )


def bootstrap(gains: np.ndarray, *, rounds: int = ROUNDS, seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of the mean of float [N] over samples drawn with replacement."""
    rng = np.random.default_rng(seed)
    block = max(1, min(rounds, 10_000_000 // max(len(gains), 1)))
    means: list[np.ndarray] = []
    for begin in range(0, rounds, block):
        drawn = rng.integers(len(gains), size=(min(block, rounds - begin), len(gains)))
        means.append(gains[drawn].mean(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)
