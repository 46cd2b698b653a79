# SPDX-License-Identifier: Apache-2.0
"""When diagnostics warn and when they call something an error; without ROS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sa2va_ros.interfaces.diagnostics import Level, Readings, degraded, findings

GOOD = Readings(
    loaded=True,
    active=True,
    topic="/camera/image",
    silence=0.03,
    input_fps=30.0,
    tracker_fps=30.0,
    received=30,
    processed=30,
    latency_p50=0.04,
    latency_p95=0.06,
    resident=2**29,
    share=0.02,
)


def line(readings: Readings, name: str) -> Any:
    return next(finding for finding in findings(readings) if finding.name == name)


def test_nothing_is_wrong() -> None:
    assert {finding.level for finding in findings(GOOD)} == {Level.OK}
    assert degraded(findings(GOOD)) == ""
    assert [finding.name for finding in findings(GOOD)] == [
        "images",
        "tracker",
        "depth",
        "model",
        "memory",
    ]
    for finding in findings(GOOD):
        assert finding.message
        assert all(isinstance(value, str) for value in finding.values.values())


@pytest.mark.parametrize(
    ("changes", "name", "level", "says"),
    [
        ({"silence": float("nan")}, "images", Level.WARN, "no images arrive on /camera/image"),
        ({"silence": 2.5}, "images", Level.WARN, "for 2.5 s"),
        ({"rejected": 1, "reason": "cut"}, "images", Level.WARN, "1 images not used: cut"),
        (
            {"rejected": 2, "rejected_in_row": 6, "reason": "cut"},
            "images",
            Level.ERROR,
            "no image can be used: cut",
        ),
        ({"received": 3, "rejected": 3}, "images", Level.WARN, "3 images not used"),
        ({"active": False, "silence": 99.0}, "images", Level.OK, "not active"),
        ({"latency_warning": 0.05}, "tracker", Level.WARN, "latency p95 is 0.060 s"),
        ({"latency_warning": 0.07}, "tracker", Level.OK, "images/s"),
        ({"depth_problem": "sizes differ"}, "depth", Level.OK, "no depth"),
        (
            {"depth_problem": "sizes differ", "depth_received": 9, "depth_images": 3},
            "depth",
            Level.WARN,
            "sizes differ",
        ),
        (
            {"depth_problem": "none", "depth_wanted": True, "depth_images": 3},
            "depth",
            Level.WARN,
            "no 3D: none",
        ),
        (
            {
                "depth_problem": "late",
                "depth_received": 9,
                "depth_images": 47,
                "depth_found": 17,
            },
            "depth",
            Level.WARN,
            "3D on 36% of 47 images: late",
        ),
        (
            {"depth_received": 9, "depth_images": 50, "depth_found": 50},
            "depth",
            Level.OK,
            "3D on 100% of 50 images",
        ),
        ({"problem": "no such folder"}, "model", Level.ERROR, "no such folder"),
        ({"failures": 2, "failure": "out of memory"}, "model", Level.ERROR, "out of memory"),
        ({"share": 0.95}, "memory", Level.WARN, "95%"),
    ],
)
def test_what_is_wrong_is_said_with_its_reason(
    changes: dict[str, Any], name: str, level: Level, says: str
) -> None:
    finding = line(replace(GOOD, **changes), name)
    assert finding.level is level
    assert says in finding.message


def test_only_an_error_degrades() -> None:
    assert degraded(findings(replace(GOOD, rejected=1, silence=9.0))) == ""
    assert "no image can be used" in degraded(findings(replace(GOOD, rejected_in_row=5)))
