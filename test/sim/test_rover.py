# SPDX-License-Identifier: Apache-2.0
"""The wheeled base and what it sees."""

from __future__ import annotations

import numpy as np
import pytest

from sa2va_sim.robots.follow_scene import ARENA, REST, follow_scene
from sa2va_sim.robots.rover import ACCELERATION, MAX_SPEED, MAX_TURN, Base, RoverSimulator


@pytest.mark.parametrize("seed", range(10))
def test_scenes_are_functions_of_their_seed_and_the_leader_stays_clear_of_the_others(
    seed: int,
) -> None:
    one, two = follow_scene(seed), follow_scene(seed)
    assert one.expression == two.expression
    assert [i.position for i in one.scene.items] == [i.position for i in two.scene.items]
    leader = one.scene.items[0]
    assert leader.motion is not None
    assert [item.moving for item in one.scene.items] == [True, False, False, False, False]
    colours = [item.colour for item in one.scene.items]
    assert len(set(colours)) == len(colours)  # the sentence names one of them
    way = np.array([leader.motion.at(t)[0][:2] for t in np.arange(0, 40, 0.1)])
    np.testing.assert_allclose(way[: int(REST * 10)], np.tile(way[0], (int(REST * 10), 1)))
    assert np.hypot(*np.diff(way, axis=0).T).max() * 10 < 0.5  # metres a second
    assert np.abs(way).max() < ARENA - 0.5
    for item in one.scene.items[1:]:
        assert np.hypot(*(way - item.position[:2]).T).min() > 0.2


def test_the_base_keeps_its_limits_and_drives_circles() -> None:
    base = Base()
    base.advance(9.0, 0.0, 0.1)
    assert base.speed == pytest.approx(ACCELERATION * 0.1)
    for _ in range(200):
        base.advance(9.0, 9.0, 0.01)
    assert (base.speed, base.turn) == (MAX_SPEED, MAX_TURN)
    base = Base(speed=0.5, turn=1.0)
    for _ in range(round(2 * np.pi / 0.01)):
        base.advance(0.5, 1.0, 0.01)
    assert np.hypot(base.x, base.y) < 0.02  # once around
    assert abs(base.yaw) < 0.02


def test_the_camera_goes_with_the_base_and_sees_the_leader_at_the_start() -> None:
    made = follow_scene(1)
    simulator = RoverSimulator(made.scene, 160, 120)
    frame = simulator.render()
    assert simulator.seen(frame, made.target) > 0.9
    point = np.linalg.inv(frame.world_from_camera) @ [*simulator.place(0), 1.0]
    pixel = frame.camera_matrix @ (point[:3] / point[2])
    columns = np.nonzero(frame.instances == 1)[1]
    assert columns.min() - 2 <= pixel[0] <= columns.max() + 2
    simulator.drive(0.0, 1.5)
    simulator.step(1.5)
    assert simulator.seen(simulator.render(), made.target) == 0.0  # turned away
    assert simulator.base.yaw > 1.5
    with pytest.raises(ValueError, match="expected finite"):
        simulator.drive(float("nan"), 0.0)
    simulator.close()
