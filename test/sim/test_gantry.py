# SPDX-License-Identifier: Apache-2.0
"""The gripper on a gantry: it goes where it is told, holds what it grips, and its referee tells the truth."""

from __future__ import annotations

import numpy as np
import pytest

from sa2va_sim.robots.gantry import OPEN, PARKED, GantrySimulator
from sa2va_sim.robots.grasp_scene import GAP, GRASPABLE, command, grasp_episode, grasp_scene


@pytest.fixture(scope="module")
def table() -> GantrySimulator:
    return GantrySimulator(grasp_scene(0), 96, 72)


@pytest.mark.parametrize("seed", range(12))
def test_tables_are_functions_of_their_seed_with_room_between_things(seed: int) -> None:
    one, two = grasp_scene(seed), grasp_scene(seed)
    for a, b in zip(one.items, two.items, strict=True):
        assert (a.slot, a.colour, a.rgb, a.position) == (b.slot, b.colour, b.rgb, b.position)
    assert one.world.xml == two.world.xml
    assert 4 <= len(one.items) <= 6
    stock = one.world.stock
    assert sum(stock[item.slot].shape in GRASPABLE for item in one.items) >= 2
    for k, item in enumerate(one.items):
        for other in one.items[:k]:
            apart = np.hypot(*np.subtract(item.position[:2], other.position[:2]))
            assert apart > stock[item.slot].radius + stock[other.slot].radius + GAP


def test_an_episode_asks_for_one_graspable_thing_that_is_seen() -> None:
    simulator, sentence = grasp_episode(3, ("attribute", "position"), 160, 120)
    facts = simulator.render().facts
    assert sentence.target is not None
    assert facts[sentence.target].shape in GRASPABLE
    assert facts[sentence.target].visible >= 0.6
    again = command(facts, 3, ("attribute", "position"))
    assert again == sentence
    simulator.close()
    with pytest.raises(ValueError, match="expected some of"):
        grasp_episode(3, ("none",), 96, 72)


def test_the_gantry_goes_where_it_is_told_and_rests_there(table: GantrySimulator) -> None:
    table.arrange(table.scene)
    np.testing.assert_allclose(table.joints().position, PARKED, atol=2e-3)
    goal = (0.1, -0.12, 0.3, 0.7, 0.06)
    table.follow([(1.0, goal)])
    table.step(1.4)
    np.testing.assert_allclose(table.joints().position, goal, atol=4e-3)
    assert max(np.abs(table.joints().velocity)) < 0.02
    assert not any(table.rise(k) > 0.005 for k in range(len(table.scene.items)))


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ([(1.0, (0.9, 0, 0.3, 0, 0))], "gantry_x = 0.9000: expected -0.5 to 0.5"),
        ([(1.0, (0, 0, 0.3, 0, OPEN + 0.1))], "gripper = 0.2300"),
        ([(1.0, PARKED), (0.5, PARKED)], "expected them to rise"),
        ([(0.0, PARKED)], "expected them to rise"),
    ],
)
def test_goals_that_cannot_be_are_refused(
    table: GantrySimulator, way: list[tuple[float, tuple[float, ...]]], says: str
) -> None:
    table.arrange(table.scene)
    with pytest.raises(ValueError, match=says):
        table.follow(way)
    table.step(0.2)
    np.testing.assert_allclose(table.joints().position, PARKED, atol=2e-3)


@pytest.mark.parametrize("shape", GRASPABLE)
def test_every_graspable_shape_is_lifted_and_held(shape: str) -> None:
    """At the true place: what grips is the physics, not a plan."""
    for seed in range(40):
        scene = grasp_scene(seed)
        found = [
            k for k, item in enumerate(scene.items) if scene.world.stock[item.slot].shape == shape
        ]
        if found:
            break
    target, simulator = found[0], GantrySimulator(scene, 96, 72)
    item = scene.items[target]
    model = scene.world.stock[item.slot]
    yaw = float(np.arctan2(item.rotation[1, 0], item.rotation[0, 0]))
    yaw += np.pi / 2 if shape == "mug" else 0.0  # not over the handle
    yaw = float((yaw + np.pi / 2) % np.pi - np.pi / 2)
    x, y, _ = item.position
    low = max(0.008, model.height - 0.045)
    simulator.follow(
        [
            (1.2, (x, y, 0.33, yaw, OPEN)),
            (2.4, (x, y, low, yaw, OPEN)),
            (3.2, (x, y, low, yaw, 0.0)),
            (3.5, (x, y, low, yaw, 0.0)),
            (4.3, (x, y, low + 0.12, yaw, 0.0)),
        ]
    )
    simulator.step(5.5)
    assert simulator.rise(target) > 0.1
    assert simulator.touched().get(target) == 2
    others = [simulator.rise(k) for k in range(len(scene.items)) if k != target]
    assert max(others) < 0.01
    assert simulator.joints().effort[4] > 5  # it presses
    simulator.close()
