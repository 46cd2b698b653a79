# SPDX-License-Identifier: Apache-2.0
"""By example: files, what is saved of a track, and a track that is searched for until something looks like it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sa2va_model import (
    Answer,
    LiveTracker,
    ObjectExample,
    ObjectView,
    Region,
    Sa2VA,
    Segmentation,
    Track,
    read_example,
)
from sa2va_model.errors import InputError
from sa2va_model.segmentation.proposals import ProposalConfig, _distinct, propose
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracking.by_example.example import FORMAT, MAX_VIEWS, ObjectFolder
from sa2va_model.tracking.by_example.finder import LEAST, ExampleFinder, Sighting, _name
from sa2va_model.tracking.by_example.look import ObjectLook, look_of
from sa2va_model.tracking.by_example.seen import SeenViews
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracks import EventKind, Reason, TrackState

QUIET = LiveConfig(verify_period=0, search_period=0.2, search_limit=0.4)


def view(seed: int = 0) -> ObjectView:
    rng = np.random.default_rng(seed)
    mask = np.zeros((30, 40), bool)
    mask[5:20, 8:21] = True
    return ObjectView(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8), Region(mask=mask))


def test_a_file_holds_pictures_and_masks(tmp_path: Path) -> None:
    given = ObjectExample("tea mug", (view(0), view(1)))
    found = read_example(given.write(tmp_path / "new" / "mug.object"))
    assert found.name == "tea mug"
    for one, other in zip(given.views, found.views, strict=True):
        np.testing.assert_array_equal(one.rgb, other.rgb)
        np.testing.assert_array_equal(one.region.mask, other.region.mask)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mug.object"]


def png(shape: tuple[int, ...], value: int = 255) -> np.ndarray:
    return cv2.imencode(".png", np.full(shape, value, np.uint8))[1].ravel()


@pytest.mark.parametrize(
    ("tensors", "about", "says"),
    [
        ({"picture_0": png((4, 6, 3))}, {"format": FORMAT}, "has no mask_0"),
        ({"mask_0": png((4, 6))}, {"format": FORMAT}, "holds 0 pictures; expected 1 to"),
        ({"picture_0": png((4, 6, 3)), "mask_0": png((4, 6))}, {}, "format is None; expected"),
        ({"picture_0": png((4, 6, 3)), "mask_0": png((5, 6))}, {"format": FORMAT}, "size is 6x5"),
        ({"picture_0": png((4, 6, 3)), "mask_0": png((4, 6), 0)}, {"format": FORMAT}, "is empty"),
        ({"picture_0": png((4, 6, 3))[:40], "mask_0": png((4, 6))}, {"format": FORMAT}, "cut"),
        (
            {"picture_0": np.zeros(9, np.float32), "mask_0": png((4, 6))},
            {"format": FORMAT},
            "no picture_0 of bytes",
        ),
    ],
)
def test_a_file_with_something_else_is_refused(
    tmp_path: Path, tensors: dict[str, np.ndarray], about: dict[str, str], says: str
) -> None:
    path = tmp_path / "it.object"
    save_file(tensors, str(path), metadata=about or None)
    with pytest.raises(InputError, match=says) as refused:
        read_example(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff" * 64])
def test_junk_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "it.object").write_bytes(data)
    with pytest.raises(InputError, match=r"it\.object: .*expected an object's file"):
        read_example(tmp_path / "it.object")


def test_objects_are_kept_by_name(tmp_path: Path) -> None:
    folder = ObjectFolder(tmp_path)
    folder.save(ObjectExample("the Tea  Mug", (view(),)))
    assert folder.names() == ["tea_mug"]
    assert folder.read("tea mug").name == "the Tea  Mug"
    for name in ("", "a/b", "..", ".x", "x" * 99, "a\nb\x00"):
        with pytest.raises(InputError, match="object's name"):
            folder.read(name)


def test_what_an_example_must_be() -> None:
    with pytest.raises(InputError, match="0 views; expected 1 to"):
        ObjectExample("it", ())
    with pytest.raises(InputError, match="outside the image"):
        ObjectView(view().rgb, Region(box=(50, 1, 60, 9)))
    with pytest.raises(InputError, match="has no mask"):
        ObjectExample("it", (ObjectView(view().rgb, Region(box=(1, 1, 9, 9))),)).write(Path("x"))


def test_proposals_are_each_another_thing() -> None:
    masks = torch.zeros(4, 100)
    masks[0, :40] = masks[1, 5:40] = masks[2, 60:] = masks[3, 30:70] = 1
    assert _distinct(masks, ProposalConfig()) == [0, 2, 3], "the second lies on the first"
    assert _distinct(masks, ProposalConfig(most=2)) == [0, 2]
    model = nano_model()
    features = model.encode_image(noisy_clip(1)[0].rgb)
    config = ProposalConfig(side=4, batch=5, min_quality=0.0, max_area=1.0, overlap=2.0, most=99)
    logits, quality = propose(model.segmenter, features, config)
    assert len(logits) == len(quality) > 1
    assert (quality[:-1] >= quality[1:]).all()
    assert logits.shape[1:] == (1, *(model.config.sam2.mask_size,) * 2)
    assert not len(propose(model.segmenter, features, replace(config, min_quality=2.0))[0])


class Finds:
    """Stands for the finder: sees the object in the middle at some calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shown: set[int]) -> None:
        self.calls, self.shown = 0, shown
        monkeypatch.setattr(ExampleFinder, "find", self.find)

    def find(self, *_: Any) -> Sighting | None:
        self.calls += 1
        mask = np.zeros((30, 40), bool)
        mask[8:20, 8:20] = True
        return Sighting(mask, None, 1.0) if self.calls in self.shown else None


