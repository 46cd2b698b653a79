# SPDX-License-Identifier: Apache-2.0
"""What became of a following episode, judged by the simulator's truth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CAUSES = ("not found", "wrong object", "lost", "bad 3D", "error")
WANTED = 0.9  # of the time in view
SETTLED = 6.0  # seconds after which the distance counts
FAR_OFF = 0.35  # metres between believed and true place


@dataclass(frozen=True)
class FollowEpisode:
    """One command and what came of it.

    Attributes:
        success: the target was in view for 90 % of the time.
        in_view: share of the images that show at least half of it.
        distance_error: mean metres off the distance to keep.
        place_error: median metres between believed and true place.
        seen: share of the time for which the follower believed to see it.
    """

    seed: int
    command: str
    success: bool
    cause: str
    detail: str
    believed: str
    in_view: float
    seen: float
    distance_error: float
    nearest: float
    place_error: float
    wrong: float
    seconds: float


def judge(
    started: dict[str, Any],
    result: dict[str, Any] | None,
    truth: dict[str, Any],
    distance: float,
    seconds: float,
) -> FollowEpisode:
    """Judge one episode.

    Args:
        started: the simulator's answer to `next_episode`; `truth`: that to `score`.
        result: the follower's, or None if it said nothing in time.
        distance: that was to be kept, metres.
        seconds: simulated, from the command to the result.
    """
    said = result or {"outcome": "none", "cause": "error", "detail": "no result in time"}
    times, distances = np.asarray(truth["time"]), np.asarray(truth["distance"])
    in_view = float(np.mean(truth["in_view"])) if len(times) else math.nan
    settled = distances[times > SETTLED]
    place_error, wrong = _believed(said, truth)
    success = said["outcome"] == "followed" and in_view >= WANTED
    cause, detail = ("", "") if success else _cause(said, in_view, place_error, wrong)
    return FollowEpisode(
        seed=int(started["seed"]),
        command=str(started["expression"]),
        success=success,
        cause=cause,
        detail=detail,
        believed=str(said["outcome"]),
        in_view=in_view,
        seen=float(said.get("seen", 0.0)),
        distance_error=float(np.abs(settled - distance).mean()) if len(settled) else math.nan,
        nearest=float(distances.min()) if len(times) else math.nan,
        place_error=place_error,
        wrong=wrong,
        seconds=seconds,
    )


def _believed(said: dict[str, Any], truth: dict[str, Any]) -> tuple[float, float]:
    """Median error of the believed places, and the share of them that are nearer to another object."""
    places = np.asarray(said.get("places") or []).reshape(-1, 3)
    times, path = np.asarray(truth["stamp"]), np.asarray(truth["path"]).reshape(-1, 2)
    if not len(places) or not len(times):
        return math.nan, math.nan
    true = np.stack([np.interp(places[:, 0], times, path[:, k]) for k in range(2)], 1)
    errors = np.hypot(*(places[:, 1:] - true).T)
    others = np.asarray(truth["others"]).reshape(-1, 2)
    nearest = np.hypot(*np.moveaxis(places[:, None, 1:] - others[None], -1, 0)).min(1)
    return float(np.median(errors)), float(np.mean((nearest < errors) & (errors > FAR_OFF)))


def _cause(
    said: dict[str, Any], in_view: float, place_error: float, wrong: float
) -> tuple[str, str]:
    if said["outcome"] in ("refused", "none"):
        return str(said["cause"]), str(said["detail"])
    share = f"in view for {in_view:.0%} of the time"
    if wrong > 0.3:
        return "wrong object", share
    if said["outcome"] == "lost":
        return "lost", f"{share}, {said['detail']}"
    if place_error > FAR_OFF and float(said.get("seen", 0.0)) > 0.5:
        return "bad 3D", f"{share}, believed {place_error:.2f} m beside it"
    return "lost", share


def summarise(episodes: Sequence[FollowEpisode]) -> dict[str, Any]:
    """Means over the episodes, and failures by cause."""
    count = len(episodes)
    causes = Counter(episode.cause for episode in episodes if episode.cause)

    def mean(name: str) -> float:
        values = [getattr(e, name) for e in episodes if not math.isnan(getattr(e, name))]
        return float(np.mean(values)) if values else math.nan

    return {
        "episodes": count,
        "in_view": mean("in_view"),
        "success_rate": sum(e.success for e in episodes) / count if count else math.nan,
        "distance_error": mean("distance_error"),
        "place_error": mean("place_error"),
        "failures": {cause: causes[cause] for cause in CAUSES if causes[cause]},
    }
