# SPDX-License-Identifier: Apache-2.0
"""The behaviour tree of config/nav2: its nodes are BehaviorTree.CPP's and Nav2's, its ports those of the actions."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

from builtin_interfaces.msg import Duration

from sa2va_model.errors import InputError
from sa2va_ros.action import TrackExpression
from sa2va_ros.clients import follow_tree
from sa2va_ros.clients.follow_tree import BASIC, Leaf, need

TREE = Path(__file__).resolve().parents[3] / "config" / "nav2" / "follow_object.xml"
# Ports of FollowObject in nav2_behavior_tree/nav2_tree_nodes.xml (Nav2 of August 2026).
FOLLOW_OBJECT = {"pose_topic", "max_duration", "tracked_frame", *BASIC, "total_elapsed_time"}
CONTROL = {"root", "BehaviorTree", "RetryUntilSuccessful", "Sequence"}


def leaf(ports: dict[str, str], **board: str) -> Leaf:
    made = object.__new__(Leaf)  # its action client needs a node
    made._kind, made._ports = TrackExpression, ports
    made._board = SimpleNamespace(get_string=board.__getitem__)
    return made


def test_nodes_and_ports_are_known() -> None:
    root = ElementTree.parse(TREE).getroot()
    assert root.get("BTCPP_format") == "4"
    assert root.get("main_tree_to_execute") in {t.get("ID") for t in root.iter("BehaviorTree")}
    assert {e.tag for e in root.iter()} == CONTROL | {"TrackExpression", "FollowObject"}
    goal = set(TrackExpression.Goal.get_fields_and_field_types()) | set(BASIC)
    for element in root.iter("TrackExpression"):
        assert set(element.attrib) - {"name"} <= goal
        leaf(dict(element.attrib), expression="the red ball").goal()
    for element in root.iter("FollowObject"):
        assert set(element.attrib) - {"name"} <= FOLLOW_OBJECT


def test_ports_become_the_goal() -> None:
    ports = {"expression": "{what}", "acquire_timeout": "1.5", "stop_when_found": "true"}
    goal = leaf(ports | {"name": "Find", "server_name": "x"}, what="the red ball").goal()
    assert (goal.expression, goal.stop_when_found) == ("the red ball", True)
    assert goal.acquire_timeout == Duration(sec=1, nanosec=500_000_000)


@pytest.mark.parametrize(
    ("ports", "says"),
    [
        ({"expresion": "a"}, "port 'expresion' of TrackExpression; expected one of expression"),
        ({"stop_when_found": "maybe"}, "port 'stop_when_found' is 'maybe'; expected a bool"),
        ({"acquire_timeout": "soon"}, "port 'acquire_timeout' is 'soon'; expected a Duration"),
    ],
)
def test_a_port_that_does_not_fit_is_named(ports: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        leaf(ports).goal()


def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(InputError, match=r"no_such_module is not installed .* expected a cure"):
        need("no_such_module", "a cure")


def test_the_tree_of_the_package_is_found() -> None:
    assert follow_tree.default_tree() == TREE


def test_the_tree_runs_on_behaviortree_cpp() -> None:
    """Its control nodes as they are; the leaves say what a tracker and Nav2 would: lost once, then followed."""
    library: Any = pytest.importorskip("behaviortreepy", reason="pip install behaviortreepy")
    root, ticks = ElementTree.parse(TREE).getroot(), []
    done, failed = library.NodeStatus.SUCCESS, library.NodeStatus.FAILURE
    answers = {"TrackExpression": iter([done, done]), "FollowObject": iter([failed, done])}
    factory = library.BehaviorTreeFactory()
    for tag, given in answers.items():

        def act(_: Any, tag: str = tag, given: Any = given) -> Any:
            ticks.append(tag)
            return next(given)

        factory.register_simple_action(tag, act)
        for element in root.iter(tag):
            element.attrib = {"name": tag}
    tree = factory.create_tree_from_text(ElementTree.tostring(root, "unicode"))
    assert tree.tick_while_running(1) == done
    assert ticks == ["TrackExpression", "FollowObject"] * 2