def test_an_example_is_searched_for_and_then_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Finds(monkeypatch, {3})
    live = LiveTracker(nano_model(), QUIET)
    name = live.prompt(box=(8, 5, 21, 20), image=view().rgb, label="the tea mug")
    assert name == "tea_mug"
    results = [live.process(frame) for frame in noisy_clip(12)]
    states = [result.tracks[0].state for result in results]
    first = states.index(TrackState.TRACKING)
    assert set(states[:first]) == {TrackState.LOST}
    assert all(r.tracks[0].mask is None for r in results[:first]), "no mask on a guess"
    assert results[first].tracks[0].area > 0
    told = [(e.kind, e.reason) for r in results for e in r.events][:3]
    assert told == [
        (EventKind.STARTED, Reason.ASKED),
        (EventKind.LOST, Reason.ABSENT),
        (EventKind.FOUND, Reason.EXAMPLE),
    ]
    assert looks.calls == 3, "no look while it is followed"


def test_looks_become_rarer_and_end_with_the_track(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Finds(monkeypatch, set())
    live = LiveTracker(nano_model(), replace(QUIET, give_up_after=3.0))
    live.follow(ObjectExample("it", (view(),)))
    results = [live.process(frame) for frame in noisy_clip(40)]
    assert looks.calls == 7, (
        "0.2, 0.3 and then 0.4 s after each answer, which comes with the next frame"
    )
    told = [(e.kind, e.reason) for r in results for e in r.events]
    assert told[-1] == (EventKind.STOPPED, Reason.GIVEN_UP)
    assert not results[-1].tracks


def test_one_that_is_lost_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Finds(monkeypatch, {1, 2})
    live = LiveTracker(nano_model(), QUIET)
    name = live.follow(ObjectExample("it", (view(),)))
    clip = noisy_clip(6)
    live.process(clip[0])
    record = live._table.get(name)
    assert record is not None
    assert record.life is not None
    record.life.state = record.state = TrackState.LOST
    record.life.existence.log_odds = -9.0
    live.process(clip[1])
    result = live.process(clip[2])
    assert looks.calls == 2
    assert [(e.kind, e.reason) for e in result.events] == [(EventKind.REACQUIRED, Reason.EXAMPLE)]


class Named(Sa2VA):
    """Calls every region a mug, and points at what is red, at the larger one first."""

    asked: list[str]

    def describe_regions(self, image: Any, regions: Any, *_: Any, **__: Any) -> Answer:
        """Return the name."""
        return Answer("A red mug.", (), np.zeros((0, 1, 1, 1), bool))

    def segment(self, image: Any, expression: str, **_: Any) -> Segmentation:  # type: ignore[override]
        """Return the largest red part."""
        self.asked.append(expression)
        red = (image[..., 0].astype(int) - image[..., 1] > 60).astype(np.uint8)
        count, labels, sizes, _ = cv2.connectedComponentsWithStats(red)
        if count == 1:
            return Segmentation(False, "no", np.zeros((0, *red.shape), bool), np.zeros(0))
        return Segmentation(True, "", (labels == 1 + sizes[1:, 4].argmax())[None], np.ones(1))


def test_of_things_with_one_name_the_one_that_looks_like_it_is_found() -> None:
    model = nano_model()
    model.__class__ = Named
    assert isinstance(model, Named)
    model.asked = []

    def picture(*mugs: tuple[int, int]) -> np.ndarray:
        rgb = np.full((60, 120, 3), 120, np.uint8)
        for x, green in mugs:
            rgb[20:40, x : x + 20 + x // 20] = (240, green, 10)
        return rgb

    shown = ObjectView(picture((10, 10)), Region(mask=picture((10, 10))[..., 0] > 200))
    finder = ExampleFinder(ObjectExample("it", (shown,)))
    found = finder.find(model, picture((20, 10), (80, 170)))
    assert finder.names == ("the red mug",)
    assert found is not None
    np.testing.assert_array_equal(found.mask, picture((20, 10))[..., 0] > 200)
    assert found.embedding is None, "it was seen only with the other one painted over"
    assert model.asked == ["the red mug"] * 3, "both are looked at, and no third is there"
    assert finder.find(model, picture()) is None
    assert finder.find(model, picture((80, 170))) is None, "of that name, in another colour"


def test_a_look_is_that_of_the_thing_wherever_it_stands() -> None:
    model, rng = nano_model(), np.random.default_rng(0)
    thing, other = rng.integers(0, 256, (2, 24, 24, 3)).astype(np.uint8)

    def look(pixels: np.ndarray, x: int, side: int) -> ObjectLook:
        rgb, mask = np.full((96, 128, 3), 90, np.uint8), np.zeros((96, 128), bool)
        rgb[30 : 30 + side, x : x + side] = cv2.resize(pixels, (side, side))
        mask[30 : 30 + side, x : x + side] = True
        return look_of(model, rgb, mask)

    same = look(thing, 10, 24).likeness(look(thing, 70, 30))
    assert look(thing, 10, 24).likeness(look(thing, 10, 24)) == pytest.approx(1.3)
    assert same > LEAST
    assert same > look(thing, 10, 24).likeness(look(other, 70, 30)) + 0.1


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("An orange can.", "the orange can"),
        ("a red mug", "the red mug"),
        ("mug", "mug"),
        ("", ""),
        ("A.", "A"),
    ],
)
def test_a_description_becomes_a_name(said: str, name: str) -> None:
    assert _name(said) == name


