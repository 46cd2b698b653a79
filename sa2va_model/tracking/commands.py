# SPDX-License-Identifier: Apache-2.0
"""TrackCommands: what a tracker can be told, from any thread, and what becomes of it at the next frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.io.given import ImageLike, as_image
from sa2va_model.mllm import chat as prompts
from sa2va_model.regions import Region
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.visual_prompts import check_mask, visual_prompt
from sa2va_model.tracking.by_example.example import ObjectExample, ObjectView
from sa2va_model.tracking.by_example.search import ExampleSearch
from sa2va_model.tracking.by_example.seen import SeenViews
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.grounding_worker import GroundingService, Purpose
from sa2va_model.tracking.instances.groups import InstanceGroups, one_of
from sa2va_model.tracking.language_updates import LanguageUpdates
from sa2va_model.tracking.track_table import TrackTable
from sa2va_model.tracks import EventKind, Reason


class TrackCommands:
    """Starts, corrects and ends tracks.

    A command is checked at once, in the caller's thread; the table keeps it until a frame comes.

    Args:
        words, instances, examples: look for what is named, for every one of a kind, and for what an example shows.
    """

    def __init__(
        self,
        config: LiveConfig,
        table: TrackTable,
        *,
        grounding: GroundingService,
        tracker: OnlineTracker,
        words: LanguageUpdates,
        instances: InstanceGroups,
        examples: ExampleSearch,
    ) -> None:
        self._config, self._table = config, table
        self._grounding, self._tracker = grounding, tracker
        self._words, self._instances, self._examples = words, instances, examples
        self._seen = SeenViews()

    # From any thread.

    def track(self, expression: str, *, track_id: str | None = None, replace: bool = False) -> str:
        """Find and follow what `expression` names, from the next frame on.

        "every cup" and "all cups" become a track for each of them, up to `config.max_instances`: the first has the
        returned id, the others are numbered like it, and all have the same expression.

        With `config.merge_duplicates`, the words of a track that lives mean that track: its id is returned, and the
        language model looks again at once.

        Args:
            track_id: a name for it; None = made from the words. One that was used for something else gets a number.
            replace: stop all other tracks.

        Returns:
            The track's id.

        Raises:
            InputError: the expression is empty or too long.
        """
        words = prompts.clean_expression(expression)
        merge = self._config.merge_duplicates
        name, known = self._table.claim(words, track_id, merge=merge, one=one_of(words))

        def start(frame: Frame) -> None:
            if replace:
                self._end_others(name, frame)
            if known:
                self._ask_again(name, words, frame)
            else:
                self._start_spoken(name, words, frame)

        self._table.command(start)
        return name

    def resume(self, track_id: str, expression: str) -> None:
        """Go on, from the words, with a track that ended or one of a tracker with the same `names`; as `track`."""
        words = prompts.clean_expression(expression)
        self._table.keep(track_id, words)
        self._table.command(lambda frame: self._start_spoken(track_id, words, frame))

    def expressions(self) -> dict[str, str]:
        """Return the expressions of the tracks that were named by words and are not over, by id."""
        return self._table.expressions()

    def prompt(
        self,
        *,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        box: Sequence[float] | None = None,
        mask: np.ndarray | None = None,
        label: str = "",
        track_id: str | None = None,
        image: ImageLike | None = None,
    ) -> str:
        """Follow what is pointed at on the next frame; an existing `track_id` is corrected.

        With `image` it is pointed at on that picture, and looked for in the stream as `follow` does.

        Args:
            points: [N, 2] x and y in pixels, with `labels` [N]: 1 = on the object, 0 = not on it.
            box: x0, y0, x1, y1 in pixels.
            mask: bool [H, W].

        Returns:
            The track's id.

        Raises:
            InputError: not exactly one of points, box and mask, or labels that do not fit.
        """
        if sum(given is not None for given in (points, box, mask)) != 1:
            raise InputError("prompt: expected exactly one of points, box and mask")
        if points is not None:
            points = np.asarray(points, np.float32).reshape(-1, 2)
            labels = np.ones(len(points), int) if labels is None else np.asarray(labels, int)
            if len(labels) != len(points) or not len(points):
                raise InputError(
                    f"prompt: {len(points)} points and {len(labels)} labels; expected as many"
                )
        corners = None if box is None else tuple(float(v) for v in box)
        if corners is not None and len(corners) != 4:
            raise InputError(f"prompt: box is {corners}; expected x0, y0, x1, y1")
        if image is not None:
            clicks = () if points is None else tuple((float(x), float(y)) for x, y in points)
            marks = () if labels is None else tuple(int(mark) for mark in labels)
            mask = None if mask is None else check_mask(mask)
            view = ObjectView(as_image(image), Region(mask, corners, clicks, marks))  # type: ignore[arg-type]
            return self.follow(ObjectExample(label or "object", (view,)), track_id=track_id)
        name = self._claim(track_id, label or "object")

        def start(frame: Frame) -> None:
            self._start_prompted(
                name, label, frame, points=points, labels=labels, box=corners, mask=mask
            )

        self._table.command(start)
        return name

    def follow(self, example: ObjectExample, *, track_id: str | None = None) -> str:
        """Look in the stream for the object that an example shows, and follow it.

        Until something is found that looks like it the track is LOST and has no mask; when it is lost later, it is
        looked for again.

        Args:
            track_id: as in `prompt`; None = made of the example's name.

        Returns:
            The track's id.
        """
        name = self._claim(track_id, example.name)
        self._table.command(lambda frame: self._examples.start(name, example, frame))
        return name

    def example(self, track_id: str, name: str = "") -> ObjectExample:
        """Return what was seen of a track lately as an example, to be followed later or written to a file.

        Args:
            name: of the object; "" = the track's id.

        Raises:
            InputError: there is no such track, or it was not seen well enough so far.
        """
        views = self._seen.of(track_id)
        if not views:
            raise InputError(
                f"track {track_id!r}: was not seen well; expected one with a good mask"
            )
        return ObjectExample(name or track_id, views)

    def _claim(self, track_id: str | None, wish: str) -> str:
        """Return the id of a living track, or a new one."""
        if track_id is not None and self._table.knows(track_id):
            return track_id
        return self._table.new_id(track_id or wish)

    def stop(self, track_id: str | None = None) -> int:
        """Stop one track, or all; return how many."""
        names = self._table.release(track_id)
        for name in names:
            self._grounding.forget(name)  # at once: the model works on it for nobody
            self._table.command(
                lambda frame, name=name: self._end(name, frame, Reason.ASKED, "asked to stop")  # type: ignore[misc]
            )
        return len(names)

    # At the next frame, from its thread.

    def _start_spoken(self, name: str, words: str, frame: Frame) -> None:
        one = one_of(words)
        record = self._table.add(name, words, frame, from_text=not one)
        if record is None:
            return
        if one:
            self._instances.start(name, one, frame)
        else:
            self._words.ask(record, frame, Purpose.FIND)

    def _ask_again(self, name: str, words: str, frame: Frame) -> None:
        """The words of a track that lives were said again; it may have ended since."""
        record = self._table.get(name)
        if record is None or record.ended:
            self._table.drop(name)
            self._table.keep(name, words)
            self._start_spoken(name, words, frame)
        elif name in self._instances:
            self._instances.start(name, one_of(words), frame)
        else:
            record.check_at(frame.stamp)

    def _start_prompted(
        self,
        name: str,
        label: str,
        frame: Frame,
        *,
        points: np.ndarray | None,
        labels: np.ndarray | None,
        box: tuple[float, ...] | None,
        mask: np.ndarray | None,
    ) -> None:
        record = self._table.get(name)
        record = record or self._table.add(name, label, frame, from_text=False)
        if record is None:
            return
        try:
            prompt = visual_prompt(
                frame.rgb.shape, points=points, labels=labels, box=box, mask=mask
            )
            self._tracker.add(name, prompt)
        except InputError as error:
            self._table.fail(record, frame, Reason.INPUT, str(error))
            return
        record.grounded(None, frame.stamp)
        self._words.begin(record, frame.stamp, frame, label)

    def _end_others(self, name: str, frame: Frame) -> None:
        kept = (name, *self._instances.members(name))
        for record in self._table:
            if record.id not in kept:
                self._end(record.id, frame, Reason.REPLACED, f"replaced by {name!r}", name)
        self._drop_ended()

    def _end(self, name: str, frame: Frame, reason: Reason, why: str, other_id: str = "") -> None:
        record = self._table.get(name)
        if record is not None and not record.ended:
            record.stopped()
            self._grounding.forget(name)
            self._instances.forget(name)
            self._examples.forget(name)
            self._tracker.remove(name)
            self._table.tell(EventKind.STOPPED, record, frame, reason, why, other_id=other_id)

    def _drop_ended(self) -> None:
        """Drop stopped tracks and those not found, which were shown once."""
        for name in self._table.drop_ended():
            self._tracker.remove(name)
