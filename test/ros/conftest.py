# SPDX-License-Identifier: Apache-2.0
"""Real nodes in processes of their own, spoken to over real DDS on a domain of this test run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sa2va_ros.support.executables import EXECUTABLES

# Even and odd: two workers of one run never share a domain.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
DOMAIN = 2 * random.SystemRandom().randrange(1, 50) + _WORKER % 2
os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)  # read by rclpy here and in the processes started here
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.pop("ROS_LOCALHOST_ONLY", None)  # the older switch would overrule the range
START_SECONDS = 240.0  # a few on an idle machine; torch alone takes very long on a busy one


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `condition` returned once it was true; fails the test after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    return pytest.fail(f"waited {seconds:.0f} s for {what}")


RUNNING: list[NodeProcess] = []


class NodeProcess:
    """A node started by its name as an executable (or from code), its output in a file."""

    def __init__(self, name: str, log: Path, parameters: dict[str, Any], remaps: tuple[str, ...]):
        start = ["-m", EXECUTABLES[name]] if name.isidentifier() else ["-c", name]
        command = [sys.executable, *start, "--ros-args"]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={str(value).lower() if isinstance(value, bool) else value}"]
        for remap in remaps:
            command += ["-r", remap]
        self._log, self._remaps = log, remaps
        with log.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def namespace(self) -> str:
        """Where it was started, "/" for none."""
        found = [remap.removeprefix("__ns:=") for remap in self._remaps if "__ns:=" in remap]
        return found[0] if found else "/"

    def stop(self, seconds: float = 60.0) -> int:
        """Ask it to end as Ctrl-C does; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        if self in RUNNING:
            RUNNING.remove(self)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"node did not end within {seconds:.0f} s of SIGINT:\n{self.output}")


