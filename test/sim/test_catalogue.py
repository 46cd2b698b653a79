# SPDX-License-Identifier: Apache-2.0
"""Ordinary objects from a furniture library; the library of these tests is made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from sa2va_model.errors import InputError
from sa2va_sim.catalogue import furniture, meshes
from sa2va_sim.catalogue.colours import NAMES, colour_names, spoken
from sa2va_sim.catalogue.furniture import Furniture, credits, read_furniture
from sa2va_sim.catalogue.handy import differing, handy
from sa2va_sim.catalogue.meshes import Surface, load_surfaces
from sa2va_sim.catalogue.nouns import all_names, class_names, nouns
from sa2va_sim.catalogue.solids import solids
from sa2va_sim.catalogue.stock import build_model, usable
from sa2va_sim.robots.grasp_scene import grasp_episode
from sa2va_sim.words.expressions import describe
from sa2va_sim.words.facts import ObjectFact
from sa2va_sim.words.vocabulary import SHAPES


def test_a_library_tells_names_sizes_and_makers(
    furniture_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mug, book = read_furniture()
    assert (mug.name, mug.size, mug.creator) == ("coffee mug", (0.08, 0.1, 0.125), "Somebody")
    assert book.creator == "unknown"
    assert credits([mug, book]).splitlines() == [
        "- Somebody (CC-BY 3.0): coffee mug",
        "- unknown (CC-BY 3.0): book",
    ]
    monkeypatch.setenv("SA2VA_FURNITURE", str(furniture_library.parent))
    with pytest.raises(InputError, match="sweethome3d-furniture"):
        read_furniture()


def test_a_robot_takes_what_fits_between_its_fingers_by_a_taught_name(
    furniture_library: Path,
) -> None:
    mug, _ = read_furniture()
    assert handy() == (mug,)
    (model,) = differing(np.random.default_rng(0), 2, [mug, mug])  # no name means two things
    assert model.height == pytest.approx(mug.size[2], abs=1e-4)  # its true size
    simulator, sentence = grasp_episode(0, width=64, height=48, scene="kitchen")
    simulator.close()
    assert (sentence.kind, sentence.target) == ("seen object", 0)
    assert sentence.text.removeprefix("the ") in model.names


def test_solids_are_as_wide_as_the_object_at_each_height() -> None:
    foot = np.array([[x, y, 0] for x in (-0.1, 0.1) for y in (-0.05, 0.05)], np.float32)
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    neck = np.stack([0.02 * np.cos(turns), 0.02 * np.sin(turns)], 1)
    low, high = (np.column_stack([neck, np.full(24, z)]) for z in (0.041, 0.16))
    around = [(k, (k + 1) % 24, k + 24) for k in range(24)]
    around += [((k + 1) % 24, (k + 1) % 24 + 24, k + 24) for k in range(24)]
    block = np.concatenate([foot, foot + np.float32([0, 0, 0.04])]).astype(np.float32)
    faces = ConvexHull(block).simplices
    look = {"places": np.zeros((0, 2)), "texture": np.zeros((1, 1, 3), np.uint8), "plain": True}
    bottle = (
        Surface(block, faces, alpha=1.0, **look),
        Surface(np.concatenate([low, high]), np.array(around), alpha=1.0, **look),
    )
    base, *upper = solids(bottle)
    assert base.kind == "box"
    assert base.size == pytest.approx((0.1, 0.05, 0.02), abs=1e-3)
    assert [solid.kind for solid in upper] == ["cylinder"] * 3
    assert all(solid.size == pytest.approx((0.02, 0.02), abs=2e-3) for solid in upper)
    assert [round(solid.position[2], 3) for solid in (base, *upper)] == [0.02, 0.06, 0.1, 0.14]


def test_the_exam_is_a_function_of_file_and_id() -> None:
    def held(file: str, name: str) -> bool:
        return Furniture(file, name, "", "", (1, 1, 1), (), "").held_out

    # sha1 of "a.sh3f/x" begins with 0, those of "a.sh3f/y" and "a.sh3f/w" with a.
    assert [held("a.sh3f", name) for name in "xyw"] == [True, False, False]


def test_meshes_stand_upright_in_metres_and_keep_their_look(furniture_library: Path) -> None:
    mug, book = read_furniture()
    for item in (mug, book):
        (surface,) = load_surfaces(item)
        low, high = surface.vertices.min(0), surface.vertices.max(0)
        assert np.allclose(high - low, item.size, atol=1e-4)
        assert low[2] == pytest.approx(0, abs=1e-6)
        assert np.allclose((low + high)[:2], 0, atol=1e-5)
        (again,) = load_surfaces(item)  # from the cache
        assert np.array_equal(again.vertices, surface.vertices)
    assert spoken(load_surfaces(mug))[0] == "red"
    (printed,) = load_surfaces(book)
    assert max(printed.texture.shape) <= meshes.TEXTURE
    colour, some = spoken((printed,))
    assert {colour, *some} - {""} == {"blue", "white"}


def test_an_object_of_the_catalogue_has_its_names(furniture_library: Path) -> None:
    item = read_furniture()[0]
    model = build_model(item, np.random.default_rng(0), repaint=0.0)
    assert (model.shape, model.colour) == ("mug", "red")
    assert {"mug", "coffee mug", "cup"} <= set(model.names)
    assert model.extent == pytest.approx(0.125, rel=0.21)
    painted = build_model(item, np.random.default_rng(3), repaint=1.0)
    assert painted.colour in NAMES
    assert painted.parts[0].texture is not None


def test_every_split_keeps_to_its_objects(
    furniture_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(furniture.Furniture, "held_out", property(lambda self: self.name == "book"))
    names = {
        split: [item.name for item in usable(split, "table")]
        for split in ("train", "unseen", "all")
    }
    assert names == {"train": ["coffee mug"], "unseen": ["book"], "all": ["coffee mug", "book"]}


def test_the_table_of_nouns_is_sound() -> None:
    table = nouns()
    assert len(table) > 250
    assert class_names()[: len(SHAPES)] == SHAPES
    for noun in table.values():
        assert not set(noun.names) & set(noun.doubtful), noun
        assert noun.name in all_names()


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((200, 20, 20), "red"), ((20, 20, 22), "black"), ((245, 245, 245), "white"), ((128, 128, 128), "grey"),
        ((120, 70, 30), "brown"), ((30, 60, 200), "blue"), ((250, 220, 40), "yellow"), ((40, 160, 60), "green"),
    ],
)  # fmt: skip
def test_colours_are_called_as_people_call_them(rgb: tuple[int, int, int], name: str) -> None:
    assert NAMES[colour_names(np.array([rgb], np.uint8))[0]] == name


def test_no_sentence_hangs_on_a_doubtful_word() -> None:
    def fact(
        index: int, colour: str, names: tuple[str, ...], doubtful: tuple[str, ...]
    ) -> ObjectFact:
        left = 0.1 + 0.4 * index
        return ObjectFact(
            index, colour, names[0], 0.1, (left, 0.2, left + 0.2, 0.5), 1.0, 0.06, 1.0, False, names, doubtful
        )  # fmt: skip

    facts = [fact(0, "red", ("mug",), ("cup",)), fact(1, "", ("glass", "cup"), ("red",))]
    texts = {
        said.text.removeprefix("the "): said.target
        for seed in range(30)
        for said in describe(facts, np.random.default_rng(seed), 24, shapes=("cup", "mug", "vase"))
    }
    assert texts["mug"] == 0
    assert texts["glass"] == 1
    assert "cup" not in texts  # the mug might be one
    assert "red thing" not in texts  # the glass is partly red
    assert all(target is None for text, target in texts.items() if "vase" in text)
