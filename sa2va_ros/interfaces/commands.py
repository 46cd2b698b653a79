# SPDX-License-Identifier: Apache-2.0
"""The grammar of the `command` topic, and the router that carries commands out. No ROS.

    the red mug            track this, in place of what is tracked now
    + the blue bowl        also track this
    stop                   stop all tracks
    stop the red mug       stop the track of that id or expression
    stop sign              an object: commands are whole words; "stop" in quotes is an object, too
    every mug              a track for each mug; also: all the mugs
    remember the red mug as tea mug     save what is seen of it as an object of that name
    go back to the tea mug              look for the saved object, in place of what is tracked now
    find the red mug       the red mug; find, track, follow, look for … go before an article
    what is on the table?  ask the scene (a text that ends in a question mark)

Commands come from speech, web pages or other machines: they are data. They are bounded in length,
hold no control characters, and are never evaluated or formatted.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from sa2va_model.errors import InputError
from sa2va_model.tracks import FrameResult, Track, TrackState
from sa2va_ros.interfaces.saved_objects import SavedObjects
from sa2va_ros.interfaces.target import ENDED, TargetChoice

MAX_NAME = 80  # characters of a track's id
_ARTICLES = ("the", "a", "an", "this", "that", "my", "your", "all", "both", "every", "each")
_VERBS = re.compile(
    r"^(please\s+)?(find|track|follow|segment|look for|search for|keep an eye on)\s+"
    rf"(?=({'|'.join(_ARTICLES)})\b)",
    re.IGNORECASE,
)
_SAVE = re.compile(r"^(?:please\s+)?(?:remember|save)\s+(.+)\s+as\s+(.+?)[.!]*$", re.IGNORECASE)
_BACK = re.compile(
    r"^(?:please\s+)?go\s+back\s+to\s+(.+?)(?:\s+(?:that\s+)?you\s+(?:saw|know|remember))?[.!]*$",
    re.IGNORECASE,
)
_IT = ("it", "this", "that", "the target")
_ALL = ("", "all", "everything", "it", "tracking", "following", "now", "please")
_QUOTES = ('""', "''", "\u201c\u201d", "\u201e\u201c", "\u00ab\u00bb")
GIVEN = 256  # commands that are remembered until an image shows them
MAX_LENGTH = 300  # characters; a referring expression of the training data has at most some 60


class CommandKind(Enum):
    """What to do."""

    TRACK = "track"
    ADD = "add"
    STOP = "stop"
    ASK = "ask"
    SAVE = "save"
    BACK = "back"


@dataclass(frozen=True)
class Command:
    """One parsed command.

    Attributes:
        text: the expression, the name of a track ("" = all, or the target), of a saved object, or the question.
        name: of the object to save.
    """

    kind: CommandKind
    text: str
    name: str = ""

    @property
    def slow(self) -> bool:
        """Whether it reads or writes files."""
        return self.kind in (CommandKind.SAVE, CommandKind.BACK)


def clean_text(text: str, what: str = "command", limit: int = MAX_LENGTH) -> str:
    """The text with single spaces, refused if it is empty, too long or holds control characters."""
    words = " ".join(
        text.split()
    )  # also turns line ends and tabs, as a terminal adds them, into spaces
    if not words:
        raise InputError(f"{what} is empty; expected words, such as 'the red mug'")
    if len(words) > limit:
        raise InputError(f"{what} has {len(words)} characters; expected at most {limit}")
    for position, character in enumerate(words):
        # Cc control, Cs lone surrogate, Co private use, Cn not assigned; Cf (joiners) is part of
        # some scripts.
        if unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn"):
            raise InputError(
                f"{what} holds the character U+{ord(character):04X} at {position}; expected printable text"
            )
    return words


def clean_name(text: str) -> str:
    """The id or expression that somebody wrote, as `clean_text`; "" stays empty."""
    return clean_text(text, "name") if text.strip() else ""


def parse_command(text: str, names: Iterable[str] = ()) -> Command:
    """Read one command.

    Commands are whole words: `stop` alone, `stop` and an article, and `stop` and the id or the expression of a track
    are commands, `stop sign` is an object. What stands in quotes is an object, whatever its words.

    Args:
        names: ids and expressions of the tracks there are.

    Raises:
        InputError: empty, too long, unprintable, or `+` with nothing after it.
    """
    words = clean_text(text)
    if _unquoted(words) is not None:
        return Command(CommandKind.TRACK, words)
    if words.endswith(("?", "？")):  # the second: Chinese and Japanese keyboards
        return Command(CommandKind.ASK, words)
    if words.startswith("+"):
        return Command(CommandKind.ADD, clean_text(words[1:], "expression after '+'"))
    if found := _SAVE.match(words):
        track = "" if found[1].lower() in _IT else _unquoted(found[1]) or found[1]
        return Command(CommandKind.SAVE, track, _unquoted(found[2]) or found[2])
    if found := _BACK.match(words):
        return Command(CommandKind.BACK, _unquoted(found[1]) or found[1])
    verb, _, rest = words.partition(" ")
    if verb.rstrip(".!,").lower() == "stop":
        name = rest.rstrip(".!")
        if name.lower() in _ALL:
            return Command(CommandKind.STOP, "")
        known = {known.casefold() for known in names}
        quoted, first = _unquoted(name), name.split(" ")[0].lower()
        if quoted or first in _ARTICLES or "_" in name or name.casefold() in known:
            return Command(CommandKind.STOP, quoted or name)
    return Command(CommandKind.TRACK, words)


def object_words(text: str) -> str:
    """What is to be tracked: `find the red mug` is the red mug, and `"track the ball"` in quotes is those words.

    A verb goes only before an article: a `track suit` stays one.
    """
    quoted = _unquoted(text)
    return quoted if quoted is not None else _VERBS.sub("", text)


def _unquoted(text: str) -> str | None:
    """What stands between the quotes around a whole text; None without."""
    inside = text[1:-1].strip()
    return inside if len(text) > 2 and text[0] + text[-1] in _QUOTES and inside else None


def tracks_named(name: str, tracks: Iterable[Track], what: str = "stop") -> list[str]:
    """Ids of the tracks that `name` means: an id if one is equal, else equal expressions (case is
    ignored).

    Raises:
        InputError: nothing is called so; the message lists what there is.
    """
    tracks = tuple(tracks)
    if any(track.id == name for track in tracks):
        return [name]
    wanted = name.casefold()
    found = [t.id for t in tracks if wanted in (t.expression.casefold(), t.label.casefold())]
    if not found:
        known = ", ".join(f"{track.id} ('{track.expression}')" for track in tracks) or "no track"
        raise InputError(f"{what}: nothing is called '{name}'; there is {known}")
    return found


class Targets(Protocol):
    """The part of the live tracker that commands need."""

    def track(self, expression: str, *, track_id: str | None = None, replace: bool = False) -> str:
        """Start a track and return its id."""
        ...

    def prompt(self, **arguments: Any) -> str:
        """Start or correct a track that is shown and return its id."""
        ...

    def follow(self, example: Any, *, track_id: str | None = None) -> str:
        """Look for what an example shows and return the track's id."""
        ...

    def example(self, track_id: str, name: str = "") -> Any:
        """Return what was seen of a track lately, as an example."""
        ...

    def stop(self, track_id: str | None = None) -> int:
        """Stop one track, or all; return how many."""
        ...


