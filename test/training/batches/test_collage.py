# SPDX-License-Identifier: Apache-2.0
"""Collages say what they show, and names of things are asked for as the run time asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_model.testing import nano_model
from sa2va_training.batches import asking
from sa2va_training.batches.asking import Asker
from sa2va_training.batches.batch import IGNORED
from sa2va_training.batches.collage import Album, content, glue, nearly
from sa2va_training.batches.collate import Collator
from sa2va_training.batches.wording import DESCRIBE_REGION
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.readers.simple import SimpleFolder
from sa2va_training.run.settings import DataSettings

SIZE = 64
COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SimpleFolder:
    """Grey pictures, each with two squares of pure colours; phrases of names, one of a place."""
    place = tmp_path_factory.mktemp("squares")
    with FolderWriter(place, quality=0) as writer:
        for n, (left, right) in enumerate([("red", "green"), ("green", "blue"), ("blue", "red")]):
            rgb = np.full((SIZE, SIZE, 3), 128, np.uint8)
            labels = np.zeros((SIZE, SIZE), np.uint8)
            for k, (x, colour) in enumerate(((0, left), (32, right))):
                rgb[24:56, x : x + 20], labels[24:56, x : x + 20] = COLOURS[colour], k + 1
            said = [
                {"text": f"the {left} thing", "objects": ["1"]},
                {"text": "the square on the left", "objects": ["1"]},
            ]
            names = {1: f"{left} square", 2: f"{right} square"}
            writer.add_image(f"p{n}", rgb, labels, names, expressions=said)
    return SimpleFolder(place, "squares")


def test_phrases_mean_the_one_thing_whose_name_has_their_words(folder: SimpleFolder) -> None:
    album = Album([folder])
    assert "the square on the left" not in album.phrases
    one, none = album.meant(["red square", "green square", "green square"])
    assert one == {"the red square": 0, "the red thing": 0}  # two are green, "square" fits all
    assert none == ["the blue square", "the blue thing"]
    assert content("the red thing.") == {"red"}
    assert nearly(["red square", "green square"], none) == ["the blue square"]


def test_masks_of_a_collage_are_where_its_things_are(folder: SimpleFolder) -> None:
    album = Album([folder])
    added = 0
    for seed in range(12):
        rgb, things = glue(folder[0], album, np.random.default_rng(seed))
        added += len(things) - 2
        assert things[0].name == "red square"
        for thing in things:
            if not thing.mask.any():
                continue
            inner = rgb[thing.mask].astype(int)
            hue = list(COLOURS).index(thing.name.split()[0])
            # edges are blended, so nearly all pixels are of the thing's colour
            assert (inner.argmax(1) == hue).mean() > 0.9
        together = np.sum([thing.mask for thing in things], 0)
        assert together.max() == 1
        again, _ = glue(folder[0], album, np.random.default_rng(seed))
        assert np.array_equal(rgb, again)
    assert added > 12


def test_what_is_asked_of_a_collage_is_what_its_names_say(folder: SimpleFolder) -> None:
    model = nano_model()
    settings = DataSettings(augment="none", collage=0.99, expressions=4)
    asker = Asker(model.config, settings, 0, scored=True, album=Album([folder]))
    present = absent = 0
    for seed in range(10):
        asked = asker(folder[0], np.random.default_rng(seed))
        if any("left" in exchange.question for exchange in asked.exchanges):
            continue  # nothing in that collage can be told from the rest: the picture stays as it is
        for exchange in asked.exchanges:
            colour = next(c for c in COLOURS if c in exchange.question)
            if exchange.targets in ((), (-1,)):
                absent += 1
                continue
            present += 1
            shown = asked.frames[0][asked.masks[exchange.targets[0], 0]].astype(int)
            assert (shown.argmax(1) == list(COLOURS).index(colour)).mean() > 0.9
        Collator(model.mllm)([asked], [seed])
    assert present > 5
    assert absent > 0


def test_names_are_asked_for_as_the_run_time_asks(
    folder: SimpleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thing is a branch with a region of its own, written as a question about one region is."""
    monkeypatch.setattr(asking, "_MIN_CELLS", 1)  # the nano model has four
    model = nano_model()
    mllm = model.mllm
    asker = Asker(model.config, DataSettings(augment="none", naming=0.99), 0, scored=False)
    for seed in range(20):
        asked = asker(folder[0], np.random.default_rng(seed))
        if [e.question for e in asked.exchanges] == [DESCRIBE_REGION] * 2:
            break
    batch = Collator(mllm)([asked], [0])
    rgb = asked.frames[0]
    visual = mllm.look([rgb], clip=False)
    for branch, exchange in enumerate(asked.exchanges, 1):
        assert exchange.region is not None
        user, seen = mllm.user_turn(
            f"<image>\n{DESCRIBE_REGION}", visual, [asked.regions[exchange.region]]
        )
        ids = mllm.prompt_ids(user)
        mine = (batch.owner[0] == 0) | (batch.owner[0] == branch)
        assert batch.ids[0, mine][: len(ids)].tolist() == ids
        assert batch.positions[0, 0, mine].tolist() == list(range(int(mine.sum())))
        assert seen is not None
        places = (batch.ids[0] == mllm.image_id).nonzero()[:, 0]
        used = batch.visual[mine[places]]
        assert torch.allclose(visual.tokens[used], seen.tokens, atol=1e-6)
        graded = batch.labels[0][mine & (batch.labels[0] != IGNORED)].tolist()
        assert mllm.tokenizer.decode(graded) == f"{exchange.answer}<|im_end|>"
    assert {e.answer for e in asked.exchanges} == {"a red square", "a green square"}
    assert not batch.first.any()
    assert not len(batch.pairs)


def test_nothing_is_glued_or_named_unless_asked_for(folder: SimpleFolder) -> None:
    asker = Asker(nano_model().config, DataSettings(augment="none"), 0, scored=False)
    asked = asker(folder[0], np.random.default_rng(0))
    assert len(asked.exchanges) == 2
    assert np.array_equal(asked.frames[0], folder[0].frames[0].read())


@pytest.mark.parametrize("name", ["collage", "denied", "near", "naming"])
def test_shares_are_checked(name: str) -> None:
    with pytest.raises(Exception, match=f"batches.{name} is 1.5"):
        DataSettings(**{name: 1.5})


def test_a_folder_without_names_has_no_things(tmp_path: Path) -> None:
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[:20, :20] = 1
    with FolderWriter(tmp_path) as writer:
        rgb = np.zeros((SIZE, SIZE, 3), np.uint8)
        said = [{"text": "it", "objects": ["1"]}]
        writer.add_image("p", rgb, labels, {1: ""}, expressions=said)
    data = SimpleFolder(tmp_path)
    assert data[0].objects == ()
    assert Album([data]).pages == []
