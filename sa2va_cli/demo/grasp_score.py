# SPDX-License-Identifier: Apache-2.0
"""What became of a grasping episode, judged by the simulator's truth and not by what the robot believes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CAUSES = (
    "not found",
    "unsure",
    "wrong object",
    "lost",
    "bad 3D",
    "no room",
    "slipped",
    "error",
)
NEAR = 0.03  # metres between planned and true place; farther is bad 3D, not a slip


@dataclass(frozen=True)
class GraspEpisode:
    """One command and what came of it.

    Attributes:
        success: the object that was meant, and nothing else, is over 5 cm up and between both fingers.
        cause: of a failure, one of CAUSES; "" of a success.
        believed: what the robot said: held, refused, failed or none (no answer).
        closed: the fingers closed on something, or where something was thought to be.
        seconds: from the command to the result, simulated.
        grasp_error: metres in the plane from the planned grasp to the object's place; NaN without a plan.
    """

    seed: int
    command: str
    kind: str
    shape: str
    objects: int
    success: bool
    cause: str
    detail: str
    believed: str
    closed: bool
    score: float
    attempts: int
    seconds: float
    grasp_error: float
    stages: dict[str, float]


def judge(
    started: dict[str, Any], result: dict[str, Any] | None, truth: dict[str, Any], seconds: float
) -> GraspEpisode:
    """Judge one episode.

    Args:
        started: the simulator's answer to `next_episode`.
        result: the picker's, or None if it said nothing in time.
        truth: the simulator's answer to `score`.
    """
    target = int(truth["target"])
    said = result or {"outcome": "none", "cause": "error", "detail": "no result in time"}
    wrong = sorted({*truth["gripped"], *truth["lifted"]} - {target})
    success = truth["lifted"] == [target] and target in truth["held"] and not wrong
    error = _grasp_error(said, truth, target)
    name = str(started["objects"][target])
    cause, detail = ("", "") if success else _cause(said, truth, target, wrong, error)
    return GraspEpisode(
        seed=int(started["seed"]),
        command=str(started["expression"]),
        kind=str(started["kind"]),
        shape=name.split()[-1],
        objects=len(started["objects"]),
        success=success,
        cause=cause,
        detail=detail,
        believed=str(said["outcome"]),
        closed=said["outcome"] in ("held", "failed"),
        score=float(said.get("score", 0.0)),
        attempts=int(said.get("attempts", 0)),
        seconds=seconds,
        grasp_error=error,
        stages=dict(said.get("seconds", {})),
    )


def _grasp_error(said: dict[str, Any], truth: dict[str, Any], target: int) -> float:
    grasp = said.get("grasp") or ()
    if len(grasp) < 2:
        return math.nan
    return float(np.hypot(*np.subtract(grasp[:2], truth["began"][target][:2])))


def _cause(
    said: dict[str, Any], truth: dict[str, Any], target: int, wrong: list[int], error: float
) -> tuple[str, str]:
    if wrong:
        return "wrong object", f"gripped object {wrong[0] + 1}, meant was {target + 1}"
    if said["outcome"] in ("refused", "none"):
        return str(said["cause"]), str(said["detail"])
    if _aimed_at(said, truth) not in (None, target):
        return "wrong object", "the fingers closed at another object"
    if error > NEAR:
        return "bad 3D", f"the plan was {error * 100:.1f} cm beside the object"
    return "slipped", str(said["detail"]) or f"rose by {truth['rise'][target] * 100:.1f} cm"


def _aimed_at(said: dict[str, Any], truth: dict[str, Any]) -> int | None:
    """The object nearest to the planned grasp, if it is near."""
    grasp = said.get("grasp") or ()
    if len(grasp) < 2:
        return None
    gaps = np.hypot(*(np.asarray(truth["began"])[:, :2] - grasp[:2]).T)
    nearest = int(gaps.argmin())
    return nearest if gaps[nearest] < 0.06 else None


def summarise(episodes: Sequence[GraspEpisode]) -> dict[str, Any]:
    """Rates, times and causes; rates with their 95 % intervals (Wilson 1927)."""
    count = len(episodes)
    won = sum(episode.success for episode in episodes)
    wrong = sum(episode.cause == "wrong object" for episode in episodes)
    spent = [episode.seconds for episode in episodes if episode.success]
    errors = [e.grasp_error for e in episodes if not math.isnan(e.grasp_error)]
    causes = Counter(episode.cause for episode in episodes if episode.cause)
    return {
        "episodes": count,
        "success_rate": won / count if count else math.nan,
        "success_interval": wilson(won, count),
        "wrong_object_rate": wrong / count if count else math.nan,
        "wrong_object_interval": wilson(wrong, count),
        "refused_rate": sum(not e.closed for e in episodes) / count if count else math.nan,
        "failures": {cause: causes[cause] for cause in CAUSES if causes[cause]},
        "seconds_p50": float(np.median(spent)) if spent else math.nan,
        "seconds_p95": float(np.percentile(spent, 95)) if spent else math.nan,
        "grasp_error_p50": float(np.median(errors)) if errors else math.nan,
        "by_shape": _shares(episodes, [episode.shape for episode in episodes]),
        "by_kind": _shares(episodes, [episode.kind for episode in episodes]),
    }


def _shares(episodes: Sequence[GraspEpisode], keys: Sequence[str]) -> dict[str, str]:
    """Successes of all, by some key."""
    totals, won = (
        Counter(keys),
        Counter(k for k, e in zip(keys, episodes, strict=True) if e.success),
    )
    return {key: f"{won[key]}/{totals[key]}" for key in sorted(totals)}


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a rate."""
    if not count:
        return math.nan, math.nan
    z, rate = 1.96, hits / count
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)
