# SPDX-License-Identifier: Apache-2.0
""" "every cup": one track for each of them. The model's masks are replaced by red squares that are seen or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.io.frames import Frame
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.segmentation import object_search
from sa2va_model.segmentation.object_check import CheckedThing, ObjectCheck
from sa2va_model.segmentation.object_masks import objects_in, painted_over
from sa2va_model.segmentation.object_search import ObjectSearch, overlap
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracking.config import VisibilityConfig
from sa2va_model.tracking.instances import groups as instances
from sa2va_model.tracking.instances.groups import InstanceGroups, one_of
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracks import EventKind, FrameResult, Track, TrackState

from .red_squares import SHAPE, picture, red

QUIET = LiveConfig(verify_period=0)
# Random weights follow each square all over the image: that two masks lie on each other means nothing.
APART = replace(QUIET, merge_duplicates=False)
SQUARES = [(8 + 22 * k, 20 + 3 * k, 12) for k in range(5)]  # x, y, side


class Seeing(Sa2VA):
    """Answers that there is one as long as something red is in the picture."""

    asked: list[str]

    def ground(self, frames: Sequence[np.ndarray], expression: str) -> GroundingResult:  # type: ignore[override]
        """The answer, without an embedding if there is nothing red."""
        self.asked.append(expression)
        reply = super().ground(frames, expression)
        return reply if red(frames[-1]).any() else replace(reply, embeddings=reply.embeddings[:0])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Seeing:
    """Sees one red square at a time, and follows each as it follows anything."""
    seeing = nano_model()
    seeing.__class__ = Seeing
    assert isinstance(seeing, Seeing)
    seeing.asked = []

    # One thing at a time: what it points at when asked in other ways is tested by itself.
    monkeypatch.setattr(object_search, "PLACES", ())
    monkeypatch.setattr(object_search, "CORNERS", ())

    def new(self: Any, embedding: Any, shown: Any, known: Any, most: int) -> list[np.ndarray]:
        count, labels = cv2.connectedComponents(red(shown.frame.rgb).astype(np.uint8))
        return [labels == 1] if count > 1 and most > 0 else []

    def pointed_at(self: Any, embeddings: Any, image: np.ndarray) -> list[np.ndarray]:
        _, labels, sizes, _ = cv2.connectedComponentsWithStats(red(image).astype(np.uint8))
        return [labels == 1 + sizes[1:, 4].argmax()] if len(embeddings) else []

    monkeypatch.setattr(InstanceGroups, "_new", new)
    monkeypatch.setattr(InstanceGroups, "_pointed_at", pointed_at)
    monkeypatch.setattr(instances, "propose", lambda *_: ((), ()))
    monkeypatch.setattr(InstanceGroups, "_mask", lambda self, name, frame: self.known[name])
    monkeypatch.setattr(InstanceGroups, "known", {}, raising=False)
    add = InstanceGroups._add

    def remember(self: Any, group: Any, thing: CheckedThing, *rest: Any) -> None:
        add(self, group, thing, *rest)
        self.known[group.members[-1]] = thing.mask

    monkeypatch.setattr(InstanceGroups, "_add", remember)
    return seeing


def run(live: LiveTracker, pictures: Sequence[np.ndarray], start: int = 0) -> list[FrameResult]:
    frames = [Frame(rgb, 0.1 * (start + k), start + k) for k, rgb in enumerate(pictures)]
    return [live.process(frame) for frame in frames]


def living(result: FrameResult) -> list[Track]:
    return [track for track in result.tracks if track.state != TrackState.STOPPED]


@pytest.mark.parametrize(
    ("words", "one"),
    [
        ("every cup", "the cup"),
        ("each single red block", "the red block"),
        ("all the red boxes", "the red box"),
        ("all berries on the plates", "the berry on the plates"),
        ("All of the glasses", "the glass"),
        ("the cup", ""),
        ("everyday shoes", ""),
        ("all-purpose glue", ""),
    ],
)
def test_words_for_several_things(words: str, one: str) -> None:
    assert one_of(words) == one


@pytest.mark.parametrize("count", [1, 3, 5])
def test_each_gets_a_track_of_its_own(model: Seeing, count: int) -> None:
    live = LiveTracker(model, APART)
    assert live.track("every red block") == "red_block_1"
    results = run(live, [picture(SQUARES[:count])] * 8)
    tracks = living(results[-1])
    assert [track.id for track in tracks] == [f"red_block_{k + 1}" for k in range(count)]
    assert {track.expression for track in tracks} == {"every red block"}
    assert set(model.asked) == {"the red block"}
    looks = count + 1  # until there is no more, then no longer
    assert len(model.asked) == looks + 2 * count + 1, "each twice alone, and once about nothing"
    found = [e.track_id for r in results for e in r.events if e.kind == EventKind.FOUND]
    assert sorted(found) == [track.id for track in tracks]


def test_no_more_than_are_wanted(model: Seeing) -> None:
    live = LiveTracker(model, replace(APART, max_instances=2))
    live.track("every red block")
    assert len(living(run(live, [picture(SQUARES)] * 6)[-1])) == 2
    assert len(model.asked) == 2 + 2 * 2 + 1


def test_none_is_told_once(model: Seeing) -> None:
    live = LiveTracker(model, QUIET)
    live.track("every red block")
    results = run(live, [picture([])] * 4)
    told = [event for result in results for event in result.events]
    assert [event.kind for event in told] == [EventKind.STARTED, EventKind.NOT_FOUND]
    assert not results[-1].tracks


@pytest.mark.parametrize("keep", [False, True])
def test_one_that_joins_is_found_if_that_is_wanted(model: Seeing, keep: bool) -> None:
    live = LiveTracker(model, replace(APART, keep_looking=keep))
    live.track("every red block")
    run(live, [picture(SQUARES[:2])] * 6)
    asked = len(model.asked)
    late = run(live, [picture(SQUARES[:3])] * 40, start=6)
    assert len(living(late[-1])) == (3 if keep else 2)
    assert len(model.asked) - asked < (10 if keep else 1), "less and less often"


def test_an_answer_whose_frame_has_gone_is_asked_for_again(model: Seeing) -> None:
    live = LiveTracker(model, APART)
    name = live.track("every red block")
    frames = [Frame(picture(SQUARES[:2]), 0.1 * k, k) for k in range(6)]
    at, taken = live._ring.at, []
    # The first answer finds its frame gone.
    live._ring.at = lambda index: at(index) if taken else taken.append(index)  # type: ignore[method-assign, func-returns-value]
    results = [live.process(frame) for frame in frames]
    assert [track.id for track in living(results[-1])] == [name, "red_block_2"]


def test_the_looking_goes_on_when_all_are_gone_if_that_is_wanted(model: Seeing) -> None:
    live = LiveTracker(model, replace(APART, keep_looking=True))
    live.track("every red block")
    run(live, [picture(SQUARES[:2])] * 6)
    live.stop("red_block_2")
    for record in live._table:
        record.stopped()
    later = run(live, [picture(SQUARES[:1])] * 40, start=6)
    assert [track.id for track in living(later[-1])] == ["red_block_3"]
    assert later[-1].tracks[0].expression == "every red block"


def test_the_same_words_look_again_and_stopping_the_first_ends_the_looking(model: Seeing) -> None:
    live = LiveTracker(model, QUIET)
    name = live.track("every red block")
    run(live, [picture(SQUARES[:1])] * 4)
    assert live.track("every red block", replace=True) == name
    assert len(living(run(live, [picture(SQUARES[:2])] * 4, start=4)[-1])) == 2
    live.stop(name)
    asked = len(model.asked)
    assert [t.id for t in living(run(live, [picture(SQUARES)] * 4, start=8)[-1])] == ["red_block_2"]
    assert len(model.asked) == asked


def test_a_model_that_points_anywhere_makes_no_endless_group() -> None:
    model = nano_model()
    live = LiveTracker(model, replace(QUIET, max_instances=4))
    live.track("every mug")
    results = [live.process(frame) for frame in noisy_clip(12)]
    assert 1 <= len(living(results[-1])) <= 4


def test_what_is_followed_is_painted_over_before_the_next_look() -> None:
    live = LiveTracker(nano_model(), replace(APART, max_instances=2))
    name = live.track("every mug")
    frame = noisy_clip(1)[0]
    live.process(frame)
    mask = live._instances._mask(name, frame)
    assert mask is not None
    assert mask.shape == frame.rgb.shape[:2]
    record = live._table.get(name)
    assert record is not None
    for later in noisy_clip(4)[1:]:
        live.process(later)
    assert record.view(frame.index) is None, "the newest is enough"


def test_what_pointed_at_a_thing_begins_its_memory() -> None:
    live = LiveTracker(nano_model(), QUIET)
    live.track("every mug")
    frame = noisy_clip(1)[0]
    live.process(frame)
    seen, groups = live._ring.newest(), live._instances
    assert seen is not None
    embedding = torch.ones(nano_model().config.sam2.hidden_dim)
    [mask] = groups._visibility.masks(
        [groups._vision.decode(embedding, seen.features).logits], frame.rgb
    )
    groups._visibility.reconfigure(VisibilityConfig(min_quality=0.0, min_area=0.0))
    assert groups._start.prompt(CheckedThing(mask, 1.8, embedding), seen).embedding is embedding
    # Among the others it shows something else: the mask tells which of them is meant.
    assert groups._start.prompt(CheckedThing(~mask, 1.8, embedding), seen).embedding is None
    assert groups._start.prompt(CheckedThing(mask, 0.0, None), seen).mask is not None


def test_what_was_told_alone_and_closer_is_surer_to_exist(model: Seeing) -> None:
    live = LiveTracker(model, APART)
    name = live.track("every red block")
    run(live, [picture(SQUARES[:1])])
    record = live._table.get(name)
    assert record is not None
    assert record.life is not None
    start, confirmed = Calibration().start, Calibration().confirmed
    assert record.life.existence.log_odds > start + confirmed


def blue_and_red() -> tuple[np.ndarray, list[np.ndarray]]:
    rgb, things = picture([]), []
    for x, y, side in SQUARES:
        mask = np.zeros(SHAPE, bool)
        mask[y : y + side, x : x + side] = True
        rgb[mask] = (250, 0, 0) if len(things) % 2 == 0 else (0, 0, 250)
        things.append(mask)
    return rgb, things


def checked(check: ObjectCheck, see: Callable[[np.ndarray], np.ndarray | None]) -> int:
    """Answer until there is no more question; return how many there were."""
    asked = 0
    while (shown := check.picture()) is not None:
        check.answer(see(shown))
        asked += 1
    return asked


def masks_of(check: ObjectCheck) -> list[np.ndarray]:
    return [one.mask for one in check.accepted]


def see_red(rgb: np.ndarray) -> np.ndarray | None:
    mask = red(rgb)
    return mask if mask.any() else None


def test_each_thing_is_asked_about_alone_and_closer() -> None:
    rgb, things = blue_and_red()
    check = ObjectCheck(rgb, [*things, things[0]])
    assert checked(check, see_red) == 3 * 2 + 2, "what is refuted needs no closer look"
    assert [bool((rgb[mask] == (250, 0, 0)).all()) for mask in masks_of(check)] == [True] * 3
    assert [bool((rgb[mask] == (0, 0, 250)).all()) for mask in check.refuted] == [True] * 2


def test_an_answer_must_lie_on_the_thing_both_times() -> None:
    rgb, things = blue_and_red()
    shifted = np.roll(things[0], 6, axis=1)  # half of it beside the thing
    answers = iter([shifted, None])
    check = ObjectCheck(rgb, things[:1])
    checked(check, lambda _: next(answers))
    assert len(check.refuted) == 1
    answers = iter([None])
    check = ObjectCheck(rgb, things[:1])
    checked(check, lambda _: next(answers))
    assert not check.accepted


def test_the_best_of_several_masks_of_a_thing_is_taken() -> None:
    rgb, things = blue_and_red()
    part = things[0] & (np.arange(SHAPE[1]) < SQUARES[0][0] + 8)  # two thirds of it: 1.33 in sum
    check = ObjectCheck(rgb, [part, *things])
    assert checked(check, see_red) == 4 * 2 + 2
    assert all(any((mask == thing).all() for thing in things) for mask in masks_of(check))
    assert len(check.accepted) == 3
    first = ObjectCheck(rgb, [*things, part])
    assert checked(first, see_red) == 3 * 2 + 2, "nothing is asked about a thing that is sure"


def test_where_there_must_be_one_the_best_is_taken() -> None:
    rgb, things = blue_and_red()
    for some, taken in ((True, 1), (False, 0)):
        check = ObjectCheck(rgb, [things[0], things[2]], some=some)
        checked(
            check, lambda shown: np.roll(red(shown), 5, 1) if shown.shape[:2] == SHAPE else None
        )
        assert len(check.accepted) == taken, "IoU .41 at its place, nothing in the closer picture"


def searched(search: ObjectSearch) -> list[str]:
    """Answer with what is red until there is no more question; return the words of all."""
    asked = []
    while (query := search.query()) is not None:
        asked.append(query.words)
        mask = see_red(query.picture)
        search.answer([] if mask is None else [mask])
    return asked


def test_it_is_asked_by_place_and_about_parts_of_the_picture() -> None:
    rgb, things = blue_and_red()
    search = ObjectSearch(rgb, "the block", things[:1])
    asked = searched(search)
    assert asked[0] == "the block", "about nothing: it denies"
    assert asked[1:3] == ["the leftmost block", "the rightmost block"]
    assert asked[-4:] == ["the block"] * 4
    assert search.denies
    wanted = things[0] | things[2] | things[4]
    assert any((mask == wanted).all() for mask in search.things)
    parts = [mask for mask in search.things[1:] if not (mask == wanted).all()]
    assert parts, "masks of a part of the picture lie where they were seen"
    assert all((mask & ~wanted).sum() == 0 for mask in parts)
    assert all(overlap(one, two) < 0.75 for one in parts for two in parts if one is not two)


def test_a_model_that_marks_all_is_asked_for_all_on_parts_of_the_picture() -> None:
    rgb, things = blue_and_red()
    asked = searched(ObjectSearch(rgb, "the block", things[:1], every="every block"))
    assert asked[0] == "the block", "about nothing: whether it denies"
    assert asked[-4:] == ["every block"] * 4


def test_a_model_that_marks_all_is_asked_in_the_words_as_they_are(model: Seeing) -> None:
    model.vocabulary = Vocabulary(
        frozenset(("block",)), frozenset(("red",)), frozenset(("every",)), plurals=True
    )
    live = LiveTracker(model, APART)
    live.track("every red block")
    tracks = living(run(live, [picture(SQUARES[:3])] * 8)[-1])
    assert len(tracks) == 3
    assert set(model.asked) == {"every red block", "the red block"}
    assert model.asked[0] == "every red block"


def test_later_looks_ask_in_one_way() -> None:
    rgb, things = blue_and_red()
    assert searched(ObjectSearch(rgb, "the block", things, denies=True, wide=False)) == []


def test_a_model_that_never_denies_is_not_asked_further() -> None:
    rgb, things = blue_and_red()
    search = ObjectSearch(rgb, "the block", things)
    assert search.query() is not None
    search.answer([np.ones(SHAPE, bool)])
    assert search.query() is None
    assert search.denies is False
    assert len(search.things) == len(things)


def test_a_mask_of_several_is_cut_where_the_segmenter_sees_objects() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    for k, (x, y, side) in enumerate(SQUARES[:3]):
        labels[y : y + side, x : x + side] = k + 1
    labels[20:50, 80:90] = labels[20:50, 96:106] = 4  # one thing behind a pole

    def at_point(x: float, y: float) -> np.ndarray | None:
        return labels == labels[int(y), int(x)] if labels[int(y), int(x)] else None

    cut = objects_in(labels > 0, at_point, 10, 8)
    assert sorted(int(mask.sum()) for mask in cut) == [144, 144, 144, 600]
    assert len(objects_in(labels > 0, at_point, 10, 2)) == 2
    alone = objects_in(labels == 4, lambda x, y: None, 10, 8)
    assert [int(mask.sum()) for mask in alone] == [300, 300], "without an opinion, connected parts"


def test_things_that_touch_come_apart_where_the_segmenter_knows_better() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    for k in range(3):
        labels[20:40, 10 + 20 * k : 30 + 20 * k] = k + 1

    def at_point(x: float, y: float) -> np.ndarray | None:
        return labels == labels[int(y), int(x)] if labels[int(y), int(x)] else None

    cut = objects_in(labels > 0, at_point, 10, 8)
    assert sorted(int(mask.sum()) for mask in cut) == [400, 400, 400]
    whole = objects_in(labels > 0, lambda x, y: labels > 0, 10, 8)
    assert [int(mask.sum()) for mask in whole] == [1200]
    pixel = np.zeros(SHAPE, bool)
    pixel[30, 40] = True
    assert len(objects_in(labels > 0, lambda x, y: pixel, 10, 8)) >= 1, "it ends"


def test_what_is_painted_over_has_the_colour_around_it() -> None:
    rgb = picture(SQUARES[:2])
    painted = painted_over(rgb, [red(picture(SQUARES[:1]))])
    assert (red(painted) == red(picture(SQUARES[1:2]))).all()
    assert (rgb == picture(SQUARES[:2])).all(), "the image itself stays"
