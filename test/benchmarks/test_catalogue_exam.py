# SPDX-License-Identifier: Apache-2.0
"""The exam asks what has one answer, and grades it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sa2va_sim.words.expressions import Expression
from sa2va_sim.words.facts import LabelledImage, ObjectFact

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "catalogue_exam.py"


@pytest.fixture(scope="module")
def exam() -> ModuleType:
    spec = importlib.util.spec_from_file_location("catalogue_exam", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def fact(index: int, colour: str, names: tuple[str, ...], *, held_out: bool = False) -> ObjectFact:
    left = 0.1 + 0.3 * index
    return ObjectFact(
        index, colour, names[0], 0.1, (left, 0.2, left + 0.2, 0.5), 1.0, 0.06, 1.0, False, names, (), held_out
    )  # fmt: skip


@pytest.fixture
def image(exam: ModuleType, monkeypatch: pytest.MonkeyPatch) -> LabelledImage:
    monkeypatch.setattr(exam, "trained_names", lambda: ("kettle", "shoe", "bottle"))
    instances = np.zeros((40, 40), np.uint8)
    for index in range(3):
        instances[8:20, 4 + 12 * index : 12 + 12 * index] = index + 1
    facts = (
        fact(0, "red", ("kettle",)),
        fact(1, "blue", ("shoe",), held_out=True),
        fact(2, "", ("teddy bear",), held_out=True),
    )
    return LabelledImage(np.zeros((40, 40, 3), np.uint8), instances, facts)


def test_every_name_counts_for_what_was_trained(exam: ModuleType, image: LabelledImage) -> None:
    groups = {said.text: group for group, said in exam.questions(image, 1) if said.kind == "name"}
    assert groups == {
        "the kettle": "name, seen object",
        "the shoe": "name, unseen object, known noun",
        "the teddy bear": "name, unseen object, unknown noun",
    }
    others = {group for group, said in exam.questions(image, 1) if said.kind != "name"}
    assert {"colour and noun", "absent", "relation"} <= others


def test_a_mask_on_another_object_is_a_wrong_object(exam: ModuleType, image: LabelledImage) -> None:
    tallies: dict[str, Any] = {}
    said = Expression("the kettle", "name", 0)
    nothing = np.zeros((40, 40), bool)
    for mask in (image.instances == 1, image.instances == 2, nothing):
        exam._grade(tallies, "name", said, mask, image)
    exam._grade(tallies, "absent", Expression("the dog", "none", None), nothing, image)
    assert tallies["name"].figures() == {
        "n": 3, "giou": pytest.approx(1 / 3, abs=1e-4), "wrong": pytest.approx(1 / 3, abs=1e-4),
        "marked": pytest.approx(2 / 3, abs=1e-4),
    }  # fmt: skip
    assert tallies["absent"].marked == [False]
