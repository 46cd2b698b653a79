# SPDX-License-Identifier: Apache-2.0
"""The grammar of the `command` topic, without ROS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.regions import Region
from sa2va_model.tracking.by_example.example import ObjectExample, ObjectView
from sa2va_model.tracks import Event, EventKind, FrameResult, Track, TrackState
from sa2va_ros.interfaces.commands import (
    MAX_LENGTH,
    Command,
    CommandKind,
    Router,
    object_words,
    parse_command,
    tracks_named,
)
from sa2va_ros.interfaces.saved_objects import SavedObjects
from sa2va_ros.interfaces.target import TargetChoice


@pytest.mark.parametrize(
    ("text", "kind", "rest"),
    [
        ("the red mug", CommandKind.TRACK, "the red mug"),
        ("  the \t red\nmug \r\n", CommandKind.TRACK, "the red mug"),
        ("+ the blue bowl", CommandKind.ADD, "the blue bowl"),
        ("+the blue bowl", CommandKind.ADD, "the blue bowl"),
        ("stop", CommandKind.STOP, ""),
        ("Stop.", CommandKind.STOP, ""),
        ("stop the red mug", CommandKind.STOP, "the red mug"),
        ("stopwatch on the left", CommandKind.TRACK, "stopwatch on the left"),
        ("stop sign", CommandKind.TRACK, "stop sign"),
        ("Stop the sign", CommandKind.STOP, "the sign"),
        ("stop mug_2", CommandKind.STOP, "mug_2"),
        ("stop everything!", CommandKind.STOP, ""),
        ('stop "stop sign"', CommandKind.STOP, "stop sign"),
        ('"stop"', CommandKind.TRACK, '"stop"'),
        ('"what is this?"', CommandKind.TRACK, '"what is this?"'),
        ("what is on the table?", CommandKind.ASK, "what is on the table?"),
        ("stop ?", CommandKind.ASK, "stop ?"),
        ("桌上有什么？", CommandKind.ASK, "桌上有什么？"),
        ("go back to the red mug", CommandKind.BACK, "the red mug"),
        ("Please go back to the red mug you saw.", CommandKind.BACK, "the red mug"),
        ("go back to 'it'", CommandKind.BACK, "it"),
        ("go back", CommandKind.TRACK, "go back"),
        ("remember the mug", CommandKind.TRACK, "remember the mug"),
        ("die Tasse, die größte", CommandKind.TRACK, "die Tasse, die größte"),
        ("{0.__class__} $(reboot) %s", CommandKind.TRACK, "{0.__class__} $(reboot) %s"),
    ],
)
def test_grammar(text: str, kind: CommandKind, rest: str) -> None:
    assert parse_command(text) == Command(kind, rest)


@pytest.mark.parametrize(
    ("text", "track_name", "name"),
    [
        ("remember the red mug as tea mug", "the red mug", "tea mug"),
        ("please save it as my mug.", "", "my mug"),
        ("Save mug_2 as 'mine'", "mug_2", "mine"),
    ],
)
def test_what_is_seen_is_saved_under_a_name(text: str, track_name: str, name: str) -> None:
    assert parse_command(text) == Command(CommandKind.SAVE, track_name, name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "command is empty"),
        (" \n\t ", "command is empty"),
        ("+", r"expression after '\+' is empty"),
        ("+   ", r"expression after '\+' is empty"),
        ("x" * (MAX_LENGTH + 1), f"{MAX_LENGTH + 1} characters; expected at most {MAX_LENGTH}"),
        ("the red\x00mug", r"U\+0000 at 7"),
        ("the \x1b[31mred mug", r"U\+001B at 4"),
        ("mug \udc80", r"U\+DC80"),
    ],
)
def test_what_is_no_command_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_command(text)


def track(track_id: str, expression: str, label: str = "") -> Track:
    return Track(id=track_id, expression=expression, state=TrackState.TRACKING, label=label)


def test_names_mean_an_id_first_then_words() -> None:
    tracks = [track("1", "the red mug"), track("2", "The Red Mug"), track("3", "it", "bowl")]
    assert tracks_named("2", tracks) == ["2"]
    assert tracks_named("the red mug", tracks) == ["1", "2"]
    assert tracks_named("Bowl", tracks) == ["3"]
    with pytest.raises(InputError, match=r"nothing is called 'cup'; there is 1 \('the red mug'\)"):
        tracks_named("cup", tracks)
    with pytest.raises(InputError, match="there is no track"):
        tracks_named("cup", [])


class Tracker:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.running: list[str] = []

    def track(self, expression: str, *, track_id: str | None = None, replace: bool = False) -> str:
        if replace:
            self.running.clear()
        self.running.append(track_id or expression.split()[-1])
        return self.running[-1]

    def stop(self, track_id: str | None = None) -> int:
        gone = [name for name in self.running if track_id in (None, name)]
        self.running = [name for name in self.running if name not in gone]
        return len(gone)


def test_the_router_carries_commands_out() -> None:
    tracker, asked = Tracker(), []
    router = Router(tracker, lambda: (), asked.append, TargetChoice())
    for text, running in (
        ("the red mug", ["mug"]),
        ("+ the blue bowl", ["mug", "bowl"]),
        ("stop the red mug", ["bowl"]),  # by words, before any image showed it
        ("what is there?", ["bowl"]),
        ("+ a can", ["bowl", "can"]),
        ("stop bowl", ["can"]),  # by id
        ("a plate", ["plate"]),
        ("stop", []),
    ):
        router.run(text)
        assert tracker.running == running
    assert asked == ["what is there?"]
    with pytest.raises(InputError, match="'a plate' is not tracked any more"):
        router.run("stop a plate")
    with pytest.raises(InputError, match="nothing is called 'the dragon'"):
        router.run("stop the dragon")
    assert router.track("a box", track_id="mine") == "mine"


def test_what_was_saved_is_gone_back_to(tmp_path: Path) -> None:
    view = ObjectView(np.zeros((4, 6, 3), np.uint8), Region(mask=np.eye(4, 6, dtype=bool)))
    followed: list[ObjectExample] = []

    class Seeing(Tracker):
        def example(self, track_id: str, name: str = "") -> ObjectExample:
            return ObjectExample(name, (view,))

        def follow(self, example: ObjectExample, *, track_id: str | None = None) -> str:
            followed.append(example)
            return self.track(example.name)

    tracker, target = Seeing(), TargetChoice()
    router = Router(tracker, lambda: (), [].append, target, SavedObjects(tmp_path / "objects"))
    with pytest.raises(InputError, match="there is no target"):
        router.run("remember it as tea mug")
    router.run("the red mug")
    assert router.run("remember it as the Tea Mug").slow
    assert [path.name for path in (tmp_path / "objects").iterdir()] == ["tea_mug.object"]
    router.run("+ a can")
    router.run("go back to the tea mug you saw")
    assert tracker.running == ["Mug"] == [target.id]
    assert (followed[0].views[0].region.mask == np.eye(4, 6)).all()
    with pytest.raises(InputError, match=r"no object is saved as 'bowl' in .*; there is tea_mug"):
        router.run("go back to bowl")
    with pytest.raises(InputError, match=r"object's name is '\.\./x'"):
        router.save("Mug", "../x")


def test_the_router_knows_what_lives_and_chooses_the_target() -> None:
    shown: list[Track] = []
    target = TargetChoice()
    router = Router(Tracker(), lambda: shown, [].append, target)
    router.run("the red mug")
    assert target.id == "mug"
    router.run("+ the blue bowl")
    assert target.id == "mug"
    assert router.living_ids() == {"mug", "bowl"}
    assert router.select("the blue BOWL") == "bowl" == target.id
    shown[:] = [track("mug", "the red mug")]
    ended = Event(EventKind.NOT_FOUND, "bowl", "the blue bowl", 0.0, 0)
    router.observe(FrameResult(0.0, 0, 1, 1, tuple(shown), (ended,)))
    assert router.living_ids() == {"mug"}
    with pytest.raises(InputError, match="nothing is called 'bowl'"):
        router.select("bowl")
    router.run("stop")
    assert target.id == ""


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("find the red mug", "the red mug"),
        ("Follow the ball", "the ball"),
        ("please look for a can", "a can"),
        ("track suit", "track suit"),
        ("find", "find"),
        ('"track the ball"', "track the ball"),
        ("\u201cstop\u201d", "stop"),
    ],
)
def test_a_verb_before_an_article_is_no_part_of_the_object(said: str, meant: str) -> None:
    assert object_words(said) == meant


def test_stop_and_a_name_that_is_tracked_is_a_command() -> None:
    assert parse_command("stop sign", ["sign"]) == Command(CommandKind.STOP, "sign")
    tracker = Tracker()
    router = Router(tracker, lambda: (), [].append, TargetChoice())
    router.run("+ stop sign")
    router.run("+ find the mug")
    assert tracker.running == ["sign", "mug"]
    router.run("stop stop sign")
    assert tracker.running == ["mug"]
    router.run("stop the mug")
    assert tracker.running == []
