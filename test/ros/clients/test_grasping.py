# SPDX-License-Identifier: Apache-2.0
"""Grasps from points: where the fingers close, and when they had better not."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sa2va_ros.clients.grasping import (
    Gripper,
    NoGraspError,
    one_piece,
    plan_grasp,
    rival,
    whole,
    without,
)

EYE = np.array([0.0, -0.56, 0.52])
NOTHING = np.zeros((0, 3))


def seen_side(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The points whose surface looks towards the eye."""
    return points[((EYE - points) * normals).sum(1) > 0]


def can(x: float, y: float, radius: float = 0.033, height: float = 0.1) -> np.ndarray:
    """What a camera sees of an upright cylinder: the near half of its side, and its top."""
    turn, up = np.meshgrid(np.linspace(0, 2 * np.pi, 90), np.linspace(0.005, height, 25))
    out = np.stack([np.cos(turn).ravel(), np.sin(turn).ravel(), np.zeros(turn.size)], 1)
    side = out * radius + np.stack([np.zeros(up.size), np.zeros(up.size), up.ravel()], 1)
    rows = np.linspace(-radius, radius, 22)
    lid = np.stack([*(a.ravel() for a in np.meshgrid(rows, rows)), np.full(484, height)], 1)
    lid = lid[np.hypot(lid[:, 0], lid[:, 1]) < radius]
    here = np.array([x, y, 0.0])
    return np.concatenate([seen_side(side + here, out), lid + here])


def block(x: float, y: float, half: tuple[float, float, float], yaw: float) -> np.ndarray:
    """What a camera sees of a box on the table: its top and the sides that look at it."""
    steps = np.linspace(-1, 1, 20)
    a, b = (grid.ravel() for grid in np.meshgrid(steps, steps))
    faces = []
    for axis, sign in ((2, 1.0), (0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)):
        points = np.zeros((400, 3))
        points[:, axis] = sign
        points[:, [k for k in range(3) if k != axis]] = np.stack([a, b], 1)
        normal = np.zeros(3)
        normal[axis] = sign
        faces.append((points * half, normal))
    c, s = math.cos(yaw), math.sin(yaw)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    here = np.array([x, y, half[2]])
    return np.concatenate(
        [
            seen_side(points @ turn.T + here, np.tile(turn @ normal, (400, 1)))
            for points, normal in faces
        ]
    )


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.2, -0.1), (-0.15, 0.15)])
def test_a_cylinder_is_gripped_in_its_middle(x: float, y: float) -> None:
    grasp = plan_grasp(can(x, y), NOTHING, EYE)
    assert np.hypot(grasp.position[0] - x, grasp.position[1] - y) < 0.008
    assert grasp.width == pytest.approx(0.066, abs=0.006)
    assert grasp.width < grasp.opening <= Gripper().opening
    assert grasp.top == pytest.approx(0.1, abs=0.003)
    assert 0.05 < grasp.position[2] < 0.07


@pytest.mark.parametrize("yaw", np.deg2rad([0, 15, 30, 60, 75]))
def test_a_long_box_is_gripped_across_its_short_side(yaw: float) -> None:
    grasp = plan_grasp(block(0.05, 0.02, (0.06, 0.02, 0.03), float(yaw)), NOTHING, EYE)
    gap = (grasp.yaw - (yaw + np.pi / 2)) % np.pi
    assert min(gap, np.pi - gap) < np.deg2rad(8)
    assert np.hypot(grasp.position[0] - 0.05, grasp.position[1] - 0.02) < 0.008
    assert grasp.width < 0.06


def test_fingers_come_down_beside_neighbours() -> None:
    target = can(0.0, 0.0)
    left, right = can(-0.085, 0.0), can(0.085, 0.0)
    alone = plan_grasp(target, NOTHING, EYE)
    assert abs(np.sin(alone.yaw)) < 0.5  # closing along x: across the line of sight
    between = plan_grasp(target, np.concatenate([left, right]), EYE)
    assert abs(np.sin(between.yaw)) > 0.5  # not along x any more
    assert between.clearance <= 3
    ring = [can(0.085 * math.cos(a), 0.085 * math.sin(a)) for a in np.arange(0, 6.28, 0.5)]
    with pytest.raises(NoGraspError, match="something stands where") as caught:
        plan_grasp(target, np.concatenate(ring), EYE)
    assert caught.value.cause == "no room"