def test_a_search_that_fails_costs_its_track_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(ExampleFinder, "find", broken)
    live = LiveTracker(nano_model(), QUIET)
    live.follow(ObjectExample("it", (view(),)))
    live.prompt(box=(5, 5, 20, 20), label="other")
    results = [live.process(frame) for frame in noisy_clip(2)]
    failed = [e for e in results[0].events if e.kind == EventKind.FAILED]
    assert [(e.track_id, e.detail) for e in failed] == [("it", "RuntimeError: no kernel")]
    assert [track.id for track in results[1].tracks] == ["other"]


def test_what_was_seen_can_be_followed_again() -> None:
    live = LiveTracker(nano_model(), QUIET)
    with pytest.raises(InputError, match="'mug': was not seen well"):
        live.example("mug")
    mask = np.zeros((30, 40), bool)
    mask[3:9, 3:9] = True
    good = Track("mug", "the mug", TrackState.TRACKING, 1, mask, area=36, score=0.9)
    seen, clip = SeenViews(), noisy_clip(90)
    seen.update(clip[0], (replace(good, score=0.3),))
    assert not seen.of("mug")
    for frame in clip:
        seen.update(frame, (good,))
    views = seen.of("mug")
    assert len(views) == MAX_VIEWS
    assert views[0].rgb is clip[0].rgb
    assert views[-1].rgb is clip[80].rgb
    seen.update(clip[-1], ())
    assert not seen.of("mug"), "forgotten with its track"
