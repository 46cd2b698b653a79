# SPDX-License-Identifier: Apache-2.0
"""While a model loads for as long as it likes, and while one image takes seconds, everything else is answered."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

STEP = 4.0  # seconds of one image
SOON = 0.2  # seconds in which an answer comes, as a rule
LATE = 1.5  # and always, on a busy machine; whoever waits for the step takes longer
TRACKER = f"""
import sys, time
from pathlib import Path
from sa2va_ros import tracker_node
from sa2va_ros.node.model_session import ModelSession
load, process = ModelSession.load, ModelSession.process
def slow_load(self, settings):
    while not (Path(settings.model) / "go").exists():
        time.sleep(0.01)
    load(self, settings)
def slow_process(self, frame):
    time.sleep({STEP})
    return process(self, frame)
ModelSession.load, ModelSession.process = slow_load, slow_process
sys.exit(tracker_node.main())
"""
PICTURE = cv2.resize(np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8), (160, 120))
CONFIGURE, ACTIVATE, DEACTIVATE = 1, 3, 4
FOREVER = 120.0


class Questions:
    """Every service of the node but those that are to take their time, asked again and again."""

    def __init__(self, client: Any) -> None:
        from lifecycle_msgs.srv import GetAvailableStates, GetAvailableTransitions, GetState
        from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
        from rclpy.parameter import Parameter
        from std_srvs.srv import SetBool

        from sa2va_ros.srv import (
            AddPrompt,
            GetTrackCloud,
            ListTracks,
            RemoveTrack,
            SelectTarget,
            SetTarget,
        )

        change = [Parameter("rate_limit", value=100.0).to_parameter_msg()]
        asked = {
            "get_state": (GetState, GetState.Request()),
            "get_available_states": (GetAvailableStates, GetAvailableStates.Request()),
            "get_available_transitions": (
                GetAvailableTransitions,
                GetAvailableTransitions.Request(),
            ),
            "get_parameters": (GetParameters, GetParameters.Request(names=["model"])),
            "set_parameters": (SetParameters, SetParameters.Request(parameters=change)),
            "list_parameters": (ListParameters, ListParameters.Request()),
            "set_target": (SetTarget, SetTarget.Request(expression="the mug", replace=True)),
            "select_target": (SelectTarget, SelectTarget.Request()),
            "add_prompt": (AddPrompt, AddPrompt.Request()),
            "remove_track": (RemoveTrack, RemoveTrack.Request(track_id="nobody")),
            "list_tracks": (ListTracks, ListTracks.Request()),
            "get_track_cloud": (GetTrackCloud, GetTrackCloud.Request()),
            "enable": (SetBool, SetBool.Request(data=True)),
        }
        self._callers = [
            (name, client.node.create_client(kind, f"sa2va_tracker/{name}"), request)
            for name, (kind, request) in asked.items()
        ]
        for name, caller, _ in self._callers:
            assert caller.wait_for_service(FOREVER), name

    def ask(self) -> dict[str, float]:
        """How long each took, seconds."""
        spent = {}
        for name, caller, request in self._callers:
            began, answer = time.monotonic(), caller.call_async(request)
            while not answer.done():
                assert time.monotonic() - began < FOREVER, f"no answer of {name}"
                time.sleep(0.002)
            spent[name] = time.monotonic() - began
        return spent


def all_soon(client: Any, questions: Questions, rounds: int, while_true: Callable[[], bool]) -> int:
    """Whether everything is answered soon while something lasts; how many rounds were made."""
    status, told = client.got["sa2va_tracker/status"], len(client.got["sa2va_tracker/status"])
    began, made = time.monotonic(), []
    while len(made) < rounds and while_true():
        made.append(questions.ask())
    assert made, "it was over before anything was asked"
    for name in made[0]:
        spent = [answers[name] for answers in made]
        assert max(spent) < LATE, f"{name} took {max(spent):.2f} s"
    every = [seconds for answers in made for seconds in answers.values()]
    assert statistics.median(every) < SOON, sorted(every)[-5:]
    elapsed = time.monotonic() - began  # a status comes ten times a second
    assert len(status) - told >= min(elapsed / 0.4, 20) - 1
    return len(made)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sa2va_model.checkpoints.load import save_model
    from sa2va_model.testing import nano_model

    path = tmp_path_factory.mktemp("slow")
    save_model(nano_model(seed=0), path)
    return path


@pytest.fixture(scope="module")
def client(
    start_node: Callable[..., Any], start_client: Callable[[str], Any], folder: Path
) -> Iterator[Any]:
    settings = {"model": folder, "threads": 1, "status_period": 0.1, "autostart": False}
    reliable = {"qos_overrides./answering/image.subscription.reliability": "reliable"}
    node = start_node(TRACKER, remaps=("__ns:=/answering",), **settings, **reliable)
    client = start_client("/answering")
    yield client
    assert node.process.poll() is None, node.output
    assert "Traceback" not in node.output, node.output


def begin(client: Any, number: int) -> Any:
    """Ask for a transition without waiting for its answer."""
    from lifecycle_msgs.srv import ChangeState

    caller = client.node.create_client(ChangeState, "sa2va_tracker/change_state")
    assert caller.wait_for_service(FOREVER)
    request = ChangeState.Request()
    request.transition.id = number
    return caller.call_async(request)


def test_everything_is_answered_while_a_model_loads_and_while_an_image_takes_its_time(
    client: Any, folder: Path, wait_for: Any
) -> None:
    from std_srvs.srv import Trigger

    client.status_after(lambda s: s.state == s.UNCONFIGURED, FOREVER)
    questions = Questions(client)
    loaded = begin(client, CONFIGURE)
    client.status_after(lambda s: s.state == s.LOADING)
    assert all_soon(client, questions, 5, lambda: not loaded.done()) == 5
    (folder / "go").touch()
    wait_for(loaded.done, FOREVER, "the model")
    client.change_state(ACTIVATE)
    wait_for(lambda: client._sends["image"].get_subscription_count(), 60, "the node's camera")

    def an_image_in_work() -> None:
        # The first may be skipped; received but not processed is in work.
        client.send("image", client.image(PICTURE))
        client.status_after(lambda s: s.received > s.processed + s.dropped)

    an_image_in_work()
    resetting = client.node.create_client(Trigger, "sa2va_tracker/reset")
    assert resetting.wait_for_service(60)
    reset = resetting.call_async(Trigger.Request())
    assert all_soon(client, questions, 3, lambda: not reset.done())
    wait_for(reset.done, 2 * STEP + 20, "the reset")
    assert reset.result().success, reset.result().message

    an_image_in_work()
    deactivated = begin(client, DEACTIVATE)
    client.send("image", client.image(PICTURE))
    assert all_soon(client, questions, 3, lambda: not deactivated.done())
    wait_for(deactivated.done, 60, "the end of deactivating")
    assert deactivated.result().success
    assert client.state() == "inactive"
