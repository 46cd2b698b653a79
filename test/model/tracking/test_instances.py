# SPDX-License-Identifier: Apache-2.0
""" "every cup": one track for each of them. The model's masks are replaced by red squares that are seen or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.segmentation.object_check import ObjectCheck
from sa2va_model.segmentation.object_masks import objects_in, painted_over
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracking import instances
from sa2va_model.tracking.instances import InstanceGroups, one_of
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracks import EventKind, FrameResult, Track, TrackState

SHAPE = (60, 120)
QUIET = LiveConfig(verify_period=0)
# Random weights follow each square all over the image: that two masks lie on each other means nothing.
APART = replace(QUIET, merge_duplicates=False)
SQUARES = [(8 + 22 * k, 20 + 3 * k, 12) for k in range(5)]  # x, y, side


def picture(squares: Sequence[tuple[int, int, int]]) -> np.ndarray:
    rgb = np.full((*SHAPE, 3), 120, np.uint8)
    for x, y, side in squares:
        rgb[y : y + side, x : x + side] = (250, 0, 0)
    return rgb


def red(rgb: np.ndarray) -> np.ndarray:
    seen: np.ndarray = rgb[..., 0].astype(int) - rgb[..., 1] > 100
    return seen


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

    def new(self: Any, embedding: Any, shown: Any, known: Any, most: int) -> list[np.ndarray]:
        count, labels = cv2.connectedComponents(red(shown.frame.rgb).astype(np.uint8))
        return [labels == 1] if count > 1 and most > 0 else []

    def pointed_at(self: Any, embeddings: Any, image: np.ndarray) -> np.ndarray | None:
        _, labels, sizes, _ = cv2.connectedComponentsWithStats(red(image).astype(np.uint8))
        return labels == 1 + sizes[1:, 4].argmax() if len(embeddings) else None

    monkeypatch.setattr(InstanceGroups, "_new", new)
    monkeypatch.setattr(InstanceGroups, "_pointed_at", pointed_at)
    monkeypatch.setattr(instances, "propose", lambda *_: ((), ()))
    monkeypatch.setattr(InstanceGroups, "_mask", lambda self, name, frame: self.known[name])
    monkeypatch.setattr(InstanceGroups, "known", {}, raising=False)
    add = InstanceGroups._add

    def remember(self: Any, group: Any, mask: np.ndarray, *rest: Any) -> None:
        add(self, group, mask, *rest)
        self.known[group.members[-1]] = mask

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


def see_red(rgb: np.ndarray) -> np.ndarray | None:
    mask = red(rgb)
    return mask if mask.any() else None


def test_each_thing_is_asked_about_alone_and_closer() -> None:
    rgb, things = blue_and_red()
    check = ObjectCheck(rgb, [*things, things[0]])
    assert checked(check, see_red) == 1 + 3 * 2 + 2, "what is refuted needs no closer look"
    assert check.denies
    assert [bool((rgb[mask] == (250, 0, 0)).all()) for mask in check.accepted] == [True] * 3
    assert [bool((rgb[mask] == (0, 0, 250)).all()) for mask in check.refuted] == [True] * 2
    assert checked(ObjectCheck(rgb, things, denies=True), see_red) == 3 * 2 + 2


def test_an_answer_must_lie_on_the_thing_both_times() -> None:
    rgb, things = blue_and_red()
    shifted = np.roll(things[0], 6, axis=1)  # half of it beside the thing
    answers = iter([None, things[0], None, shifted])
    check = ObjectCheck(rgb, things[:1])
    checked(check, lambda _: next(answers))
    assert len(check.refuted) == 1
    answers = iter([None, shifted, None])
    check = ObjectCheck(rgb, things[:1])
    checked(check, lambda _: next(answers))
    assert not check.accepted


def test_a_model_that_never_denies_is_not_asked_further() -> None:
    rgb, things = blue_and_red()
    check = ObjectCheck(rgb, things)
    assert checked(check, lambda shown: np.ones(shown.shape[:2], bool)) == 1
    assert check.denies is False
    assert not check.accepted


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


def test_what_is_painted_over_has_the_colour_around_it() -> None:
    rgb = picture(SQUARES[:2])
    painted = painted_over(rgb, [red(picture(SQUARES[:1]))])
    assert (red(painted) == red(picture(SQUARES[1:2]))).all()
    assert (rgb == picture(SQUARES[:2])).all(), "the image itself stays"
