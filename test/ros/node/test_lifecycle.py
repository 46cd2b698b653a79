# SPDX-License-Identifier: Apache-2.0
"""The managed node over DDS: it answers while it loads, and no request for a transition ends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

SLOW = """
import sys, time
from pathlib import Path
from sa2va_ros import tracker_node
from sa2va_ros.node.model_session import ModelSession
load = ModelSession.load
def slowly(self, settings):
    while not (Path(settings.model) / "go").exists():
        time.sleep(0.01)
    load(self, settings)
ModelSession.load = slowly
sys.exit(tracker_node.main())
"""
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4
ALL = (
    *range(12),
    50,
    60,
    97,
    98,
    99,
    255,
)  # every transition there is, and some that there are not
LATER = 120.0


@pytest.fixture
def slow_folder(tmp_path: Path) -> Path:
    """A model that is loaded when the file `go` appears in its folder."""
    from sa2va_model.checkpoints.load import save_model
    from sa2va_model.testing import nano_model

    save_model(nano_model(seed=0), tmp_path)
    return tmp_path


def ask(client: Any, number: int, label: str = "") -> bool:
    from lifecycle_msgs.srv import ChangeState

    request = ChangeState.Request()
    request.transition.id, request.transition.label = number, label
    return bool(client.call(ChangeState, "sa2va_tracker/change_state", request, LATER).success)


def test_it_answers_while_it_loads_and_refuses_what_is_not_allowed(
    start_node: Callable[..., Any],
    start_client: Callable[[str], Any],
    slow_folder: Path,
    wait_for: Any,
) -> None:
    from lifecycle_msgs.srv import ChangeState

    from sa2va_ros.action import TrackExpression
    from sa2va_ros.interfaces.goal_state import ErrorCode
    from sa2va_ros.srv import SetTarget

    node = start_node(
        SLOW,
        remaps=("__ns:=/life",),
        model=slow_folder,
        threads=1,
        status_period=0.1,
        autostart=False,
    )
    client = start_client("/life")

    def refuses(allowed: set[int]) -> None:
        for number in set(ALL) - allowed:
            assert not ask(client, number), number
        assert not ask(client, 0, "no such transition")
        assert node.process.poll() is None, node.output

    client.status_after(lambda s: s.state == s.UNCONFIGURED)
    # 5 to 7 are the three shutdowns; one of them is allowed in each state, and is tried last.
    refuses({CONFIGURE, 5})
    # While it loads.
    caller = client.node.create_client(ChangeState, "sa2va_tracker/change_state")
    assert caller.wait_for_service(LATER)
    request = ChangeState.Request()
    request.transition.id = CONFIGURE
    answer = caller.call_async(request)
    client.status_after(lambda s: s.state == s.LOADING)
    assert client.state() == "configuring"
    assert client.set_parameter("rate_limit", 5.0) == (True, "")
    refused = client.call(SetTarget, "sa2va_tracker/set_target", SetTarget.Request(expression="x"))
    assert not refused.accepted
    assert "not configured" in refused.message
    goal = TrackExpression.Goal(expression="x")
    _, result = client.goal(TrackExpression, "sa2va_tracker/track_expression", goal).result()
    assert result.error_code == ErrorCode.NOT_ACTIVE
    refuses(set())
    assert not answer.done()
    (slow_folder / "go").touch()
    wait_for(answer.done, LATER, "the end of configuring")
    assert answer.result().success
    # In every other state.
    assert client.state() == "inactive"
    refuses({CLEANUP, ACTIVATE, 6})
    assert ask(client, ACTIVATE)
    refuses({DEACTIVATE, 7})
    assert ask(client, 0, "deactivate")  # by name
    assert ask(client, CLEANUP)
    assert client.state() == "unconfigured"
    assert ask(client, 5)
    assert client.state() == "finalized"
    refuses(set())
    assert client.set_parameter("rate_limit", 0.0) == (True, "")
    assert "Traceback" not in node.output
    assert node.stop() == 0, node.output


def test_a_folder_without_a_model_is_refused_before_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    from sa2va_model.errors import InputError
    from sa2va_ros.node.model_session import EngineSettings, ModelSession

    plain = builtins.__import__

    def without_torch(name: str, *arguments: Any, **keywords: Any) -> Any:
        assert name.split(".")[0] != "torch", "torch was imported"
        return plain(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    settings = {"device": "cpu", "dtype": "auto", "threads": 1, "live": None}
    for model, adapter, says in (
        (str(tmp_path / "none"), "", "no such folder"),
        (str(tmp_path), "", "no config.json"),
        ("", str(tmp_path / "none"), "expected one of an adapter"),
    ):
        with pytest.raises(InputError, match=says):
            ModelSession().load(
                EngineSettings(model, adapter, history_turns=0, max_tokens=0, **settings)  # type: ignore[arg-type]
            )
