# SPDX-License-Identifier: Apache-2.0
"""Ours against recorded answers of the official code: tokens, logits, states, embeddings and masks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sa2va_model.checkpoints.golden import verify
from sa2va_model.errors import InputError

ROOT = Path(__file__).parents[3]
DATA = ROOT / "test" / "data" / "golden"
OWN = DATA / "internvl"
SHARED = ROOT.parent / "shared" / "golden"
NAMES = ("internvl", "internlm2", "qwen2_5_vl")
"""Those that are known; whatever else lies beside them is verified as well."""
FOUND = sorted({*NAMES, *(path.name for path in SHARED.glob("*") if path.is_dir())})


def assembled(name: str, folder: Path) -> Path:
    """A folder of ours that shares SAM-2's weights with `internvl` (for qwen2_5_vl no masks are recorded)."""
    shutil.copytree(DATA / name, folder)
    sam = {k: v for k, v in load_file(OWN / "model.safetensors").items() if "sam2_model" in k}
    own = load_file(folder / "language.safetensors")
    save_file(sam | own, folder / "model.safetensors")
    return folder


def check(folder: Path) -> set[str]:
    """Every stage of every case is within its tolerance; returns the stages that there were."""
    reports = verify(folder)
    worst = {
        f"{report.name}: {stage.name}": stage.largest_difference
        for report in reports
        for stage in report.stages
        if not stage.passed
    }
    assert not worst
    return {stage.name for report in reports for stage in report.stages}


@pytest.mark.parametrize("name", NAMES)
def test_our_copies_of_recorded_answers_are_reproduced(name: str, tmp_path: Path) -> None:
    stages = check(OWN if name == "internvl" else assembled(name, tmp_path / name))
    assert {"pixel_values", "tokens", "step logits", "seg states", "embeddings"} <= stages
    assert ("final masks" in stages) == (name != "qwen2_5_vl")


@pytest.mark.parametrize("name", FOUND)
def test_every_recorded_answer_is_reproduced(name: str) -> None:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; our own copies in {DATA} are verified")
    assert "final masks" in check(folder)


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.1.mlp.up_proj.weight",
        "vision_model.encoder.layers.0.attn.qkv.weight",
        "text_hidden_fcs.2.bias",
        "grounding_encoder.sam2_model.memory_encoder.fuser.layers.0.g_weight",
        "grounding_encoder.sam2_model.obj_ptr_proj.layers.1.weight",
    ],
)
def test_a_changed_weight_is_noticed(tmp_path: Path, name: str) -> None:
    """The comparison can fail: one damaged tensor anywhere shows."""
    folder = tmp_path / "golden"
    shutil.copytree(OWN, folder)
    tensors = load_file(folder / "model.safetensors")
    noise = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0))
    tensors[name] = tensors[name] + 0.5 * noise
    save_file(tensors, folder / "model.safetensors")
    assert not verify(folder, "video_T8")[0].passed


def test_an_unknown_case_is_named() -> None:
    with pytest.raises(InputError, match=r"no case 'nothing'.*image_1tile"):
        verify(OWN, "nothing")


def test_a_folder_without_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json"):
        verify(tmp_path)