def test_what_is_too_wide_is_left_alone() -> None:
    with pytest.raises(NoGraspError, match="16 cm wide where it is narrowest") as caught:
        plan_grasp(block(0, 0, (0.08, 0.08, 0.03), 0.0), NOTHING, EYE)
    assert caught.value.cause == "no room"


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (np.zeros((0, 3)), "0 points above the table"),
        (np.full((500, 3), np.nan), "0 points above the table"),
        (can(0, 0) * [1, 1, 0.0], "0 points above the table"),
        (can(0, 0) * [1, 1, 0.1], "at most 10 mm high"),
        (np.concatenate([can(0, 0), can(0.3, 0)]), "in several places"),
        (np.concatenate([can(0, 0), [[5.0, 5.0, 0.1]]]), "spread over"),
    ],
)
def test_points_that_are_no_object_are_refused_as_bad_3d(points: np.ndarray, says: str) -> None:
    with pytest.raises(NoGraspError, match=says) as caught:
        plan_grasp(points, NOTHING, EYE)
    assert caught.value.cause == "bad 3D"


def test_stray_points_of_a_ragged_mask_change_nothing() -> None:
    rng = np.random.default_rng(0)
    stray = rng.uniform([0.08, -0.05, 0.01], [0.12, 0.05, 0.12], (60, 3))
    target = can(0.0, 0.0)
    np.testing.assert_allclose(
        plan_grasp(np.concatenate([target, stray]), NOTHING, EYE).position,
        plan_grasp(target, NOTHING, EYE).position,
        atol=2e-3,
    )
    assert len(one_piece(np.concatenate([target, stray]))) <= len(target)


def test_the_target_is_taken_out_of_the_scene() -> None:
    target, other = can(0.0, 0.0), can(0.2, 0.0)
    left = without(np.concatenate([target + 0.004, other]), target)
    assert len(left) == len(other)
    assert np.abs(left - other).max() == 0
    assert len(without(NOTHING, target)) == 0


def test_a_ragged_mask_is_made_whole_from_the_scene() -> None:
    target, other = can(0.0, 0.0), can(0.12, 0.0)
    scene = np.concatenate([target, other])
    part = target[target[:, 0] > 0.01]  # the mask covers a third of it
    grown = whole(part, scene)
    assert len(np.unique(grown, axis=0)) == len(np.unique(target, axis=0))
    alone = plan_grasp(grown, without(scene, grown), EYE)
    assert np.hypot(*alone.position[:2]) < 0.008
    chain = np.concatenate([can(0.06 * k, 0.0) for k in range(6)])  # things that touch
    assert whole(part, np.concatenate([scene, chain])) is part
    assert whole(part, NOTHING) is part


def test_a_mask_on_two_things_is_told_from_one_that_spills_over() -> None:
    target, other = can(0.0, 0.0), can(0.15, 0.0)
    scene = np.concatenate([target, other])
    assert rival(target, scene) == 0.0
    assert rival(np.concatenate([target, other[::10]]), scene) == pytest.approx(0.1, abs=0.02)
    assert rival(np.concatenate([target, other[::2]]), scene) == pytest.approx(0.5, abs=0.02)
    assert (
        rival(np.concatenate([target, target - np.array([0.3, 0, 1.0])]), scene) == 0.0
    )  # the table
    assert rival(NOTHING, scene) == 0.0


# --- the referee's judgement ----------------------------------------------------------------------


def judged(said: dict[str, Any] | None, **truth: Any) -> Any:
    from sa2va_cli.demo.grasp_score import judge

    started = {
        "seed": 7,
        "expression": "the red can",
        "kind": "attribute",
        "objects": ["red can", "blue mug"],
    }
    known = {
        "target": 0,
        "lifted": [],
        "held": [],
        "gripped": [],
        "rise": [0.0, 0.0],
        "began": [[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]],
    }
    return judge(started, said, {**known, **truth}, 10.0)


