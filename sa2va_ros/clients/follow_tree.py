# SPDX-License-Identifier: Apache-2.0
"""Runs a behaviour tree that finds what is said and follows it, on BehaviorTree.CPP 4 (`pip install behaviortreepy`).

    ros2 run sa2va_ros follow_tree --ros-args -r __ns:=/sa2va -p expression:="the red ball"

BehaviorTree.CPP reads the XML and decides what is ticked; the leaves are action clients: TrackExpression of the tracker
and FollowObject of Nav2 (nav2_msgs). A leaf's ports are the fields of its goal, as in Nav2, and `server_name`,
`error_code_id` and `error_msg`. Its Python cannot declare ports, so each leaf goes to it without them and keeps them.
"""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from pathlib import Path
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node

from sa2va_model.errors import InputError
from sa2va_ros.action import TrackExpression
from sa2va_ros.support.deferred import REQUESTS
from sa2va_ros.support.parameter import Parameter, declare
from sa2va_ros.support.spinning import serve

TREE = Path("config") / "nav2" / "follow_object.xml"
TABLE = (
    Parameter(
        "tree", "", "File of the tree; empty = config/nav2/follow_object.xml of this package."
    ),
    Parameter("expression", "", "What is followed."),
    Parameter("pose_topic", "target_pose", "Where the tracker tells where it is."),
    Parameter("max_duration", 0.0, "Seconds to follow; 0 = until it is lost.", span=(0.0, 86400.0)),
    Parameter("follow_server", "follow_object", "Nav2's action FollowObject."),
    Parameter("tick", 0.05, "Seconds between two ticks.", span=(0.001, 10.0)),
)
BOARD = (
    "expression",
    "pose_topic",
    "max_duration",
    "follow_server",
)  # parameters that trees may use
BASIC = ("server_name", "server_timeout", "error_code_id", "error_msg")
SERVER_SECONDS = 10.0  # to wait for an action's server


def need(module: str, cure: str) -> Any:
    """A module; InputError says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"{module} is not installed ({error}); expected {cure}") from error


def action_types() -> dict[str, Any]:
    """The actions that leaves may be, by their tag.

    Raises:
        InputError: nav2_msgs is not installed, or one without FollowObject.
    """
    nav2 = need("nav2_msgs.action", "ros-$ROS_DISTRO-nav2-msgs")
    if not hasattr(nav2, "FollowObject"):
        raise InputError("nav2_msgs has no FollowObject; expected Nav2 of Jazzy, Lyrical or later")
    return {"TrackExpression": TrackExpression, "FollowObject": nav2.FollowObject}


class Leaf:
    """One action of the tree; ticked on the tree's thread, answered on the executor's.

    Args:
        ports: attributes of its element; `{name}` is the blackboard's.
        board, status: BehaviorTree.CPP's Blackboard and NodeStatus.
    """

    def __init__(
        self, node: Node, kind: Any, ports: dict[str, str], board: Any, status: Any
    ) -> None:
        self._node, self._kind, self._ports = node, kind, ports
        self._board, self._status = board, status
        self._server = self._said(ports.get("server_name", ""))
        self._client = ActionClient(
            node,
            kind,
            self._server,
            goal_service_qos_profile=REQUESTS,
            result_service_qos_profile=REQUESTS,
        )
        self._handle: Any = None
        self._result: Any = None

    def start(self, _: Any) -> Any:
        """Send the goal."""
        self._handle = self._result = None
        if not self._client.wait_for_server(SERVER_SECONDS):
            self._node.get_logger().error(f"no server of {self._server}")
            return self._status.FAILURE
        sent = self._on_executor(lambda: self._client.send_goal_async(self.goal()))
        done = threading.Event()
        sent.add_done_callback(lambda _: done.set())
        if not done.wait(SERVER_SECONDS) or not sent.result().accepted:
            self._node.get_logger().error(f"{self._server} took no goal")
            return self._status.FAILURE
        self._handle = sent.result()
        self._on_executor(lambda: self._handle.get_result_async().add_done_callback(self._finished))
        return self._status.RUNNING

    def running(self, _: Any) -> Any:
        """Success when the goal has succeeded; its error goes to the blackboard."""
        if self._result is None:
            return self._status.RUNNING
        result = self._result
        for port, setter in (("error_code_id", "set_int"), ("error_msg", "set_string")):
            if (name := _pointer(self._ports.get(port, ""))) is not None:
                value = getattr(result, port.removesuffix("_id"), 0 if setter == "set_int" else "")
                getattr(self._board, setter)(name, value)
        words = f"error {result.error_code}: {result.error_msg}" if result.error_code else "done"
        self._node.get_logger().info(f"{self._ports.get('name', self._kind.__name__)}: {words}")
        return self._status.FAILURE if result.error_code else self._status.SUCCESS

    def halted(self, _: Any) -> None:
        """Cancel the goal."""
        if self._handle is not None and self._result is None:
            self._on_executor(self._handle.cancel_goal_async)

    def goal(self) -> Any:
        """The goal that the ports say now.

        Raises:
            InputError: a port is no field of the goal, or its value does not fit.
        """
        goal = self._kind.Goal()
        for port, text in self._ports.items():
            if port == "name" or port in BASIC:
                continue
            if not hasattr(goal, port):
                known = ", ".join(goal.get_fields_and_field_types())
                raise InputError(f"port '{port}' of {self._kind.__name__}; expected one of {known}")
            setattr(goal, port, _fitting(getattr(goal, port), self._said(text), port))
        return goal

    def _said(self, text: str) -> str:
        """A port's text, or what the blackboard has under the name in it."""
        name = _pointer(text)
        return text if name is None else str(self._board.get_string(name))

    def _finished(self, future: Any) -> None:
        self._result = future.result().result

    def _on_executor(self, call: Any) -> Any:
        """Run on the executor's thread; what it returns once it has."""
        task = self._node.executor.create_task(call)
        done = threading.Event()
        task.add_done_callback(lambda _: done.set())
        done.wait(SERVER_SECONDS)
        return task.result()


