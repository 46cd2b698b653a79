# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders: round trip, official names, and what is said of broken ones."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sa2va_model.checkpoints.files.stored_names import official_names
from sa2va_model.checkpoints.files.tensor_names import Names
from sa2va_model.checkpoints.load import load_half, load_model, save_model
from sa2va_model.checkpoints.meta_init import unallocated
from sa2va_model.checkpoints.presets import byte_tokenizer
from sa2va_model.checkpoints.published import PUBLISHED as PUBLISHED_SIZES
from sa2va_model.checkpoints.published import published_config
from sa2va_model.errors import InputError
from sa2va_model.mllm.registry import family
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model

PUBLISHED = Path(__file__).parents[3].parent / "shared" / "reference" / "sa2va_1b_tensors.txt"
PUBLISHED_SAM3 = PUBLISHED.with_name("tensors_sam3.txt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(nano_model(), tmp_path / "model", dtype=torch.float32)
    return tmp_path / "model"


def test_a_saved_model_answers_the_same(folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    before = nano_model().segment(image, "the red mug")
    after = load_model(folder).segment(image, "the red mug")
    assert after.found
    assert np.array_equal(before.masks, after.masks)
    assert np.allclose(before.scores, after.scores)


def test_names_in_the_file_are_the_official_ones(folder: Path) -> None:
    names = set(load_file(folder / "model.safetensors"))
    assert "vision_model.encoder.layers.0.attn.qkv.weight" in names
    assert "grounding_encoder.sam2_model.memory_encoder.fuser.layers.0.g_weight" in names
    assert "language_model.model.embed_tokens.weight" in names
    assert not [name for name in names if name.startswith(("mllm.", "sam2."))]


def test_official_names_and_ours_are_inverse(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = Names(nano_model().config)
    ours = {k: v for name, t in tensors.items() for k, v in names.cut(name, t).items()}
    again = names.official(ours)
    assert set(again) == set(tensors)
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


@pytest.mark.skipif(
    not PUBLISHED.is_file(), reason="the list of published tensor names is not here"
)
def test_every_tensor_of_the_published_1b_checkpoint_has_its_place() -> None:
    """All 1541 names and shapes, and nothing beside them; the model is built without memory for its weights."""
    lines = [line.split(" ", 1) for line in PUBLISHED.read_text().splitlines() if "(" in line]
    published = {name: tuple(ast.literal_eval(shape.strip())) for name, shape in lines}
    config = published_config("1b")
    with unallocated():
        model = Sa2VA(config, byte_tokenizer())
    empty = {k: torch.empty_like(v, device="meta") for k, v in model.state_dict().items()}
    own = {k: tuple(v.shape) for k, v in Names(config).official(empty).items()}
    assert len(published) == 1541
    assert own == published


@pytest.mark.skipif(
    not PUBLISHED_SAM3.is_file(), reason="the list of published tensor names is not here"
)
def test_every_tensor_of_the_checkpoint_with_sam_3_has_its_place_or_no_use() -> None:
    lines = [line.split(" ", 1) for line in PUBLISHED_SAM3.read_text().splitlines()]
    published = {x[0]: tuple(ast.literal_eval(x[1])) for x in lines if x[1].startswith("[")}
    config = published_config("qwen3-vl-4b-sam3")
    with unallocated():
        model = Sa2VA(config, byte_tokenizer(extra=family(config.mllm.family).tokens))
    empty = {k: torch.empty_like(v, device="meta") for k, v in model.state_dict().items()}
    names = Names(config)
    own = {k: tuple(v.shape) for k, v in names.official(empty).items()}
    known = official_names(published, "list")
    assert len(published) == 1459
    assert own == {new: published[old] for old, new in known.items() if names.needed(new)}


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_every_published_size_can_be_built(size: str) -> None:
    config = published_config(size)
    with unallocated():
        model = Sa2VA(config, byte_tokenizer(extra=family(config.mllm.family).tokens))
    billions = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    named = float(re.findall(r"([\d.]+)b(?:-|$)", size)[0])
    assert 0.9 * named < billions < 1.5 * named
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        load_model(tmp_path / "nowhere")


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(tmp_path)


def test_broken_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not valid JSON"):
        load_model(folder)


def test_a_missing_config_field_is_named(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    del values["llm_config"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="'llm_config' is missing"):
        load_model(folder)


def test_an_unknown_sam2_field_is_named(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["sam2_config"]["imagesize"] = 64
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="unknown field 'imagesize'"):
        load_model(folder)


def test_a_language_model_that_is_not_served_is_named(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["llm_config"]["architectures"] = ["MambaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="MambaForCausalLM"):
        load_model(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        load_model(folder)


def test_truncated_weights_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors: not a readable"):
        load_model(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["mlp1.1.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"'mlp1\.1\.weight' is missing"):
        load_model(folder)


def test_a_tensor_without_a_place_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["extra.weight"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"'extra\.weight' has no place"):
        load_model(folder)


def test_a_tensor_of_the_wrong_shape_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["mlp1.1.weight"] = torch.zeros(2, 2)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"mlp1\.1\.weight' has shape \[2, 2\]"):
        load_model(folder)


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load_model(folder)


def test_an_unknown_device_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match="device is 'tpu'"):
        load_model(folder, device="tpu")


@pytest.mark.parametrize(
    ("architecture", "named"),
    [
        ("Qwen3VLForConditionalGeneration", "or SAMTok, which is read by"),
    ],
)
def test_what_is_published_and_not_read_is_named(
    tmp_path: Path, architecture: str, named: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match=f"{architecture}.*not read.*{named}"):
        load_model(tmp_path)


def test_a_folder_with_two_segmenters_is_named(tmp_path: Path) -> None:
    save_model(nano_model(family="qwen3_vl"), tmp_path, dtype=None)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "grounding_encoder.sam2_model.backbone.vision_backbone.trunk.patch_embed.proj.weight"
    save_file(tensors | {name: torch.zeros(4, 3, 14, 14)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"tensors of SAM-2 and 1 tensors of SAM 3; expected one"):
        load_model(tmp_path)


def test_a_folder_with_sam_3_loads_answers_and_is_saved_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the published layout: parts that nothing uses, and codes of an old conversion that no reader takes."""
    save_model(nano_model(family="qwen3_vl", segmenter="sam3"), tmp_path, dtype=None)
    stored = load_file(tmp_path / "model.safetensors")
    vision = "grounding_encoder.sam2_model.backbone.vision_backbone."
    assert stored[f"{vision}trunk.pos_embed"].shape == (1, 17, 16)  # with a class token's row
    assert stored[f"{vision}trunk.blocks.0.attn.qkv.weight"].shape == (48, 16)
    assert "grounding_encoder.sam2_model.maskmem_backbone.fuser.layers.0.g_weight" in stored
    spare = {
        f"{vision}convs.0.conv_1x1.bias": torch.ones(4),
        f"{vision}sam2_convs.3.conv_1x1.bias": torch.ones(4),
    }
    turns = {f"{vision}trunk.blocks.0.attn.freqs_cis": torch.ones(4, 4, dtype=torch.complex64)}
    save_file(stored | spare | turns, tmp_path / "model.safetensors")
    frames = [
        np.random.default_rng(t).integers(0, 256, (48, 64, 3), dtype=np.uint8) for t in range(3)
    ]
    first = load_model(tmp_path, "cpu")
    assert [
        r.getMessage().endswith("freqs_cis' (1 such) is computed anew, not read")
        for r in caplog.records
    ] == [True]
    save_model(first, tmp_path / "again", dtype=None)
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], stored[name]) for name in stored)
    second = load_model(tmp_path / "again", "cpu")
    one, two = (m.ask(frames, "Please segment the mug.") for m in (first, second))
    assert one.masks.shape == (1, 3, 48, 64)
    assert np.array_equal(one.masks, two.masks)
    assert load_half(tmp_path, "cpu").config.sam2 == first.config.sam2


def test_a_configuration_for_another_segmenter_is_named(tmp_path: Path) -> None:
    save_model(nano_model(segmenter="sam3"), tmp_path, dtype=None)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    del values["sam3_config"]
    file.write_text(json.dumps(values | {"sam2_config": {"image_size": 64}}))
    with pytest.raises(
        InputError, match=r"'sam2_config', which is SAM-2's, but the files hold SAM 3"
    ):
        load_model(tmp_path)
