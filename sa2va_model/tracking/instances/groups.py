# SPDX-License-Identifier: Apache-2.0
"""Several instances of one description: "every cup" becomes one track for each cup.

The language model points at one thing, or at several in one answer or one mask. What it points at is cut into objects
(`object_masks.py`). If it can deny, it is asked in other ways, too (`object_search.py`); these things and all others
on the frame (`proposals.py`) are asked about one by one (`object_check.py`). Then the found ones are painted over and
it is asked again, until it sees no more. So a model that knows no plural counts as well, and what joins later is found
in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from sa2va_model.io.frames import Frame
from sa2va_model.mllm.word_probes import Likeness
from sa2va_model.segmentation.object_check import AGREEMENT, CheckedThing, ObjectCheck
from sa2va_model.segmentation.object_masks import objects_in, painted_over, same_object
from sa2va_model.segmentation.object_search import ObjectSearch, Query, distinct
from sa2va_model.segmentation.proposals import propose
from sa2va_model.segmentation.types import ImageFeatures, Prompt
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.frame_ring import FrameRing, RingFrame
from sa2va_model.tracking.grounding_worker import (
    Answered,
    GroundingQuestion,
    GroundingService,
    Purpose,
)
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.instances.start import InstanceStart
from sa2va_model.tracking.judgement.visibility_test import VisibilityTest
from sa2va_model.tracking.track_record import TrackRecord
from sa2va_model.tracking.track_table import TrackTable
from sa2va_model.tracks import EventKind, Reason, TrackState

_EVERY = re.compile(r"^(?:every|each)\s+(?:single\s+)?(?:one of the\s+)?(.+)$", re.IGNORECASE)
_ALL = re.compile(r"^all\s+(?:of\s+)?(?:the\s+)?(.+)$", re.IGNORECASE)
_BEHIND_A_NOUN = r"\s(?:on|in|at|of|to|by|with|near|next|behind|under|above|below|beside|between|from|that|which)\b"

REMEMBERED = 32  # things that are not meant; nothing grows for ever

Begin = Callable[[TrackRecord, float, Frame, str], None]


def one_of(words: str) -> str:
    """Return what one of many is called: "the cup" for "every cup" and "all the cups"; "" if one thing is meant."""
    if found := _EVERY.match(words):
        return f"the {found[1]}"
    if found := _ALL.match(words):
        rest = re.search(_BEHIND_A_NOUN, found[1])
        head = found[1][: rest.start()] if rest else found[1]
        return f"the {_singular(head)}{found[1][len(head) :]}"
    return ""


def _singular(words: str) -> str:
    for ending, one in (("ies", "y"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss")):
        if words.endswith(ending):
            return words.removesuffix(ending) + one
    return words[:-1] if words.endswith("s") and not words.endswith("ss") else words


@dataclass
class _Group:
    """The instances of one description.

    Attributes:
        one: what one of them is called, "the cup"; `words`: as they were asked for, "every cup".
        first: the record that speaks for all until there is one.
        shown: the painted frame that is asked about, and what was painted over; None = no question is open.
        original: the same frame as it is.
        search: asks for further things on it; `check`: asks about all of them, one by one; None = not yet.
        called: what the first answer called it; `likeness`: what on the frame looks like it.
        refuted: things on earlier frames that are not meant.
        denies: the model was seen to deny.
        look_at: stamp of the next look; None = all were found.
    """

    one: str
    words: str
    first: str
    members: list[str] = field(default_factory=list)
    shown: RingFrame | None = None
    painted: list[np.ndarray] = field(default_factory=list)
    original: RingFrame | None = None
    search: ObjectSearch | None = None
    check: ObjectCheck | None = None
    called: str = ""
    likeness: Likeness | None = None
    refuted: list[np.ndarray] = field(default_factory=list)
    denies: bool = False
    look_at: float | None = None
    pause: float = 0.0


@dataclass(frozen=True)
class Resting:
    """A group that is not looked for.

    Attributes:
        name: of the track that speaks for it; `one`: what one of them is called.
        members: its tracks that live.
        denies: the model was seen to deny.
    """

    name: str
    one: str
    members: list[str]
    denies: bool


class InstanceGroups:
    """Looks for the instances of descriptions, from the thread of the frames.

    Args:
        start: prompts the memory of an instance; `begin`: begins the life of its track.
        confirmed: log-likelihood ratio of a yes of the language model.
    """

    def __init__(
        self,
        config: LiveConfig,
        table: TrackTable,
        *,
        grounding: GroundingService,
        vision: Vision,
        visibility: VisibilityTest,
        ring: FrameRing,
        start: InstanceStart,
        begin: Begin,
        confirmed: float,
    ) -> None:
        self._config, self._table = config, table
        self._begin, self._confirmed = begin, confirmed
        self._grounding, self._vision, self._visibility = grounding, vision, visibility
        self._ring, self._start = ring, start
        self._groups: dict[str, _Group] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def __contains__(self, name: str) -> bool:
        """Return whether a track speaks for a group."""
        return name in self._groups

    def reconfigure(self, config: LiveConfig) -> None:
        """Use other periods and limits from now on."""
        self._config = config

    def members(self, name: str) -> list[str]:
        """Return the tracks of the group that a track speaks for."""
        group = self._groups.get(name)
        return list(group.members) if group else []

    def resting(self) -> Iterator[Resting]:
        """Groups with members, about which no question is open."""
        for name, group in self._groups.items():
            members = self._living(group)
            if group.shown is None and members:
                yield Resting(name, group.one, members, group.denies)

    def in_view(self) -> list[set[str]]:
        """Return the tracks of each group that show something: no two of them are the same thing."""
        groups = []
        for group in self._groups.values():
            records = (self._table.get(name) for name in group.members)
            groups.append({r.id for r in records if r and r.state == TrackState.TRACKING})
        return groups

    def painted(self, names: Iterable[str], frame: Frame) -> np.ndarray:
        """Return the newest frame, uint8 [H, W, 3], without what these tracks show on it."""
        masks = [mask for name in names if (mask := self._mask(name, frame)) is not None]
        return painted_over(frame.rgb, masks) if masks else frame.rgb

    def start(self, name: str, one: str, frame: Frame) -> None:
        """Look for all instances, from this frame on; again if they are known."""
        record = self._table.get(name)
        words = record.expression if record is not None else one
        group = self._groups.setdefault(name, _Group(one, words, name))
        if group.shown is None:
            self._look(group, frame)

    def forget(self, name: str | None = None) -> None:
        """Look no more for one group, or all; its tracks live on."""
        for each in [key for key in self._groups if name in (None, key)]:
            del self._groups[each]

    def look_due(self, frame: Frame) -> None:
        """Look for more where the time has come; forget groups that have ended."""
        for name, group in list(self._groups.items()):
            if group.shown is not None:
                continue
            group.members = self._living(group)
            if group.look_at is None and not group.members:
                self.forget(name)
            elif group.look_at is not None and frame.stamp >= group.look_at:
                self._look(group, frame)

    def takes(self, answered: Answered) -> bool:
        """Return whether an answer is to a question about a group."""
        return answered.question.track_id in self._groups

    def again(self, answered: Answered, frame: Frame) -> None:
        """An answer came on a frame that cannot be used: look again on the next."""
        group = self._groups[answered.question.track_id]
        self._close(group)
        group.look_at = frame.stamp

    def take(self, answered: Answered, frame: Frame) -> None:
        """Take an answer: it is followed by the next question, or new instances get tracks."""
        question, reply = answered.question, answered.reply
        group = self._groups[question.track_id]
        shown = group.shown
        embeddings = [] if reply is None else list(reply.embeddings)
        if group.check is not None:
            masks = self._pointed_at(embeddings[:1], question.frames[-1])
            group.check.answer(*((masks[0], embeddings[0]) if masks else (None,)))
        elif group.search is not None:
            group.search.answer(self._things_at(embeddings, question.frames[-1]))
        elif shown is None or self._ring.at(question.frame_index) is None:
            # The frame has gone, and with it what could be followed from it.
            self._close(group)
            group.look_at = frame.stamp
            return
        else:
            group.called = reply.label if reply else ""
            group.likeness = reply.likeness if reply else None
            group.search = self._search(group, shown, embeddings)
        query = self._query(group, shown) if shown is not None else None
        if query is not None:
            self._ask(query, question)
            return
        self._found(group, answered, frame)

    def _search(
        self, group: _Group, shown: RingFrame, embeddings: Sequence[Tensor]
    ) -> ObjectSearch | None:
        """Begin with what the first answer points at; None if that is nothing new."""
        room = self._config.max_instances - len(self._living(group))
        things: list[np.ndarray] = []
        for embedding in embeddings:
            known = [*group.painted, *things]
            things += self._new(embedding, shown, known, room - len(things))
        if not things:
            return None
        # Later looks are for what the first one missed, or what has come: one way of asking does.
        wide = not group.members
        rgb = shown.frame.rgb
        every = group.words if self._grounding.plurals else ""
        return ObjectSearch(rgb, group.one, things, denies=group.denies, wide=wide, every=every)

    def _query(self, group: _Group, shown: RingFrame) -> Query | None:
        """The next question about the frame; None = all were asked."""
        if group.search is None:
            return None
        if group.check is None:
            query = group.search.query()
            if query is not None or not group.search.denies:
                return query
            group.check = self._check(group, group.search.things, shown)
        picture = group.check.picture()
        return None if picture is None else Query(group.one, picture)

    def _check(self, group: _Group, things: list[np.ndarray], shown: RingFrame) -> ObjectCheck:
        """Ask about what the model pointed at and all other things on the frame."""
        logits, _ = propose(self._vision.follower, shown.features)
        proposed = self._visibility.masks([one[None] for one in logits], shown.frame.rgb)
        known = [*group.painted, *group.refuted]
        others = [m for m in proposed if m.any() and not any(same_object(m, k) for k in known)]
        # Where it does not say that there is none, the best one is meant, however unsure it is.
        return ObjectCheck(shown.frame.rgb, distinct([*things, *others]), some=not group.members)

    def _found(self, group: _Group, answered: Answered, frame: Frame) -> None:
        """Follow what was found on one frame, and plan the next look."""
        room = self._config.max_instances - len(self._living(group))
        masks = group.search.things if group.search is not None else []
        things = [CheckedThing(mask, 0.0, None) for mask in masks]
        if group.check is not None:
            things, group.denies = group.check.accepted, True
            group.refuted = [*group.refuted, *group.check.refuted][-REMEMBERED:]
        likeness = group.likeness
        if likeness is not None:
            things = [thing for thing in things if likeness.fits(thing.mask)]
        self._close(group)
        things = things[: max(room, 0)]
        for thing in things:
            self._add(group, thing, answered.question, frame)
        record = self._table.get(group.first)
        if not things and not group.members and record is not None and record.life is None:
            self._none(record, answered, frame)
            return
        self._plan(group, frame, found=len(things), room=room)

    @staticmethod
    def _close(group: _Group) -> None:
        """No question is open any more."""
        group.shown = group.search = group.check = group.likeness = None

    def _living(self, group: _Group) -> list[str]:
        records = (self._table.get(name) for name in group.members)
        return [record.id for record in records if record is not None and not record.ended]

    def _look(self, group: _Group, frame: Frame) -> None:
        """Ask about the newest frame, with what is known painted over."""
        masks = [mask for name in group.members if (mask := self._mask(name, frame)) is not None]
        picture = painted_over(frame.rgb, masks) if masks else frame.rgb
        group.shown = RingFrame(replace(frame, rgb=picture), self._vision.encode)
        group.painted, group.original = masks, self._ring.newest()
        index, purpose = frame.index, Purpose.SEARCH if group.members else Purpose.FIND
        words = group.words if self._grounding.plurals else group.one
        first = GroundingQuestion(group.first, words, [picture], index, index, frame.stamp, purpose)
        self._grounding.ask(first)

    def _ask(self, query: Query, first: GroundingQuestion) -> None:
        """Ask further about the frame of the first question."""
        self._grounding.ask(replace(first, expression=query.words, frames=[query.picture]))

    def _mask(self, name: str, frame: Frame) -> np.ndarray | None:
        record = self._table.get(name)
        view = record.view(frame.index) if record is not None else None
        if view is None or not view.mask.any():
            return None
        return self._visibility.masks([view.mask.float() - 0.5], frame.rgb)[0]

    def _pointed_at(self, embeddings: Sequence[Tensor], picture: np.ndarray) -> list[np.ndarray]:
        """What embeddings show on a picture, bool [H, W] each."""
        features = self._vision.encode(picture) if len(embeddings) else None
        shown = [self._vision.decode(one, features) for one in embeddings if features is not None]
        good = [decoded.logits for decoded in shown if self._visibility.passes(decoded)]
        return self._visibility.masks(good, picture)

    def _things_at(self, embeddings: Sequence[Tensor], picture: np.ndarray) -> list[np.ndarray]:
        """What embeddings show on a picture, as the objects that it is made of: bool [H, W] each."""
        masks = self._pointed_at(embeddings, picture)
        if not masks or not self._grounding.plurals:
            return masks
        features = self._vision.encode(picture)
        return [
            thing
            for mask in masks
            for thing in self._objects(mask, features, picture, self._config.max_instances)
        ]

    def _objects(
        self, mask: np.ndarray, features: ImageFeatures, picture: np.ndarray, most: int
    ) -> list[np.ndarray]:
        least = max(self._config.visibility.min_area * mask.size, 1.0)

        def at_point(x: float, y: float) -> np.ndarray | None:
            return self._at_point(x, y, features, picture)

        return objects_in(mask, at_point, least, most)

    def _new(
        self, embedding: Tensor, shown: RingFrame, known: list[np.ndarray], most: int
    ) -> list[np.ndarray]:
        """What an embedding shows on a painted frame, as objects that are not known yet."""
        if most <= 0:
            return []
        decoded = self._vision.decode(embedding, shown.features)
        if not self._visibility.passes(decoded):
            return []
        [mask] = self._visibility.masks([decoded.logits], shown.frame.rgb)
        things = self._objects(mask, shown.features, shown.frame.rgb, most)
        return [thing for thing in things if not any(same_object(thing, other) for other in known)]

    def _at_point(
        self, x: float, y: float, features: ImageFeatures, picture: np.ndarray
    ) -> np.ndarray | None:
        height, width = picture.shape[:2]
        points = torch.tensor([[x / width, y / height]], dtype=torch.float32)
        click = Prompt(points=points, labels=torch.ones(1, dtype=torch.int32))
        decoded = self._vision.decode(click, features)
        if not self._visibility.passes(decoded):
            return None
        return self._visibility.masks([decoded.logits], picture)[0]

    def _add(
        self,
        group: _Group,
        thing: CheckedThing,
        question: GroundingQuestion,
        frame: Frame,
    ) -> None:
        """Follow one more instance from the question's frame on."""
        record = self._table.get(group.first)
        if record is None or group.members:
            name = self._table.new_id(group.one, numbered=True)
            record = self._table.add(name, group.words, frame, from_text=False)
            if record is None:
                return
        group.members.append(record.id)
        self._start.follow(record, thing, question, group.original, frame)
        self._begin(record, question.stamp, frame, group.called or group.one)
        if (
            thing.agreement >= AGREEMENT
        ):  # it was told alone and closer: two answers more than one that is asked for
            record.confirmed(2 * self._confirmed)

    def _none(self, record: TrackRecord, answered: Answered, frame: Frame) -> None:
        """There is not one."""
        self.forget(record.id)
        if answered.error:
            self._table.fail(record, frame, Reason.MODEL, answered.error)
            return
        reply = answered.reply
        record.not_found()
        unknown = reply is not None and bool(reply.unknown)
        reason = Reason.UNKNOWN_WORD if unknown else Reason.ABSENT
        words = reply.in_vain if reply is not None else ""
        if reply is not None and reply.likeness is not None:  # all that was found looks otherwise
            words = reply.likeness.refusal
        self._table.tell(EventKind.NOT_FOUND, record, frame, reason, words)

    def _plan(self, group: _Group, frame: Frame, *, found: int, room: int) -> None:
        """Look at once as long as there are more, later if that is wanted, or no more."""
        config = self._config
        if found and found < room:
            group.look_at, group.pause = frame.stamp, config.search_period
        elif config.keep_looking:
            group.pause = min(max(group.pause, config.search_period) * 1.5, config.search_limit)
            group.look_at = frame.stamp + group.pause
        else:
            group.look_at = None