def _pointer(text: str) -> str | None:
    """The blackboard's name in `{name}`; None = it is a value."""
    return text[1:-1] if text.startswith("{") and text.endswith("}") else None


def _fitting(field: Any, text: str, port: str) -> Any:
    """A port's text as its field has it; seconds for a duration."""
    try:
        if isinstance(field, bool):
            return {"true": True, "false": False}[text.lower()]
        if hasattr(field, "nanosec"):
            seconds = float(text)
            return type(field)(sec=int(seconds), nanosec=int((seconds - int(seconds)) * 1e9))
        return type(field)(text)
    except (KeyError, ValueError) as error:
        raise InputError(f"port '{port}' is '{text}'; expected a {type(field).__name__}") from error


class FollowTree(Node):
    """Ticks the tree on a thread of its own until it has succeeded or failed.

    Raises:
        InputError: behaviortreepy or nav2_msgs is not installed, or the tree cannot be read.
    """

    def __init__(self, stop_requested: threading.Event) -> None:
        super().__init__("follow_tree")
        declare(self, TABLE)
        self._stop_requested = stop_requested
        self.succeeded: bool | None = None
        self._library = need("behaviortreepy", "pip install behaviortreepy")
        self._tree = self._plant(Path(self._value("tree") or default_tree()))
        self._thread = threading.Thread(target=self._work, name="follow_tree", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Halt the tree."""
        self._stop_requested.set()
        self._thread.join(10)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _plant(self, path: Path) -> Any:
        """The tree, and its leaves registered each under a name of its own."""
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError) as error:
            raise InputError(f"{path}: {error}; expected a behaviour tree in XML") from error
        factory, kinds = self._library.BehaviorTreeFactory(), action_types()
        board = self._library.Blackboard.create()
        for name in BOARD:
            board.set_string(name, str(self._value(name)))
        # Nav2's server may live in another namespace.
        board.set_string("pose_topic", self.resolve_topic_name(self._value("pose_topic")))
        for number, element in enumerate([e for e in root.iter() if e.tag in kinds]):
            ports = dict(element.attrib)
            leaf = Leaf(self, kinds[element.tag], ports, board, self._library.NodeStatus)
            leaf.goal()  # says now what it would say then
            element.attrib = {"name": ports.get("name", element.tag)}
            element.tag = f"{element.tag}_{number}"
            factory.register_simple_stateful_action(
                element.tag, leaf.start, leaf.running, leaf.halted
            )
        try:
            return factory.create_tree_from_text(ElementTree.tostring(root, "unicode"), board)
        except RuntimeError as error:
            raise InputError(f"{path}: {error}") from error

    def _work(self) -> None:
        running, status = self._library.NodeStatus.RUNNING, None
        while self.executor is None and not self._stop_requested.wait(0.01):
            pass
        while not self._stop_requested.is_set():
            status = self._tree.tick_once()
            if status != running:
                break
            self._stop_requested.wait(self._value("tick"))
        self._tree.halt_tree()
        self.succeeded = status == self._library.NodeStatus.SUCCESS
        self.get_logger().info(f"the tree ended with {getattr(status, 'name', 'nothing')}")
        self._stop_requested.set()


def default_tree() -> Path:
    """The tree that comes with this package, in an installed workspace or beside the source."""
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    here = Path(__file__).resolve().parents[2] / TREE
    if here.is_file():
        return here
    try:
        return Path(get_package_share_directory("sa2va_ros")) / TREE
    except PackageNotFoundError as error:
        raise InputError(f"parameter tree is empty and {error}; expected a file") from error


def main(args: list[str] | None = None) -> int:
    """Run the tree; the exit status is 0 if it succeeded, 1 if it failed, 2 if it could not start."""
    made: list[FollowTree] = []

    def make(stop_requested: threading.Event) -> FollowTree:
        made.append(FollowTree(stop_requested))
        return made[0]

    status = serve("follow_tree", make, args)
    return status or int(not (made and made[0].succeeded))


if __name__ == "__main__":
    raise SystemExit(main())
