# SPDX-License-Identifier: Apache-2.0
"""From poses to speeds: late poses, turning poses, none at all; and how an episode is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sa2va_ros.clients.following import (
    Follow,
    Pose2,
    PoseHistory,
    TargetFilter,
    in_fixed_frame,
    steer,
)
from sa2va_sim.robots.rover import Base, base_from_camera


def test_history_interpolates_and_turns_the_short_way() -> None:
    history = PoseHistory(seconds=2.0)
    history.add(Pose2(10.0, 0.0, 0.0, 3.1))
    history.add(Pose2(11.0, 1.0, 2.0, -3.1))
    middle = history.at(10.5)
    assert middle is not None
    assert (middle.x, middle.y) == (0.5, 1.0)
    assert abs(abs(middle.yaw) - np.pi) < 0.05  # through pi, not through 0
    assert history.at(9.9) == history.at(10.0)
    assert history.at(9.0) is None
    assert history.at(12.0) is None
    history.add(Pose2(13.0, 0.0, 0.0, 0.0))
    assert history.at(10.5) is None  # forgotten: older than two seconds
    history.add(Pose2(1.0, 5.0, 5.0, 0.0))  # another clock
    assert history.newest == history.at(1.0)
    assert PoseHistory().at(0.0) is None


@pytest.mark.parametrize("yaw", [0.0, 1.0, -2.5])
def test_a_pose_in_the_camera_is_put_on_the_floor(yaw: float) -> None:
    base = Base(0.4, -0.3, yaw)
    place = np.array([1.2, 0.7, 0.05])
    world_from_camera = base.pose() @ base_from_camera()
    seen = np.linalg.inv(world_from_camera) @ [*place, 1.0]
    found = in_fixed_frame(seen[:3], base_from_camera(), Pose2(0.0, base.x, base.y, yaw))
    np.testing.assert_allclose(found, place[:2], atol=1e-9)


def test_the_target_goes_on_as_it_went_but_not_for_ever() -> None:
    target = TargetFilter()
    for k in range(40):
        target.update(0.1 * k, np.array([0.2 * 0.1 * k, 1.0]))
    np.testing.assert_allclose(target.speed, [0.2, 0.0], atol=0.01)
    expected = 0.2 * (target.time + 1.0)
    np.testing.assert_allclose(target.at(target.time + 1.0, 1.5), [expected, 1.0], atol=0.02)
    np.testing.assert_allclose(target.at(target.time + 9.0, 1.5), target.at(target.time + 1.5, 1.5))
    target.update(target.time + 0.1, np.array([5.0, 5.0]))  # somewhere else: begins anew there
    np.testing.assert_allclose(target.at(target.time, 1.5), [5.0, 5.0])
    target.update(target.time - 1.0, np.array([0.0, 0.0]))  # late
    np.testing.assert_allclose(target.at(target.time, 1.5), [5.0, 5.0])


def test_it_turns_before_it_drives_and_backs_off_when_too_near() -> None:
    settings, here = Follow(), Pose2(0.0, 0.0, 0.0, 0.0)

    def speeds(x: float, y: float) -> tuple[float, float]:
        target = TargetFilter()
        target.update(0.0, np.array([x, y]))
        return steer(target, here, settings)

    assert speeds(2.0, 0.0) == (settings.max_speed, 0.0)
    assert speeds(settings.distance, 0.0) == pytest.approx((0.0, 0.0))
    assert speeds(0.3, 0.0)[0] < -0.1
    assert speeds(0.0, 2.0)[0] == pytest.approx(0.0)
    assert speeds(0.0, 2.0)[1] == settings.max_turn
    assert speeds(-2.0, -0.5)[1] == -settings.max_turn
    assert steer(TargetFilter(), here, settings) == (0.0, 0.0)  # nothing known: it stays


def test_out_of_sight_it_looks_where_the_target_was_last_and_does_not_drive() -> None:
    target = TargetFilter()
    target.update(0.0, np.array([0.5, 0.9]))
    speed, turn = steer(target, Pose2(5.0, 0.0, 0.0, 0.0), Follow())
    assert speed == 0.0
    assert turn == pytest.approx(Follow().search_turn)
    target.update(5.0, np.array([0.5, -0.9]))
    assert steer(target, Pose2(9.0, 0.0, 0.0, 0.0), Follow())[1] < 0
    assert abs(steer(target, Pose2(9.0, 0.0, 0.0, -1.06), Follow())[1]) > 0.3  # there it is not: on


@pytest.mark.parametrize("late", [0.0, 0.3, 0.6])
def test_a_walker_is_kept_at_its_distance_with_late_poses(late: float) -> None:
    """The whole law in a loop: a target on a circle, poses at 10 Hz that come `late` seconds old."""
    base, history, target, settings = Base(), PoseHistory(), TargetFilter(), Follow()
    waiting: list[tuple[float, float, np.ndarray]] = []
    gaps, bearings = [], []
    for k in range(1200):
        time = 0.02 * k
        angle = 0.16 * time
        leader = np.array([1.0 + np.sin(angle), 1.0 - np.cos(angle)])
        history.add(Pose2(time, base.x, base.y, base.yaw))
        if k % 5 == 0:
            camera = np.linalg.inv(base.pose() @ base_from_camera()) @ [*leader, 0.05, 1.0]
            waiting.append((time + late, time, camera[:3]))
        while waiting and waiting[0][0] <= time:
            _, taken, point = waiting.pop(0)
            then = history.at(taken)
            assert then is not None
            target.update(taken, in_fixed_frame(point, base_from_camera(), then))
        now = history.newest
        assert now is not None
        base.advance(*steer(target, now, settings), 0.02)
        way = leader - (base.x, base.y)
        if time > 8:
            gaps.append(float(np.hypot(*way)))
            turn = np.arctan2(way[1], way[0]) - base.yaw
            bearings.append(float((turn + np.pi) % (2 * np.pi) - np.pi))
    assert np.abs(np.array(gaps) - settings.distance).max() < 0.12
    assert np.abs(bearings).max() < 0.25


# --- the referee's judgement ----------------------------------------------------------------------

TIMES = np.arange(0, 30, 0.1)


def judged(said: dict[str, Any] | None, in_view: float = 1.0) -> Any:
    from sa2va_cli.demo.follow_score import judge

    truth = {
        "target": 0,
        "time": TIMES.tolist(),
        "stamp": (TIMES + 1000).tolist(),
        "in_view": (np.arange(len(TIMES)) < in_view * len(TIMES)).tolist(),
        "distance": (0.7 + 0.05 * np.sign(np.sin(TIMES))).tolist(),
        "path": np.stack([TIMES * 0.1, TIMES * 0], 1).tolist(),
        "others": [[0.0, 2.0], [3.0, -1.0]],
    }
    return judge({"seed": 3, "expression": "the red ball"}, said, truth, 0.7, 31.0)


def followed(offset: tuple[float, float] = (0.0, 0.0), **changes: Any) -> dict[str, Any]:
    places = [(1000 + t, 0.1 * t + offset[0], offset[1]) for t in np.arange(1, 29, 0.5)]
    return {
        "outcome": "followed",
        "cause": "",
        "detail": "",
        "seen": 0.9,
        "places": places,
    } | changes


def test_following_is_being_in_view() -> None:
    good = judged(followed())
    assert good.success
    assert (good.in_view, good.cause) == (1.0, "")
    assert good.distance_error == pytest.approx(0.05)
    assert good.place_error == pytest.approx(0.0, abs=1e-6)
    assert not judged(followed(), in_view=0.85).success


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ({"outcome": "refused", "cause": "not found", "detail": "no"}, "not found"),
        (followed(outcome="lost", cause="lost", detail="not seen for 15 s"), "lost"),
        (followed((0.0, 1.9)), "wrong object"),
        (followed((0.0, -0.5)), "bad 3D"),
        (followed(), "lost"),
        (None, "error"),
    ],
)
def test_failures_have_their_cause(said: Any, cause: str) -> None:
    episode = judged(said, in_view=0.5)
    assert not episode.success
    assert episode.cause == cause


def test_speeds_are_stamped_where_the_base_wants_it(
    start_node: Callable[..., Any], start_client: Callable[[str], Any], wait_for: Any
) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")
    from geometry_msgs.msg import TwistStamped
    from nav_msgs.msg import Odometry
    from std_msgs.msg import String

    from sa2va_ros.support.qos import reliable

    client = start_client("/stamped")
    client.listen(TwistStamped, "cmd_vel", reliable(5))
    say = client.node.create_publisher(String, "follow", reliable(10))
    odom = client.node.create_publisher(Odometry, "odom", reliable(10))
    node = start_node("follower", remaps=("__ns:=/stamped",), stamped=True)
    place = Odometry(child_frame_id="base_link")
    place.header.frame_id = "odom"
    wait_for(lambda: say.get_subscription_count() and odom.get_subscription_count(), 240, "it")
    wait_for(lambda: client.node.count_publishers("cmd_vel"), 60, "speeds")

    def told() -> bool:
        odom.publish(place)
        say.publish(String(data=" "))  # refused; the base is stopped all the same
        return any(message.header.frame_id for message in client.got["cmd_vel"])

    wait_for(told, 60, f"a stamped speed: {node.output}")
    newest = client.got["cmd_vel"][-1]
    assert (newest.header.frame_id, newest.header.stamp.sec > 0) == ("base_link", True)
    assert (newest.twist.linear.x, newest.twist.angular.z) == (0.0, 0.0)
    assert node.stop() == 0, node.output
