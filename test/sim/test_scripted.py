# SPDX-License-Identifier: Apache-2.0
"""The demo's script keeps its word: who leaves is gone, who stays is seen, sentences are unique."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sa2va_sim.scripted import PERIOD, demo_scene
from sa2va_sim.simulator import SimFrame, Simulator

STEP = 0.5


@pytest.fixture(scope="module")
def frames() -> list[SimFrame]:
    scene = replace(
        demo_scene(0).scene, shadows=False
    )  # they cost most of the time and change no mask
    simulator = Simulator(scene, 160, 120)
    found = []
    for _ in range(round(PERIOD / STEP) + 1):
        found.append(simulator.render())
        simulator.step(STEP)
    simulator.close()
    return found


def test_who_leaves_is_gone_and_comes_back(frames: list[SimFrame]) -> None:
    demo = demo_scene(0)
    assert demo.absences
    for frame in frames:
        away = {a.item for a in demo.absences if a.gone <= frame.stamp <= a.back}
        on_the_way = {a.item for a in demo.absences if a.leaves < frame.stamp < a.returned}
        for fact in frame.facts:
            seen = bool((frame.instances == fact.index + 1).any())
            if fact.index in away:
                assert not seen, frame.stamp
            elif fact.index not in on_the_way:
                assert seen
                assert fact.visible > 0.5, (frame.stamp, fact)


def test_the_absences_are_long_enough_to_be_lost(frames: list[SimFrame]) -> None:
    assert all(3.5 <= a.back - a.gone <= 6.5 for a in demo_scene(0).absences)


def test_the_wanderer_wanders_in_view(frames: list[SimFrame]) -> None:
    wanderer = demo_scene(0).wanderer
    centres = np.array([frame.facts[wanderer].centre for frame in frames])
    assert np.ptp(centres[:, 0]) > 0.08
    assert min(frame.facts[wanderer].visible for frame in frames) > 0.8


def test_the_camera_drifts_and_the_script_repeats(frames: list[SimFrame]) -> None:
    positions = np.array([frame.world_from_camera[:3, 3] for frame in frames])
    assert np.ptp(positions[:, 0]) > 0.05
    assert np.abs(np.diff(positions, axis=0)).max() < 0.03
    assert np.allclose(frames[0].world_from_camera, frames[-1].world_from_camera)
    assert np.array_equal(frames[0].instances, frames[-1].instances)


def test_objects_are_large_enough_to_be_found(frames: list[SimFrame]) -> None:
    for fact in frames[0].facts:
        assert fact.area > 0.004, fact


def test_the_expressions_mean_their_objects() -> None:
    demo = demo_scene(0)
    facts = [(item.colour, demo.scene.world.stock[item.slot].shape) for item in demo.scene.items]
    assert list(demo.expressions) == [f"the {colour} {shape}" for colour, shape in facts]
    assert len(set(facts)) == len(facts)
    assert tuple(demo.absent.split()[1:]) not in facts


def test_the_seed_changes_the_room_but_not_the_script() -> None:
    first, second = demo_scene(0), demo_scene(1)
    assert first.absences == second.absences
    assert first.scene.world.xml != second.scene.world.xml
    assert demo_scene(0).scene.world.xml == first.scene.world.xml
