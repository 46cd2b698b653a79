# SPDX-License-Identifier: Apache-2.0
"""A run can begin from nothing but an exported folder, and begins where that model stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sa2va_model.checkpoints.load import load_model
from sa2va_model.checkpoints.presets import byte_tokenizer
from sa2va_model.config.model import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.mllm.families.internvl import InternVL
from sa2va_training.tiny.data.batches import Batches, Library
from sa2va_training.tiny.data.packing import look
from sa2va_training.tiny.learner import TinyLearner
from sa2va_training.tiny.loop import StageRun
from sa2va_training.tiny.nano import SIZE, small_config
from sa2va_training.tiny.revival import resized_places, revive, spread_words
from sa2va_training.tiny.settings import StageSettings
from sa2va_training.tiny.shipping.export import export_learner


def config(side: int = SIZE) -> ModelConfig:
    """The nano sizes with stems, as the tiny model has them."""
    plain = small_config()
    vision = plain.mllm.vision
    stem = (8, 16)[: (vision.patch_size - 1).bit_length() - 1]
    vision = replace(vision, image_size=side, stem=stem, stem_blocks=(1,) * (len(stem) + 1))
    mllm = replace(plain.mllm, vision=vision)
    return replace(plain, mllm=mllm, sam2=replace(plain.sam2, image_size=side, stem_blocks=1))


@pytest.fixture
def exported(data: Path, tmp_path: Path) -> Path:
    """The folder of a model whose normalisation has seen pictures."""
    torch.manual_seed(3)
    learner = TinyLearner(config()).train()
    for layer in learner.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    library = Library({"flat": 1.0}, "train", data)
    batches = Batches(library, images=4, each=1, none_share=0, seed=1)
    for step in range(3):
        learner.encode(batches.at(step).pixels)
        look(learner.mllm, batches.at(step).pixels)
    export_learner(learner, tmp_path / "weights")  # folds the normalisation away
    return tmp_path / "weights"


@torch.no_grad()
def test_a_revived_model_computes_what_was_exported(
    exported: Path, data: Path, tmp_path: Path
) -> None:
    old = load_model(exported, device="cpu")
    assert isinstance(old.mllm, InternVL)
    library = Library({"flat": 1.0}, "train", data)
    new = revive(exported, tmp_path / "run", library, TinyLearner(config()))
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in new.modules()) > 4
    batch = Batches(library, images=8, each=1, none_share=0, seed=5).at(0)
    views = (
        (
            lambda: old.sam2.sam2_model.image_encoder(batch.pixels)["backbone_fpn"][0],
            lambda: new.encode(batch.pixels).fine,
        ),
        (lambda: look(old.mllm, batch.pixels), lambda: look(new.mllm, batch.pixels)),
    )
    for wanted, found in views:
        torch.testing.assert_close(found(), wanted(), rtol=1e-4, atol=1e-4)
        new.train()  # what is normalised now has the pictures' own statistics, which are much the same
        assert (found() - wanted()).norm() < 0.5 * wanted().norm()
        new.eval()


def test_stages_go_on_from_it_and_only_aids_move_at_first(
    exported: Path, data: Path, tmp_path: Path
) -> None:
    library = Library({"flat": 1.0}, "train", data)
    revive(exported, tmp_path / "old", library, TinyLearner(config()))
    begun = torch.load(tmp_path / "old/last.pt")["learner"]
    for steps, still in ((2, True), (3, False)):
        stage = StageSettings(
            f"sam{steps}", "sam", {"flat": 1.0}, ("old:all",), 2, 2, steps=steps, held=2, settle=2
        )
        StageRun(stage, TinyLearner(config()), runs=tmp_path, data=data).train()
        state = torch.load(tmp_path / f"sam{steps}/last.pt", weights_only=False)["learner"]
        name = "model.sam2.sam2_model.image_encoder.trunk.blocks.0.mlp.layers.0.weight"
        assert torch.equal(state[name], begun[name]) == still
        assert not torch.equal(state["map_aids.fine.weight"], begun["map_aids.fine.weight"])


def test_another_image_size_keeps_places_where_they_are(
    exported: Path, data: Path, tmp_path: Path
) -> None:
    x = torch.linspace(0, 1, 4)
    table = torch.zeros(1, 17, 2)
    table[0, 1:, 0], table[0, 1:, 1] = x.repeat(4), x.repeat_interleave(4)
    wide = resized_places(table, 65)[0, 1:].unflatten(0, (8, 8))
    assert torch.allclose(wide[3, :, 0], wide[6, :, 0], atol=1e-5)
    assert (wide[:, :, 0].diff(dim=1) > 0).all()
    assert (wide[:, :, 1].diff(dim=0) > 0).all()
    library = Library({"flat": 1.0}, "train", data)
    revive(exported, tmp_path / "big", library, TinyLearner(config(2 * SIZE)))


def test_a_folder_of_another_model_is_refused_by_name(
    exported: Path, data: Path, tmp_path: Path
) -> None:
    library = Library({"flat": 1.0}, "train", data)
    wider = TinyLearner(replace(config(), sam2=replace(config().sam2, stem_blocks=2)))
    with pytest.raises(InputError, match=r"weights: has no .*proj.*; expected a model exported"):
        revive(exported, tmp_path / "run", library, wider)
    assert not (tmp_path / "run").exists()


def test_new_words_begin_as_the_mean_of_their_pieces() -> None:
    old, new = byte_tokenizer(["mug"] * 9, 300), byte_tokenizer(["mug", "kettle"] * 9, 300)
    table = torch.randn(len(old), 4)
    rows = spread_words(table, old, new, torch.empty(len(new), 4))
    for token, index in new.get_vocab().items():
        if token in old.get_vocab():
            assert torch.equal(rows[index], table[old.get_vocab()[token]])
    (kettle,) = new.encode("kettle")
    assert torch.allclose(rows[kettle], table[old.encode("kettle")].mean(0))
