# SPDX-License-Identifier: Apache-2.0
"""Names are read off the visual tokens of the things that have them, and teach the vision model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_model.testing import nano_model
from sa2va_training.batches.asking import Asker
from sa2va_training.batches.collage import Album
from sa2va_training.batches.collate import Collator
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.readers.simple import SimpleFolder
from sa2va_training.objectives.learner import Learner
from sa2va_training.objectives.names import NamedThings, NameHead, named_things, vocabulary
from sa2va_training.objectives.objectives import Totals
from sa2va_training.run.settings import DataSettings, LossSettings, OptimiserSettings, PartSettings
from sa2va_training.run.trainables import groups, prepare

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20)}
WORDS = ("green", "red", "square")


@pytest.fixture
def folder(tmp_path: Path) -> SimpleFolder:
    """Grey pictures with two squares each; the expression is about the left one."""
    with FolderWriter(tmp_path, quality=0) as writer:
        for n in range(2):
            rgb = np.full((64, 64, 3), 128, np.uint8)
            labels = np.zeros((64, 64), np.uint8)
            for k, (x, colour) in enumerate(((0, "red"), (40, "green"))):
                rgb[24:56, x : x + 20], labels[24:56, x : x + 20] = COLOURS[colour], k + 1
            names = {1: "red square", 2: "the green square"}
            said = [{"text": "the red thing", "objects": ["1"]}]
            writer.add_image(f"p{n}", rgb, labels, names, expressions=said)
    return SimpleFolder(tmp_path, "squares")


def test_words_of_names(folder: SimpleFolder) -> None:
    assert vocabulary([folder]) == WORDS
    whole, little = torch.ones(4), torch.tensor([0.4, 0.0, 0.0, 0.0])
    rows = [
        (3, whole, "the red square"),
        (1, little, "red square"),  # too little of it
        (1, whole, "blue cube"),  # no known word
        (0, whole, "green cube"),
    ]
    found = named_things(rows, WORDS, 4)
    assert found.tiles.tolist() == [3, 0]
    assert found.words.tolist() == [[0, 0.5, 0.5], [1, 0, 0]]
    assert len(named_things([], WORDS, 4)) == 0


def test_what_is_read_is_the_mean_of_the_things_own_tokens() -> None:
    """Two things of one picture are told apart, and the loss ends at 0 when both are right."""
    head = NameHead(4, WORDS)
    tokens = torch.zeros(1, 4, 4)
    tokens[0, :2, 0], tokens[0, 2:, 1] = 1, 1
    covers = torch.tensor([[1, 0.5, 0, 0], [0, 0, 0.2, 1]])
    words = torch.tensor([[0, 0.5, 0.5], [1, 0, 0.0]])
    things = NamedThings(torch.zeros(2, dtype=torch.long), covers, words)
    assert head(tokens, things)[1].item() == pytest.approx(np.log(3))
    adam = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(200):
        adam.zero_grad()
        head(tokens, things).sum().backward()
        adam.step()
    assert head(tokens, things).max().item() < 0.02


@pytest.mark.parametrize("share", [{}, {"collage": 0.99}, {"naming": 0.99}])
def test_things_are_where_their_colours_are(folder: SimpleFolder, share: dict[str, float]) -> None:
    """After cuts and in collages; what is asked about stays whole, other things may be cut away."""
    model = nano_model()
    settings = DataSettings(augment="strong", variants=0, **share)  # type: ignore[arg-type]
    asker = Asker(model.config, settings, 0, scored=False, album=Album([folder]), things=True)
    counts = []
    for seed in range(10):
        asked = asker(folder[0], np.random.default_rng(seed))
        counts.append(len(asked.things))
        for thing in asked.things:
            inner = asked.frames[0][thing.mask].astype(int)
            wanted = 0 if "red" in thing.name else 1
            assert (inner.argmax(1) == wanted).mean() > 0.85
        batch = Collator(model.mllm, words=WORDS)([asked, asked], [seed, seed])
        sides = {thing.mask.size for thing in asked.things}
        if sides:
            share_of = [float(t.mask.mean()) for t in asked.things]
            cells = batch.things.covers.shape[1]
            seen = [s for s in share_of if s * cells >= 0.5]
            half = len(batch.things) // 2
            assert np.allclose(batch.things.covers.mean(1)[:half], seen, atol=0.02)
            assert batch.things.tiles.tolist() == [0] * half + [len(batch.tiles) // 2] * half
    assert max(counts) >= 2


def test_nothing_is_read_unless_asked_for(folder: SimpleFolder) -> None:
    model = nano_model()
    asked = Asker(model.config, DataSettings(augment="none"), 0, scored=False)(
        folder[0], np.random.default_rng(0)
    )
    assert asked.things == ()


def test_names_teach_the_vision_model_and_leave_no_trace(folder: SimpleFolder) -> None:
    model = nano_model()
    known = set(model.state_dict())
    parts = PartSettings(mode="full")
    prepare(model, parts)
    learner = Learner(model, parts, LossSettings(names=1.0), words=WORDS)
    with torch.no_grad():  # at nothing the layer would pass nothing back
        assert learner.names is not None
        learner.names.read.weight.normal_()
    asker = Asker(model.config, DataSettings(augment="none"), 0, scored=False, things=True)
    asked = asker(folder[0], np.random.default_rng(0))
    batch = Collator(model.mllm, words=WORDS)([asked], [0])
    assert len(batch.things) == 2
    totals = Totals(20, 2, 2, 2)
    with_names = learner(batch, totals)["loss"]
    learner.names, head = None, learner.names
    gradient = torch.autograd.grad(
        with_names - learner(batch, totals)["loss"], [model.mllm.mlp1[3].weight]
    )
    assert float(gradient[0].abs().max()) > 0
    learner.names = head
    assert set(model.state_dict()) == known
    rates = {
        name: group["base"]
        for group in groups(learner, OptimiserSettings(rate=1e-3, encoder=0.2))
        for name, p in learner.named_parameters()
        if any(p is q for q in group["params"])
    }
    assert rates["names.read.weight"] == pytest.approx(1e-2)