class Router:
    """Carries out commands, whatever door they came through: a topic, a service or an action.

    Args:
        targets: the live tracker.
        tracks: tells the tracks as they are now, for commands that name one.
        ask: takes a question for the scene; the answer comes later, elsewhere.
        target: what requests without a name mean.
        objects: those that were saved; None = none can be.

    Attributes:
        expression: the one given last that was accepted.
    """

    def __init__(
        self,
        targets: Targets,
        tracks: Callable[[], Iterable[Track]],
        ask: Callable[[str], None],
        target: TargetChoice,
        objects: SavedObjects | None = None,
    ) -> None:
        self._objects = objects
        self._targets, self._tracks, self._ask, self._target = targets, tracks, ask, target
        self._lock = threading.Lock()
        self._given: dict[str, Track] = {}  # newest commands: no result shows them yet
        self.expression = ""

    def parse(self, text: str) -> Command:
        """What one line of the `command` topic means."""
        known = self._known().values()
        names = [name for track in known for name in (track.id, track.expression) if name]
        return parse_command(text, names)

    def run(self, text: str) -> Command:
        """Carry out one line of the `command` topic and return what it meant."""
        command = self.parse(text)
        if command.kind is CommandKind.SAVE:
            self.save(command.text, command.name)
        elif command.kind is CommandKind.BACK:
            name = self.go_back(command.text)
            self.stop_others(name)
            self._target.choose(name)
        elif command.kind is CommandKind.ASK:
            self._ask(command.text)
        elif command.kind is CommandKind.STOP:
            self.stop(command.text)
        else:
            replace = command.kind is CommandKind.TRACK
            self.track(command.text, replace=replace, select=replace)
        return command

    def track(
        self, expression: str, *, track_id: str = "", replace: bool = False, select: bool = False
    ) -> str:
        """Start a track and return its id; what was found is told by events.

        Args:
            replace: stop all others.
            select: it becomes the target.
        """
        words = object_words(clean_text(expression, "expression"))
        if track_id:
            track_id = clean_text(track_id, "track_id", MAX_NAME)
        name = self._targets.track(words, track_id=track_id or None, replace=replace)
        self._keep(Track(name, words, TrackState.PENDING))
        self.expression = words
        if select:
            self._target.choose(name)
        return name

    def select(self, name: str) -> str:
        """Make a living track the target and return its id; "" = the first one seen from now on.

        Raises:
            InputError: nothing is called so.
        """
        if not name:
            self._target.choose_first()
            return ""
        living = [t for t in self._known().values() if t.state not in ENDED]
        found = tracks_named(name, living, what="select_target")[0]
        self._target.choose(found)
        return found

    def choose(self, track_id: str) -> None:
        """Make a track the target that was started by this router."""
        self._target.choose(track_id)

    def living_ids(self) -> set[str]:
        """The ids of all tracks that live or are about to."""
        return {track.id for track in self._known().values() if track.state not in ENDED}

    def living(self, track_id: str) -> Track | None:
        """The track of that id as it was last, or as it was commanded; None if it is not alive."""
        track = self._known().get(track_id)
        return None if track is None or track.state in ENDED else track

    def _known(self) -> dict[str, Track]:
        with self._lock:
            given = dict(self._given)
        return given | {track.id: track for track in self._tracks()}

    def _keep(self, track: Track) -> None:
        with self._lock:
            self._given[track.id] = track
            while len(self._given) > GIVEN:
                del self._given[next(iter(self._given))]

    def prompt(self, **arguments: Any) -> str:
        """Start or correct a track by points, a box or a mask and return its id."""
        if arguments.get("label"):
            arguments["label"] = clean_text(arguments["label"], "prompt label")
        if arguments.get("track_id"):
            arguments["track_id"] = clean_text(arguments["track_id"], "prompt track_id", MAX_NAME)
        if saved := arguments.pop("object", ""):
            return self.go_back(saved, track_id=arguments.get("track_id") or "")
        name = self._targets.prompt(**arguments)
        self._keep(Track(name, arguments.get("label", ""), TrackState.PENDING))
        return name

    def save(self, name: str, object_name: str) -> tuple[str, Path]:
        """Save what was seen of a track as an object; return the track's id and the file.

        Args:
            name: id or expression; "" = the target.

        Raises:
            InputError: nothing is called so, it was not seen well, or the file cannot be written.
        """
        found = name and tracks_named(name, self._known().values(), "save")[0]
        found = found or self._target.id
        if not found:
            raise InputError("save: there is no target; expected the name of a track")
        example = self._targets.example(found, clean_text(object_name or found, "object", MAX_NAME))
        return found, self._saved().save(example)

    def go_back(self, name: str, *, track_id: str = "") -> str:
        """Look for a saved object and return the track's id.

        Raises:
            InputError: nothing was saved under that name.
        """
        example = self._saved().read(clean_text(name, "object", MAX_NAME))
        found = self._targets.follow(example, track_id=track_id or None)
        self._keep(Track(found, example.name, TrackState.PENDING))
        return found

    def _saved(self) -> SavedObjects:
        if self._objects is None:
            raise InputError("objects are not saved here; expected a node with a folder for them")
        return self._objects

    def stop(self, name: str = "") -> int:
        """Stop the tracks of a name ("" = all) and return how many there were."""
        if not name:
            stopped = self._targets.stop()
            self._target.choose_first()
            return stopped
        known = self._known().values()
        stopped = sum(self._targets.stop(found) for found in tracks_named(name, known))
        if not stopped:
            raise InputError(f"stop: '{name}' is not tracked any more")
        return stopped

    def stop_others(self, track_id: str) -> None:
        """Stop all tracks but one."""
        for name in self.living_ids() - {track_id}:
            self._targets.stop(name)

    def observe(self, result: FrameResult) -> None:
        """One image: what it tells of a track counts from now on, and not the command."""
        reported = {track.id for track in result.tracks} | {e.track_id for e in result.events}
        with self._lock:
            for name in self._given.keys() & reported:
                del self._given[name]

    def forget(self) -> None:
        """Nothing is tracked any more, as after a reset."""
        with self._lock:
            self._given.clear()
        self.expression = ""