class Client:
    """The other side: publishes what a camera and a user send, keeps what the node answers."""

    def __init__(self, namespace: str) -> None:
        import rclpy
        from geometry_msgs.msg import PointStamped
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image
        from std_msgs.msg import String

        from sa2va_ros.msg import (
            GroundedCaption,
            TrackArray,
            TrackerStatus,
            TrackEvent,
            VisualPrompt,
        )
        from sa2va_ros.support.qos import reliable

        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("client", namespace=namespace, context=self._context)
        self.got: dict[str, list[Any]] = defaultdict(list)
        self._callers: dict[str, Any] = {}
        self._sends = {
            "image": self.node.create_publisher(Image, "image", 1),
            "image/compressed": self.node.create_publisher(CompressedImage, "image/compressed", 1),
            "command": self.node.create_publisher(String, "command", 10),
            "prompt": self.node.create_publisher(VisualPrompt, "prompt", 10),
            "depth": self.node.create_publisher(Image, "depth", 5),
            "camera_info": self.node.create_publisher(CameraInfo, "camera_info", 5),
            "clicked_pixel": self.node.create_publisher(PointStamped, "clicked_pixel", 10),
        }
        for kind, topic, qos in (
            (TrackArray, "tracks", reliable(10)),
            (Image, "mask", reliable(10)),
            (TrackEvent, "events", reliable(50)),
            (GroundedCaption, "caption", reliable(10)),
            (TrackerStatus, "sa2va_tracker/status", reliable(1, latched=True)),
        ):
            self.listen(kind, topic, qos)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()
        self._stamp = 1_790_000_000_000_000_001  # nanoseconds; not what a double can hold

    def listen(self, kind: type, topic: str, qos: Any) -> Any:
        """Subscribe; messages are collected in `got[topic]`."""
        return self.node.create_subscription(kind, topic, self.got[topic].append, qos)

    def wait_connected(self, topic: str = "image", seconds: float = START_SECONDS) -> None:
        """Wait until the node subscribes to what is sent here and is heard."""
        here = [node for node in RUNNING if node.namespace == self.node.get_namespace()]
        # Those that ended on purpose before the newest was started are not waited for.
        here = [node for node in here if node is here[-1] or node.process.poll() is None]

        def heard(name: str) -> bool:
            for node in here:
                if node.process.poll() is not None:
                    pytest.fail(f"a node ended before it was ready:\n{node.output}")
            return bool(self._sends[name].get_subscription_count())

        for name in (topic, "command", "prompt"):
            wait_for(lambda n=name: heard(n), seconds, f"a subscriber of {name}")
        status = self.got["sa2va_tracker/status"]
        wait_for(lambda: status and status[-1].state == status[-1].ACTIVE, seconds, "ACTIVE")
        for name in ("tracks", "mask", "events"):
            count = lambda n=name: self.node.count_publishers(n)  # noqa: E731
            wait_for(count, seconds, f"a publisher of {name}")

    def send(self, topic: str, message: Any) -> None:
        """Publish a ready message."""
        self._sends[topic].publish(message)

    def command(self, text: str) -> None:
        """Send a line as a user does."""
        from std_msgs.msg import String

        self._sends["command"].publish(String(data=text))

    def image(self, pixels: np.ndarray, *, after: float = 0.1, **changes: Any) -> Any:
        """An rgb8 message whose stamp is `after` seconds after the one before; `changes` spoil
        it."""
        from sensor_msgs.msg import Image

        from sa2va_ros.messages.images import fill_image

        message = fill_image(Image(), pixels, "rgb8", self.header(after))
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    def header(self, after: float = 0.1) -> Any:
        """The header of the next image."""
        from std_msgs.msg import Header

        from sa2va_ros.messages.images import fill_time

        self._stamp += round(after * 1e9)
        header = Header(frame_id="camera_optical_frame")
        fill_time(header.stamp, self._stamp)
        return header

    def stream(self, message: Any, topic: str = "image", seconds: float = 60.0) -> Any:
        """Send an image and return the tracks that were computed on it."""
        self.send(topic, message)

        def answer() -> Any:
            return next((t for t in self.got["tracks"] if t.header == message.header), None)

        return wait_for(answer, seconds, "tracks of an image")

    def stream_until(
        self, pixels: np.ndarray | None, condition: Callable[[Client], Any], seconds: float = 60.0
    ) -> Any:
        """Send images (None: send none) as a camera does; returns the condition once it is true."""
        end = time.monotonic() + seconds
        while not (self.got["tracks"] and (value := condition(self))):
            if time.monotonic() > end:
                events = [(e.type, e.track_id, e.expression, e.detail) for e in self.got["events"]]
                status = self.got["sa2va_tracker/status"][-1:]
                pytest.fail(f"not within {seconds:.0f} s; events: {events}; status: {status}")
            if pixels is not None:
                self.send("image", self.image(pixels))
            time.sleep(0.05)
        return value

    @contextmanager
    def camera(self, pixels: np.ndarray, period: float = 0.05) -> Iterator[None]:
        """Send images from a thread meanwhile."""
        over = threading.Event()

        def send() -> None:
            while not over.wait(period):
                self.send("image", self.image(pixels))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def call(self, kind: Any, name: str, request: Any, seconds: float = 60.0) -> Any:
        """Call a service and return its answer."""
        if name not in self._callers:  # kept: to be discovered takes longer than to be answered
            self._callers[name] = self.node.create_client(kind, name)
        caller = self._callers[name]
        assert caller.wait_for_service(seconds), f"no service {name}"
        future = caller.call_async(request)
        wait_for(future.done, seconds, f"the answer of {name}")
        return future.result()

    def goal(self, kind: Any, name: str, goal: Any, seconds: float = 60.0) -> Goal:
        """Send a goal and return it once it is accepted."""
        from rclpy.action import ActionClient

        from sa2va_ros.support.deferred import REQUESTS

        # All clients of a server get the answers of all on one topic: a short queue loses its own among others'.
        kept = {f"{part}_service_qos_profile": REQUESTS for part in ("goal", "result", "cancel")}
        sender = ActionClient(self.node, kind, name, **kept)
        assert sender.wait_for_server(seconds), f"no action {name}"
        feedback: list[Any] = []
        accepted = self._spun(
            lambda: sender.send_goal_async(goal, lambda message: feedback.append(message.feedback))
        )
        wait_for(accepted.done, seconds, f"the goal of {name}")
        handle = accepted.result()
        assert handle.accepted
        return Goal(handle, self._spun(handle.get_result_async), feedback, sender)

    def _spun(self, call: Callable[[], Any]) -> Any:
        """On the thread that spins: rclpy ignores an answer that comes before it has noted the request."""
        task = self._executor.create_task(call)
        wait_for(task.done, 60.0, "a request to leave")
        return task.result()

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        """Change a parameter of the tracker node; whether it was accepted, and why not."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        message = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[message])
        answer = self.call(SetParameters, "sa2va_tracker/set_parameters", request)
        return answer.results[0].successful, answer.results[0].reason

    def change_state(self, *transitions: int) -> None:
        """Take the tracker node through lifecycle transitions, each of which must succeed."""
        from lifecycle_msgs.srv import ChangeState

        for transition in transitions:
            request = ChangeState.Request()
            request.transition.id = transition
            # Configuring loads torch and a model.
            answer = self.call(ChangeState, "sa2va_tracker/change_state", request, START_SECONDS)
            assert answer.success, f"transition {transition} was refused"

    def state(self) -> str:
        """The lifecycle state of the tracker node."""
        from lifecycle_msgs.srv import GetState

        answer = self.call(GetState, "sa2va_tracker/get_state", GetState.Request())
        return str(answer.current_state.label)

    def status_after(self, condition: Callable[[Any], bool], seconds: float = 60.0) -> Any:
        """The first status from now on that fulfils the condition."""
        status = self.got["sa2va_tracker/status"]
        start = len(status)
        return wait_for(
            lambda: next((s for s in status[start:] if condition(s)), None),
            seconds,
            "such a status",
        )

    def close(self) -> None:
        """End the threads and leave DDS."""
        self._executor.shutdown()
        self._context.try_shutdown()
        self._thread.join(5)
        self.node.destroy_node()


class Goal:
    """A goal that was accepted, as its sender sees it."""

    def __init__(self, handle: Any, result: Any, feedback: list[Any], sender: Any) -> None:
        self.handle, self.feedback = handle, feedback
        self._sender = sender  # goals live as long as their client
        self._result = result

    @property
    def done(self) -> bool:
        """Whether the result is there."""
        return bool(self._result.done())

    def stages(self) -> list[int]:
        """The stages of the feedback so far, without repetitions."""
        told = [message.stage for message in self.feedback]
        return [stage for i, stage in enumerate(told) if i == 0 or told[i - 1] != stage]

    def result(self, seconds: float = 60.0) -> tuple[int, Any]:
        """The goal's final status (4 succeeded, 5 cancelled, 6 aborted) and its result."""
        wait_for(self._result.done, seconds, "the result of a goal")
        answer = self._result.result()
        return answer.status, answer.result


