# SPDX-License-Identifier: Apache-2.0
"""The counting behind the hard set's figures, on clips short enough to count by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "hard_set" / "events.py"


@pytest.fixture(scope="module")
def events() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hard_set_events", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hard_set_events"] = module
    spec.loader.exec_module(module)
    return module


def told(events: ModuleType, masks: str, said: list[tuple[int, str]]) -> object:
    """Masks: # on the target, x elsewhere, . none."""
    return events.Told([m != "." for m in masks], [m == "#" for m in masks], said)


def figures(
    events: ModuleType, there: str, masks: str, said: list[tuple[int, str]]
) -> dict[str, float]:
    tally = events.EventTally()
    visible = np.array([1.0 if v == "#" else 0.0 for v in there])
    tally.add(visible, told(events, masks, said), rate=10.0, lost_after=1.0)
    found: dict[str, float] = tally.figures()
    return found


def test_lost_and_found_in_time(events: ModuleType) -> None:
    there = "#" * 10 + "." * 20 + "#" * 20
    masks = "#" * 10 + "." * 25 + "#" * 15
    got = figures(events, there, masks, [(11, "OCCLUDED"), (21, "LOST"), (35, "REACQUIRED")])
    assert got["returning found within 1 s"] == 1.0
    assert got["median delay s"] == pytest.approx(0.5)
    assert (got["LOST recall"], got["LOST precision"], got["false REACQUIRED"]) == (1.0, 1.0, 0.0)
    assert got["visible and shown"] == pytest.approx(24 / 29)
    assert got["gone and hidden"] == 1.0


def test_found_too_late_and_on_the_wrong_object(events: ModuleType) -> None:
    there = "#" * 10 + "." * 20 + "#" * 30
    masks = "#" * 10 + "." * 12 + "x" * 20 + "#" * 18
    got = figures(events, there, masks, [(21, "LOST"), (22, "REACQUIRED"), (42, "REACQUIRED")])
    assert got["returning found within 1 s"] == 0.0
    assert got["median delay s"] == pytest.approx(1.2)
    assert got["false REACQUIRED"] == 0.5
    assert got["gone and hidden"] == pytest.approx(12 / 20)


def test_false_and_missing_alarms(events: ModuleType) -> None:
    got = figures(events, "#" * 40, "#" * 10 + "." * 30, [(20, "LOST")])
    assert got["LOST precision"] == 0.0
    assert np.isnan(got["LOST recall"])
    got = figures(events, "#" * 10 + "." * 30, "#" * 10 + "x" * 30, [])
    assert got["LOST recall"] == 0.0
    assert got["shown and right"] == pytest.approx(9 / 39)


def test_a_clip_that_ends_before_its_time_counts_only_if_found(events: ModuleType) -> None:
    there = "#" * 10 + "." * 20 + "#" * 5
    assert figures(events, there, "#" * 10 + "." * 25, [])["returns"] == 0
    assert figures(events, there, "#" * 10 + "." * 22 + "#" * 3, [])["returns"] == 1
