# SPDX-License-Identifier: Apache-2.0
"""A family is one value in the registry: one that nobody knew is read, built, saved, loaded and asked."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.errors import InputError
from sa2va_model.mllm.families import llava
from sa2va_model.mllm.family import MllmFamily
from sa2va_model.mllm.registry import FAMILIES, REFUSED, families, nano_names, recognise
from sa2va_model.testing import nano_model

ROOT = Path(__file__).resolve().parents[3]
FRAME = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)


class MadeUpSizes(llava.LlavaSizes):
    @property
    def family(self) -> str:
        return "made_up"


class MadeUp(llava.Llava):
    """Sees every frame upside down, and is told so."""

    def tiles(self, frame: np.ndarray, *, clip: bool) -> torch.Tensor:
        return super().tiles(frame[::-1].copy(), clip=clip)


MADE_UP: MllmFamily = replace(
    llava.FAMILY,
    name="made_up",
    architectures=("MadeUpChatModel",),
    recognise=lambda values: False,
    read=lambda *given: MadeUpSizes(llava.read(*given).values),
    build=MadeUp,
    processor=lambda config: {"image_size": config.image_size},
    nano={"made_up": llava.FAMILY.nano["llava"]},
)


def test_a_made_up_family_is_one_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "made_up", MADE_UP)
    assert "made_up" in nano_names()
    model = nano_model(family="made_up")
    save_model(model, tmp_path, dtype=None)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "MadeUpChatModel"
    ]
    assert json.loads((tmp_path / "preprocessor_config.json").read_text()) == {"image_size": 32}
    again = load_model(tmp_path, device="cpu")
    assert type(again.mllm) is MadeUp
    assert again.config.untied() == model.config.untied()
    before, after = model.state_dict(), again.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before | after)
    one, other = (m.segment(FRAME, "the red mug") for m in (model, again))
    assert len(one.masks) == 1
    assert torch.equal(one.embeddings, other.embeddings)
    assert again.ask([FRAME], "What is this?").turn == model.ask([FRAME], "What is this?").turn


def test_every_family_is_recognised_with_and_without_its_name() -> None:
    for family in families():
        for fields in family.nano.values():
            values = fields(300)
            assert recognise(values, "config.json") is family
            named = {**values, "architectures": [family.architectures[0]]}
            assert recognise(named, "config.json") is family
            config = family.read(values, "config.json", {})
            assert config.family == family.name
            assert family.read(family.write(config), "config.json", {}) == config
            assert not config.untied().tied


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_with_what_loads_instead(name: str) -> None:
    with pytest.raises(InputError, match=r"which is not read: .* loads") as caught:
        recognise({"architectures": [name]}, "config.json")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_llava_without_its_image_token_is_one_line() -> None:
    values = llava.FAMILY.nano["llava"](300) | {"architectures": ["Sa2VAChatModelLlava"]}
    del values["image_token_index"]
    with pytest.raises(InputError, match=r"config\.json: field 'image_token_index' is None"):
        recognise(values, "config.json").read(values, "config.json", {})


def _imported(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def test_nobody_else_knows_a_family() -> None:
    """Imports of a family's file, and its name in a comparison; `families/` of training has its own files."""
    own = {"sa2va_model/mllm/registry.py", "sa2va_training/families/__init__.py"}
    folders = [ROOT / name for name in ("sa2va_model", "sa2va_ros", "sa2va_cli", "sa2va_serve")]
    wrong = []
    for root in (*folders, ROOT / "training" / "sa2va_training"):
        for path in sorted(root.rglob("*.py")):
            name = f"{root.name}/{path.relative_to(root).as_posix()}"
            if "families" in path.parts or name in own:
                continue
            wrong += [f"{name}: {i}" for i in _imported(path) if ".mllm.families." in i]
            wrong += [f"{name}: {n!r}" for n in _compared(path) if n in {*FAMILIES, *_FEATURED}]
    assert not wrong


_FEATURED = [name for name in nano_names() if "vl" in name]


def _compared(path: Path) -> list[object]:
    compares = (
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
    )
    return [
        side.value
        for node in compares
        for side in (node.left, *node.comparators)
        if isinstance(side, ast.Constant)
    ]