@pytest.fixture(name="wait_for", scope="session")
def wait_for_fixture() -> Callable[..., Any]:
    """`wait_for(condition, seconds, what)`."""
    return wait_for


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with random weights: the structure is real, the masks mean nothing."""
    from sa2va_model.checkpoints.load import save_model
    from sa2va_model.testing import nano_model

    folder = tmp_path_factory.mktemp("nano")
    save_model(nano_model(seed=0), folder)
    return folder


@pytest.fixture(scope="module")
def start_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., NodeProcess]]:
    """Starts nodes; whatever still runs at the end of the module is ended."""

    def start(
        module: str = "tracker_node", *, remaps: tuple[str, ...] = (), **parameters: Any
    ) -> NodeProcess:
        log = tmp_path_factory.mktemp("node") / "output.txt"
        RUNNING.append(NodeProcess(module, log, parameters, remaps))
        return RUNNING[-1]

    yield start
    while RUNNING:
        node = RUNNING.pop()
        if node.process.poll() is None:
            node.process.kill()
            node.process.wait()


@pytest.fixture(scope="module")
def start_client() -> Iterator[Callable[[str], Client]]:
    """Makes clients in a namespace; closed at the end of the module."""
    clients: list[Client] = []

    def start(namespace: str) -> Client:
        clients.append(Client(namespace))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
