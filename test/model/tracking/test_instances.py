# SPDX-License-Identifier: Apache-2.0
""" "every cup": one track for each of them. The model's masks are replaced by red squares that are seen or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.segmentation.object_masks import objects_in, painted_over
from sa2va_model.testing import nano_model, noisy_clip
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

    monkeypatch.setattr(InstanceGroups, "_new", new)
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
    assert len(model.asked) == count + 1, "asked until there is no more, then no longer"
    found = [e.track_id for r in results for e in r.events if e.kind == EventKind.FOUND]
    assert sorted(found) == [track.id for track in tracks]


def test_no_more_than_are_wanted(model: Seeing) -> None:
    live = LiveTracker(model, replace(APART, max_instances=2))
    live.track("every red block")
    assert len(living(run(live, [picture(SQUARES)] * 6)[-1])) == 2
    assert len(model.asked) == 2


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
    assert len(model.asked) - asked < (8 if keep else 1), "less and less often"


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
