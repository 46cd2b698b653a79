# SPDX-License-Identifier: Apache-2.0
"""TrackExpression and AskScene over DDS: stages, results, cancellation, time limits, error codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_ros.interfaces.goal_state import ErrorCode, GoalStage

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

PICTURE = cv2.resize(np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8), (160, 120))
TRACK, ASK = "sa2va_tracker/track_expression", "sa2va_tracker/ask_scene"
ALL_STAGES = [
    GoalStage.WAITING_IMAGE,
    GoalStage.GROUNDING,
    GoalStage.CATCHING_UP,
    GoalStage.TRACKING,
]
SUCCEEDED, CANCELED, ABORTED = 4, 5, 6  # action_msgs/GoalStatus


@pytest.fixture(scope="module")
def node(start_node: Callable[..., Any], nano_folder: Path) -> Any:
    settings = {"model": nano_folder, "threads": 1, "status_period": 0.1, "verify_period": 0.0}
    reliable = {"qos_overrides./acting/image.subscription.reliability": "reliable"}
    return start_node(remaps=("__ns:=/acting",), **settings, **reliable)


@pytest.fixture(scope="module")
def connected(node: Any, start_client: Callable[[str], Any]) -> Any:
    client = start_client("/acting")
    client.wait_connected()
    return client


@pytest.fixture
def client(node: Any, connected: Any) -> Iterator[Any]:
    connected.command("stop")
    connected.stream_until(PICTURE, lambda c: not living(c.got["tracks"][-1]))
    connected.got["events"].clear()
    yield connected
    assert node.process.poll() is None, node.output
    assert "Traceback" not in node.output


def living(tracks: Any) -> list[str]:
    return [t.id for t in tracks.tracks if t.state not in (t.STATE_STOPPED, t.STATE_NOT_FOUND)]


def track_goal(client: Any, **fields: Any) -> Any:
    from sa2va_ros.action import TrackExpression

    return client.goal(TrackExpression, TRACK, TrackExpression.Goal(**fields))


def ask_goal(client: Any, **fields: Any) -> Any:
    from sa2va_ros.action import AskScene

    return client.goal(AskScene, ASK, AskScene.Goal(**fields))


def seconds(value: float) -> Any:
    from rclpy.duration import Duration

    return Duration(seconds=value).to_msg()


def a_box() -> Any:
    from sa2va_ros.msg import VisualPrompt

    box = VisualPrompt(type=VisualPrompt.BOX, label="that one")
    box.box.x_offset, box.box.y_offset, box.box.width, box.box.height = 40, 30, 50, 40
    return box


def cloud_of(client: Any, track_id: str = "") -> Any:
    from sa2va_ros.srv import GetTrackCloud

    request = GetTrackCloud.Request(track_id=track_id)
    return client.call(GetTrackCloud, "sa2va_tracker/get_track_cloud", request)


def test_one_shot_succeeds_with_the_first_mask_and_keeps_the_track_if_asked(client: Any) -> None:
    goal = track_goal(
        client, expression="the red mug", stop_when_found=True, continue_after_goal=True
    )
    client.stream_until(PICTURE, lambda _: goal.done)
    status, result = goal.result()
    assert (status, result.error_code) == (SUCCEEDED, ErrorCode.NONE)
    # Feedback that comes after the result is dropped by the client: it is another topic.
    assert goal.stages() == ALL_STAGES[: len(goal.stages())]
    assert result.track.expression == "the red mug"
    assert result.track.area > 0
    client.stream(client.image(PICTURE))
    assert living(client.stream(client.image(PICTURE))) == [result.track.id]


def test_one_shot_leaves_nothing_behind_otherwise(client: Any) -> None:
    goal = track_goal(client, expression="the red mug", stop_when_found=True)
    client.stream_until(PICTURE, lambda _: goal.done)
    assert goal.result()[0] == SUCCEEDED
    client.stream_until(PICTURE, lambda c: not living(c.got["tracks"][-1]))


def test_feedback_follows_the_track_until_it_is_cancelled(client: Any, wait_for: Any) -> None:
    goal = track_goal(client, expression="the can")
    client.stream_until(PICTURE, lambda _: len(goal.feedback) > 6)
    assert not goal.done
    assert goal.stages() == ALL_STAGES
    assert goal.feedback[-1].track.id == living(client.got["tracks"][-1])[0]
    goal.handle.cancel_goal_async()
    status, result = goal.result()
    assert (status, result.error_code) == (CANCELED, ErrorCode.CANCELED)
    client.stream_until(PICTURE, lambda c: not living(c.got["tracks"][-1]))


def test_a_time_limit_ends_tracking_with_success(client: Any) -> None:
    goal = track_goal(client, expression="the plate", max_duration=seconds(0.5))
    started = time.monotonic()
    client.stream_until(PICTURE, lambda _: goal.done)
    status, result = goal.result()
    assert (status, result.error_code) == (SUCCEEDED, ErrorCode.NONE)
    assert "tracked for 0.5 s" in result.error_msg
    assert time.monotonic() - started > 0.5


def test_two_goals_at_once_and_a_prompt_instead_of_words(client: Any) -> None:
    goals = [
        track_goal(client, expression="the bowl", stop_when_found=True, continue_after_goal=True),
        track_goal(client, prompt=a_box(), stop_when_found=True, continue_after_goal=True),
    ]
    client.stream_until(PICTURE, lambda _: all(goal.done for goal in goals))
    assert [goal.result()[0] for goal in goals] == [SUCCEEDED, SUCCEEDED]
    ids = {goal.result()[1].track.id for goal in goals}
    assert set(living(client.stream(client.image(PICTURE)))) == ids


def test_a_goal_goes_on_with_a_track_and_the_target_is_chosen(client: Any) -> None:
    def found(**fields: Any) -> Any:
        goal = track_goal(client, stop_when_found=True, continue_after_goal=True, **fields)
        client.stream_until(PICTURE, lambda _: goal.done)
        status, result = goal.result()
        assert (status, result.error_code) == (SUCCEEDED, ErrorCode.NONE), result.error_msg
        return result.track

    def target() -> str:
        return str(client.stream(client.image(PICTURE)).target_id)

    first = found(expression="the bowl")
    assert target() == first.id
    box = found(prompt=a_box(), keep_target=True)
    assert target() == first.id  # the goal said so
    again = found(expression="The bowl", track_id=first.id)  # the same goal, sent again
    assert (again.id, again.age > first.age) == (first.id, True)
    assert set(living(client.stream(client.image(PICTURE)))) == {first.id, box.id}
    assert found(track_id=box.id).id == box.id == target()  # no words are needed for one that lives
    last = found(expression="the plate", replace=True)
    assert living(client.stream(client.image(PICTURE))) == [last.id] == [target()]
    for fields, says in (
        ({"expression": "the cup", "track_id": last.id}, "is 'the plate'; expected the same words"),
        ({"track_id": "nobody"}, "there is no track 'nobody'"),
    ):
        status, result = track_goal(client, **fields).result()
        assert (status, result.error_code) == (ABORTED, ErrorCode.BAD_GOAL)
        assert says in result.error_msg
    assert target() == last.id


def test_a_goal_that_is_sent_again_and_again_leaves_one_track(client: Any) -> None:
    """As a behaviour tree does that retries; no id, no `replace`."""
    ids = set()
    for _ in range(12):
        goal = track_goal(
            client, expression="the bottle", stop_when_found=True, continue_after_goal=True
        )
        client.stream_until(PICTURE, lambda _, goal=goal: goal.done)
        status, result = goal.result()
        assert (status, result.error_code) == (SUCCEEDED, ErrorCode.NONE), result.error_msg
        ids.add(result.track.id)
    tracks = client.stream(client.image(PICTURE))
    assert ids == set(living(tracks)) == {tracks.target_id}


def test_selecting_the_target(client: Any) -> None:
    from sa2va_ros.srv import SelectTarget

    def select(name: str) -> Any:
        request = SelectTarget.Request(track_id=name)
        return client.call(SelectTarget, "sa2va_tracker/select_target", request)

    client.command("the mug")
    client.stream_until(PICTURE, lambda c: c.got["tracks"][-1].target_id)
    mug = client.got["tracks"][-1].target_id
    client.command("+ the fork")
    client.stream_until(PICTURE, lambda c: len(living(c.got["tracks"][-1])) == 2)
    (fork,) = set(living(client.got["tracks"][-1])) - {mug}
    assert client.got["tracks"][-1].target_id == mug  # it does not jump
    assert select("the FORK").track_id == fork
    assert client.stream(client.image(PICTURE)).target_id == fork
    assert client.status_after(lambda s: s.target == fork)
    client.command("stop the fork")
    client.stream_until(PICTURE, lambda c: living(c.got["tracks"][-1]) == [mug])
    assert client.stream(client.image(PICTURE)).target_id == ""  # none until somebody chooses
    refused = select("the fork")
    assert not refused.success
    assert "nothing is called 'the fork'" in refused.message
    assert client.set_parameter("target", "the mug")[0]
    assert client.stream(client.image(PICTURE)).target_id == mug
    assert client.set_parameter("target", "")[0]
    assert select("").success


def test_no_image_and_no_answer_in_time_are_told_apart(client: Any) -> None:
    goal = track_goal(client, expression="the mug", acquire_timeout=seconds(0.3))
    status, result = goal.result()  # no image is sent
    assert (status, result.error_code) == (ABORTED, ErrorCode.NO_IMAGE)
    assert "no camera image in 0.3 s" in result.error_msg


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"expression": "the \x1b[31mmug"}, "U+001B"),
        ({"expression": "mug " * 200}, "at most"),
        ({}, "neither an expression nor a prompt"),
        ({"expression": "x", "acquire_timeout": -1.0}, "expected 0 or more"),
    ],
)
def test_a_wrong_goal_is_aborted_with_the_reason(
    client: Any, fields: dict[str, Any], says: str
) -> None:
    if "acquire_timeout" in fields:
        fields = fields | {"acquire_timeout": seconds(fields["acquire_timeout"])}
    status, result = track_goal(client, **fields).result()
    assert (status, result.error_code) == (ABORTED, ErrorCode.BAD_GOAL)
    assert says in result.error_msg


def test_a_track_that_somebody_else_stops_or_resets_ends_its_goal(client: Any) -> None:
    from std_srvs.srv import Trigger

    goal = track_goal(client, expression="the fork")
    client.stream_until(PICTURE, lambda _: GoalStage.TRACKING in goal.stages())
    client.command("stop the fork")
    client.stream_until(PICTURE, lambda _: goal.done)
    status, result = goal.result()
    assert (status, result.error_code) == (ABORTED, ErrorCode.CANCELED)
    assert "stopped" in result.error_msg

    goal = track_goal(client, expression="the knife")
    client.stream_until(PICTURE, lambda _: GoalStage.TRACKING in goal.stages())
    assert client.call(Trigger, "sa2va_tracker/reset", Trigger.Request()).success
    client.stream_until(PICTURE, lambda _: goal.done)
    assert goal.result()[1].error_code == ErrorCode.LOST
    assert "reset" in goal.result()[1].error_msg


def test_an_object_that_is_not_found_ends_the_goal(
    start_node: Callable[..., Any], start_client: Callable[[str], Any], tmp_path: Path
) -> None:
    from sa2va_model.checkpoints.load import save_model
    from sa2va_model.testing import nano_model

    save_model(nano_model(answers=False), tmp_path)
    node = start_node(remaps=("__ns:=/denying",), model=tmp_path, threads=1, status_period=0.1)
    client = start_client("/denying")
    client.wait_connected()
    shown = track_goal(client, prompt=a_box(), stop_when_found=True, continue_after_goal=True)
    client.stream_until(PICTURE, lambda _: shown.done)
    kept = shown.result()[1].track.id
    assert client.stream(client.image(PICTURE)).target_id == kept
    goal = track_goal(client, expression="the dragon")
    client.stream_until(PICTURE, lambda _: goal.done)
    status, result = goal.result()
    assert (status, result.error_code) == (ABORTED, ErrorCode.NOT_FOUND)
    assert result.error_msg
    # The other object is still there, and is not taken for what was asked for.
    tracks = client.stream(client.image(PICTURE))
    assert (living(tracks), tracks.target_id) == ([kept], "")
    answer = cloud_of(client)
    assert not answer.success
    assert "there is no target" in answer.message
    assert cloud_of(client, kept).message != answer.message
    assert node.stop() == 0, node.output


def test_a_question_is_answered_word_by_word(client: Any) -> None:
    client.stream(client.image(PICTURE))
    goal = ask_goal(client, question="what is this?", grounded=True, max_tokens=8)
    status, result = goal.result()
    assert (status, result.error_code) == (SUCCEEDED, ErrorCode.NONE)
    answer = result.answer
    assert answer.header == client.got["tracks"][-1].header
    assert answer.question == "what is this?"
    assert len(answer.request_id) == 32
    assert answer.is_final
    assert "".join(message.delta for message in goal.feedback) == "".join(
        message.text for message in goal.feedback[-1:]
    )
    wanted = {phrase.mask_value for phrase in answer.phrases if phrase.mask_value}
    assert wanted <= set(answer.mask.data)
    captions = client.stream_until(None, lambda c: c.got["caption"])
    assert captions[-1].request_id == answer.request_id


def test_questions_that_are_wrong_or_without_masks(client: Any) -> None:
    client.stream(client.image(PICTURE))
    status, result = ask_goal(client, question=" ").result()
    assert (status, result.error_code) == (ABORTED, ErrorCode.BAD_GOAL)
    assert "question is empty" in result.error_msg
    status, result = ask_goal(client, question="what?", grounded=False).result()
    assert status == SUCCEEDED
    assert not result.answer.phrases
    assert not result.answer.mask.data


def test_a_flood_of_requests_is_answered_one_by_one(client: Any) -> None:
    """Goals, cancels and questions at once: each has a result or a refusal with its reason."""
    client.stream(client.image(PICTURE))
    with client.camera(
        PICTURE
    ):  # making so many clients takes longer than a goal waits for an image
        goals = [track_goal(client, expression=f"the thing {k}") for k in range(22)]
        for goal in goals[::2]:
            for _ in range(3):
                client._spun(goal.handle.cancel_goal_async)
        asked = [ask_goal(client, question=f"what is number {k}?", max_tokens=4) for k in range(8)]
    client.stream_until(PICTURE, lambda _: all(goal.done for goal in (*goals[::2], *asked)), 120.0)
    client.command("stop")
    client.stream_until(PICTURE, lambda _: all(goal.done for goal in goals), 120.0)
    codes = [goal.result()[1].error_code for goal in goals]
    assert set(codes) <= {ErrorCode.CANCELED, ErrorCode.FULL}
    assert ErrorCode.FULL in codes  # max_objects is 16
    answers = [goal.result()[1].error_code for goal in asked]
    assert set(answers) <= {ErrorCode.NONE, ErrorCode.FULL}
    assert answers.count(ErrorCode.NONE) >= 4


def test_a_paused_node_refuses_goals_and_ends_those_in_work(client: Any) -> None:
    from lifecycle_msgs.msg import Transition

    goal = track_goal(client, expression="the lamp")
    client.stream_until(PICTURE, lambda _: GoalStage.TRACKING in goal.stages())
    client.change_state(Transition.TRANSITION_DEACTIVATE)
    status, result = goal.result()
    assert (status, result.error_code) == (ABORTED, ErrorCode.CANCELED)
    assert "deactivated" in result.error_msg
    for refused in (track_goal(client, expression="x"), ask_goal(client, question="x?")):
        status, result = refused.result()
        assert (status, result.error_code) == (ABORTED, ErrorCode.NOT_ACTIVE)
        assert "not active" in result.error_msg
    client.change_state(Transition.TRANSITION_ACTIVATE)
    client.wait_connected()


def test_goals_are_told_when_the_node_ends(node: Any, connected: Any) -> None:  # last: it is gone
    goal = track_goal(connected, expression="the lamp")
    connected.stream_until(PICTURE, lambda _: GoalStage.TRACKING in goal.stages())
    assert node.stop() == 0, node.output
    status, result = goal.result()
    assert (status, result.error_code) == (ABORTED, ErrorCode.CANCELED)
