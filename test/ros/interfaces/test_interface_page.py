# SPDX-License-Identifier: Apache-2.0
"""docs/ros_interface.md against the node: topics, types, QoS, services, actions and parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sa2va_ros.node.parameters import TABLE
from sa2va_ros.support.parameter import Parameter

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "ros_interface.md").read_text("utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    lines = PAGE.split(f"## {heading}\n", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def documented(row: Parameter) -> str:
    """The line of a parameter."""
    default: Any = row.default
    if isinstance(default, bool):
        default = str(default).lower()
    allowed = " · ".join(row.choices)
    if row.span is not None:
        allowed = f"{row.span[0]:g} … {row.span[1]:g}"
    default = '""' if default == "" else default
    return f"| `{row.name}` | {default} | {allowed} | {'yes' if row.dynamic else ''} | {row.description} |"


def test_parameters() -> None:
    for row in TABLE:
        assert documented(row) in PAGE
    assert [cells[0] for cells in table("Parameters")] == [row.name for row in TABLE]


def test_error_codes() -> None:
    from sa2va_ros.interfaces.goal_state import ErrorCode

    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", PAGE, re.MULTILINE)
    assert {name: int(code) for code, name in rows} == {c.name: c.value for c in ErrorCode}


def test_convention_list_is_complete() -> None:
    assert len(table("Conventions, item by item")) >= 20
    assert all(cells[1] for cells in table("Conventions, item by item"))


def qos(info: Any) -> str:
    """As the page writes it, without the depth, which the graph does not tell."""
    profile = info.qos_profile
    words = profile.reliability.name.lower().replace("_", " ")
    return words + (", latched" if profile.durability.name == "TRANSIENT_LOCAL" else "")


def test_topics_services_and_actions(
    start_node: Callable[..., Any],
    start_client: Callable[[str], Any],
    nano_folder: Path,
    wait_for: Any,
) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")
    from rclpy.action import get_action_server_names_and_types_by_node

    kept = {"qos_overrides./page/depth.subscription.reliability": "best_effort"}
    node = start_node(
        remaps=("__ns:=/page",), model=nano_folder, threads=1, status_period=0.1, **kept
    )
    client = start_client("/page")
    client.wait_connected()
    graph, name = client.node, ("sa2va_tracker", "/page")

    def full(topic: str) -> str:
        if topic.startswith("/"):
            return topic
        return topic.replace("~", "/page/sa2va_tracker") if "~" in topic else f"/page/{topic}"

    written = {full(row[0]): (row[1], row[2].rsplit(",", 1)[0]) for row in table("Topics out")}
    published = dict(graph.get_publisher_names_and_types_by_node(*name))
    ours = {t: kinds[0] for t, kinds in published.items() if _is_ours(t)}
    assert ours == {topic: kind for topic, (kind, _) in written.items()}
    for topic, (_, reliability) in written.items():
        infos = graph.get_publishers_info_by_topic(topic)
        assert reliability in {qos(i) for i in infos if i.node_name == name[0]}, topic

    read = {full(row[0]): row[1] for row in table("Topics in") if row[0] != "image/compressed"}
    subscribed = dict(graph.get_subscriber_names_and_types_by_node(*name))
    assert {t: k[0] for t, k in subscribed.items() if _is_ours(t)} == read
    for row in table("Topics in"):
        if row[0] in ("command", "prompt", "clicked_pixel", "image_mouse_left"):
            infos = graph.get_subscriptions_info_by_topic(full(row[0]))
            assert qos(infos[0]) == "reliable"

    services = dict(graph.get_service_names_and_types_by_node(*name))
    own = {
        s: k[0]
        for s, k in services.items()
        if not k[0].startswith(("rcl_interfaces", "lifecycle_msgs", "type_description"))
        and "/_action/" not in s
    }
    assert own == {full(row[0]): row[1] for row in table("Services")}
    actions = dict(get_action_server_names_and_types_by_node(graph, *name))
    assert {a: k[0] for a, k in actions.items()} == {full(r[0]): r[1] for r in table("Actions")}
    # The client's publisher of images is reliable, so the node asks for that, too, after a while.
    wait_for(
        lambda: _reliability(graph, "/page/image") == "reliable", 20, "a reliable subscription"
    )
    # So is that of depth; but there a parameter says what is wanted.
    assert _reliability(graph, "/page/depth") == "best effort"
    assert node.stop() == 0, node.output


def _reliability(graph: Any, topic: str) -> str:
    infos = graph.get_subscriptions_info_by_topic(topic)
    return qos(infos[0]) if len(infos) == 1 else ""


def _is_ours(topic: str) -> bool:
    return not (
        topic in ("/rosout", "/parameter_events", "/clock")
        or topic.endswith(("transition_event", "/detections", "/detections_3d", "/label_info"))
        or "/_action/" in topic
    )
