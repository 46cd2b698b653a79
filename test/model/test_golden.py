# SPDX-License-Identifier: Apache-2.0
"""Ours against recorded answers of the official code: tokens, logits, states, embeddings and masks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sa2va_model.errors import InputError
from sa2va_model.golden import verify

ROOT = Path(__file__).parents[2]
OWN = ROOT / "test" / "data" / "golden" / "internvl"
FULL = ROOT.parent / "shared" / "golden" / "internvl"
FOLDERS = [OWN] + ([FULL] if FULL.is_dir() else [])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parts[-3])
def test_every_recorded_case_is_reproduced(folder: Path) -> None:
    reports = verify(folder)
    assert len(reports) >= 5
    worst = {
        f"{report.name}: {stage.name}": stage.largest_difference
        for report in reports
        for stage in report.stages
        if not stage.passed
    }
    assert not worst
    assert any(stage.name == "final masks" for report in reports for stage in report.stages)


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