HELD = {"outcome": "held", "cause": "", "detail": "", "grasp": [0.005, 0.0, 0.06, 0.0, 0.066]}


def test_success_is_the_right_object_and_nothing_else_up_and_held() -> None:
    won = judged(HELD, lifted=[0], held=[0], gripped=[0])
    assert won.success
    assert won.cause == ""
    assert won.shape == "can"
    assert won.grasp_error == pytest.approx(0.005)
    assert not judged(HELD, lifted=[0], held=[], gripped=[0]).success  # thrown up, not held
    assert judged(HELD, lifted=[0, 1], held=[0], gripped=[0]).cause == "wrong object"


@pytest.mark.parametrize(
    ("said", "truth", "cause"),
    [
        (HELD, {"lifted": [1], "held": [1], "gripped": [1]}, "wrong object"),
        ({**HELD, "outcome": "failed"}, {"gripped": [1]}, "wrong object"),
        ({**HELD, "outcome": "failed", "grasp": [0.19, 0.0, 0, 0, 0]}, {}, "wrong object"),
        ({**HELD, "outcome": "failed", "grasp": [0.05, 0.0, 0, 0, 0]}, {}, "bad 3D"),
        ({**HELD, "outcome": "failed"}, {"gripped": [0]}, "slipped"),
        ({"outcome": "refused", "cause": "not found", "detail": "no"}, {}, "not found"),
        ({"outcome": "refused", "cause": "unsure", "detail": "score"}, {}, "unsure"),
        (None, {}, "error"),
    ],
)
def test_failures_have_their_cause(said: Any, truth: Any, cause: str) -> None:
    episode = judged(said, **truth)
    assert not episode.success
    assert episode.cause == cause


def test_rates_and_intervals() -> None:
    from sa2va_cli.demo.grasp_score import summarise, wilson

    won = judged(HELD, lifted=[0], held=[0], gripped=[0])
    lost = judged({"outcome": "refused", "cause": "unsure", "detail": ""})
    summary = summarise([won, won, won, lost])
    assert summary["success_rate"] == 0.75
    assert summary["refused_rate"] == 0.25
    assert summary["failures"] == {"unsure": 1}
    assert summary["by_shape"] == {"can": "3/4"}
    low, high = wilson(8, 10)  # 0.490 to 0.943 in Wilson's own form
    assert (low, high) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))


class Looks:
    """A picker's attempt in which only finding and confirming happen."""

    def __init__(self, *confirmed: Exception | None) -> None:
        from sa2va_ros.clients.picker import Attempt

        self.found: list[str] = []
        self.stopped: list[str] = []
        answers = iter(confirmed)

        class Short(Attempt):
            def _park(self) -> None:
                return

            def _find(self, expression: str) -> str:
                looks.found.append(f"{expression}_{len(looks.found)}")
                return looks.found[-1]

            def _confirm(self, track_id: str) -> None:
                if (problem := next(answers)) is not None:
                    raise problem

            def _take(self, track_id: str) -> Any:
                return track_id

        looks = self
        tracker = SimpleNamespace(stop=self.stopped.append)
        arm = SimpleNamespace(wait_ready=lambda seconds: None)
        clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0))
        picker: Any = SimpleNamespace(
            _tracker=tracker, _arm=arm, _value={"looks": 2}.get, get_clock=lambda: clock
        )
        self.attempt: Any = Short(picker, "pick up the mug")


def test_what_was_lost_before_the_arm_moved_is_looked_for_once_more() -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")
    from sa2va_ros.clients.table_view import Refusal

    again = Looks(Refusal("lost", "flicker"), None)
    assert again.attempt.run() == "the mug_1"
    assert again.stopped == ["the mug_0", "the mug_1"]
    twice = Looks(Refusal("lost", "flicker"), Refusal("lost", "gone"))
    with pytest.raises(Refusal, match="gone"):
        twice.attempt.run()
    unsure = Looks(Refusal("unsure", "score .1"))
    with pytest.raises(Refusal, match=r"score \.1"):
        unsure.attempt.run()
    assert len(unsure.found) == 1
