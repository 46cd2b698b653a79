# SPDX-License-Identifier: Apache-2.0
"""Ours against recorded answers of the official code: tokens, logits, states, embeddings and masks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sa2va_model.checkpoints.golden import token_id, verify
from sa2va_model.checkpoints.load import load_model
from sa2va_model.checkpoints.recorded.masks import mask_stages
from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.memory_bank import MemoryBank, MemoryTokens
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import Decoded, ImageFeatures

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
    ],
)
def test_a_changed_weight_of_the_language_half_is_noticed(tmp_path: Path, name: str) -> None:
    """The comparison can fail: one tensor anywhere that is one percent off shows."""
    folder = tmp_path / "golden"
    shutil.copytree(OWN, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = _off(tensors[name])
    save_file(tensors, folder / "model.safetensors")
    assert not verify(folder, "image_1tile")[0].passed


def _off(weight: Tensor) -> Tensor:
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    return weight * (1 + 0.01 * noise)


@pytest.fixture(scope="module")
def model() -> Sa2VA:
    return load_model(OWN, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def gold() -> dict[str, Tensor]:
    return load_file(OWN / "video_T8.safetensors")


def over(model: Sa2VA, gold: dict[str, Tensor]) -> set[str]:
    """The stages that are over their tolerance on five prompted frames and a tracked one."""
    frames = [gold[f"in.frame.{t}"].numpy() for t in range(6)]
    return {stage.name for stage in mask_stages(model, gold, frames) if not stage.passed}


@pytest.mark.parametrize(
    "name",
    [
        "image_encoder.trunk.blocks.1.mlp.layers.0.weight",
        "memory_attention.layers.0.linear1.weight",
        "memory_encoder.fuser.layers.0.gamma",
        "obj_ptr_proj.layers.1.weight",
    ],
)
def test_a_changed_weight_of_sam2_is_noticed(
    model: Sa2VA, gold: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    weights = dict(model.sam2.sam2_model.named_parameters())
    monkeypatch.setattr(weights[name], "data", _off(weights[name].data))
    assert over(model, gold)


def test_nothing_is_noticed_where_nothing_is_changed(model: Sa2VA, gold: dict[str, Tensor]) -> None:
    assert not over(model, gold)


def _half_a_normalisation(patch: pytest.MonkeyPatch) -> None:
    """Mean and deviation in float32, where the official code has them in bfloat16."""
    pixels = preprocessing.sam_pixels
    patch.setattr(
        preprocessing, "sam_pixels", lambda i, c: pixels(i, replace(c, rounded_normalisation=False))
    )


def _a_hard_mask(patch: pytest.MonkeyPatch) -> None:
    """Masks of prompted frames are remembered as 0 and 1."""
    encode = Sam2.encode_memory

    def hard(self: Sam2, features: ImageFeatures, decoded: Decoded, **_: bool) -> Tensor:
        logits = torch.where(decoded.logits > 0, 100.0, -100.0).to(decoded.logits)
        return encode(self, features, replace(decoded, logits=logits))

    patch.setattr(Sam2, "encode_memory", hard)


def _codes_in_another_order(patch: pytest.MonkeyPatch) -> None:
    """The last frame has the temporal code of the one before, and so on."""
    make = MemoryBank.__init__

    def rolled(self: MemoryBank, *args: object, **options: object) -> None:
        make(self, *args, **options)  # type: ignore[arg-type]
        self._positions = self._positions.roll(1, 0)

    patch.setattr(MemoryBank, "__init__", rolled)


def _pointers_of_keyframes_forgotten(patch: pytest.MonkeyPatch) -> None:
    read = MemoryBank.tokens

    def short(self: MemoryBank, row: int) -> MemoryTokens:
        tokens, parts = read(self, row), self._config.hidden_dim // self._config.memory_dim
        first = len(tokens.values) - tokens.pointer_tokens
        kept = torch.arange(len(tokens.values))
        kept = kept[(kept < first) | (kept >= first + self.conditioning(row) * parts)]
        count = len(kept) - first
        return MemoryTokens(tokens.values[kept], tokens.positions[kept], count)

    patch.setattr(MemoryBank, "tokens", short)


def _memory_where_there_is_none(patch: pytest.MonkeyPatch) -> None:
    """Prompted frames do not get the embedding of an empty memory."""
    patch.setattr(Sam2, "without_memory", lambda self, features: features.top)


def _another_mask(patch: pytest.MonkeyPatch) -> None:
    """The second best candidate is taken."""
    decode = Sam2.decode

    def second(self: Sam2, *args: object) -> Decoded:
        decoded = decode(self, *args)  # type: ignore[arg-type]
        return self.choose(decoded, decoded.ious.argsort(dim=1)[:, -2])

    patch.setattr(Sam2, "decode", second)


def _another_gelu(patch: pytest.MonkeyPatch) -> None:
    """The tanh form, where weights were trained with the exact one."""
    gelu = torch.nn.functional.gelu
    patch.setattr(torch.nn.functional, "gelu", lambda x, **_: gelu(x, approximate="tanh"))


@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        (_half_a_normalisation, "sam pixels"),
        (_a_hard_mask, "maskmem features"),
        (_codes_in_another_order, "low res mask"),
        (_pointers_of_keyframes_forgotten, "low res mask"),
        (_memory_where_there_is_none, "low res mask"),
        (_another_mask, "obj ptr"),
        (_another_gelu, "low res mask"),
    ],
)
def test_a_changed_rule_is_noticed(
    model: Sa2VA,
    gold: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[..., None],
    shown: str,
) -> None:
    fault(monkeypatch)
    assert shown in over(model, gold)


def test_a_record_that_was_cut_is_read_as_long_as_it_is(tmp_path: Path) -> None:
    """Two tokens, without a stop: nothing beyond them is decoded. Where it stopped, a stop that is missed shows."""
    folder = tmp_path / "golden"
    shutil.copytree(OWN, folder)
    file = folder / "image_1tile.safetensors"
    gold = {
        k: v for k, v in load_file(file).items() if not k.startswith(("obj", "seg", "language"))
    }
    left_out = len(gold["sequences"]) - 2
    cut = ("sequences", "step_logits", "last_hidden_states")
    save_file(gold | {name: gold[name][:-left_out].clone() for name in cut}, file)
    assert verify(folder, "image_1tile")[0].passed


def test_forced_tokens_of_any_vocabulary() -> None:
    assert token_id({"\u0120": 3, "[SEG]": 4}, " ") == 3
    assert token_id({"\u2581red": 5}, " red") == 5
    with pytest.raises(InputError, match=r"forced token ' blue' is not in the tokenizer"):
        token_id({"blue": 5}, " blue")


def test_an_unknown_case_is_named() -> None:
    with pytest.raises(InputError, match=r"no case 'nothing'.*image_1tile"):
        verify(OWN, "nothing")


def test_a_folder_without_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json"):
        verify(tmp_path)
