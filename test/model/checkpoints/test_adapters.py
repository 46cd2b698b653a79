# SPDX-License-Identifier: Apache-2.0
"""Adapters: what is saved is what is loaded, what is unloaded leaves no trace, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from sa2va_model.checkpoints.adapters import (
    INFO,
    PARTS,
    PEFT_WEIGHTS,
    active_adapter,
    fingerprint,
    load_adapter,
    save_adapter,
    unload_adapter,
    wrap_language_model,
)
from sa2va_model.errors import InputError
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model

TRAINED = ("text_hidden_fcs.", "mllm.mlp1.", "sam2.sam2_model.sam_mask_decoder.")
LORA = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")


def trained(folder: Path) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """An adapter with every trained number moved; returns what the trained model answers and its parts."""
    model = nano_model()
    base = fingerprint(model)
    peft = wrap_language_model(model.mllm.language_model, LORA)
    generator = torch.Generator().manual_seed(1)
    parts = [name for name, _ in model.named_parameters() if name.startswith(TRAINED)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in parts or "lora_" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_adapter(model, folder, base=base, parts=parts, peft=peft, notes={"steps": 3})
    return answer(model), {k: v for k, v in model.state_dict().items() if k in parts}


@torch.no_grad()
def answer(model: Sa2VA) -> torch.Tensor:
    ids = torch.tensor([model.mllm.prompt_ids("where is it?")])
    states = model.mllm.language_model.model(input_ids=ids).last_hidden_state
    return model.text_hidden_fcs(states)


def weights(model: Sa2VA) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_loading_gives_the_trained_model_and_unloading_the_old_one_bit_for_bit(
    tmp_path: Path,
) -> None:
    wanted, parts = trained(tmp_path)
    model = nano_model()
    before, plain = weights(model), answer(model)
    adapter = load_adapter(model, tmp_path)
    assert active_adapter(model) == adapter
    assert adapter.notes == {"steps": 3}
    assert torch.equal(answer(model), wanted)
    assert not torch.allclose(wanted, plain)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in parts.items())
    assert unload_adapter(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(answer(model), plain)
    assert active_adapter(model) is None
    assert not unload_adapter(model)


def test_an_adapter_may_know_words_that_its_base_does_not(tmp_path: Path) -> None:
    trained(tmp_path)
    model = nano_model()
    model.vocabulary = words = Vocabulary(frozenset({"mug"}), frozenset(), frozenset())
    load_adapter(model, tmp_path)
    assert model.vocabulary is None
    load_adapter(model, tmp_path)
    unload_adapter(model)
    assert model.vocabulary is words


def test_loading_twice_is_loading_once(tmp_path: Path) -> None:
    wanted, _ = trained(tmp_path)
    model = nano_model()
    before = weights(model)
    load_adapter(model, tmp_path)
    load_adapter(model, tmp_path)
    assert torch.equal(answer(model), wanted)
    unload_adapter(model)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_fingerprint_is_of_the_checkpoint_and_not_of_its_number_format() -> None:
    model = nano_model()
    model.half()
    own = fingerprint(model)
    assert fingerprint(model.float()) == own
    assert fingerprint(model.bfloat16()) == own
    assert fingerprint(nano_model(seed=1).half()) != own


def test_another_base_model_is_refused_and_left_alone(tmp_path: Path) -> None:
    trained(tmp_path)
    model = nano_model(seed=7)
    before = weights(model)
    with pytest.raises(InputError, match="trained on base model"):
        load_adapter(model, tmp_path)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_a_folder_that_is_no_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_adapter(nano_model(), tmp_path / "none")
    with pytest.raises(InputError, match=r"no adapter\.json"):
        load_adapter(nano_model(), tmp_path)
    trained(tmp_path / "adapter")
    with pytest.raises(InputError, match=r"did you mean .*adapter"):
        load_adapter(nano_model(), tmp_path)


@pytest.mark.parametrize("file", [PARTS, PEFT_WEIGHTS])
@pytest.mark.parametrize("harm", ["missing", "unknown", "shape", "cut"])
def test_tensors_that_do_not_fit_are_named_and_change_nothing(
    tmp_path: Path, file: str, harm: str
) -> None:
    trained(tmp_path)
    path = tmp_path / file
    tensors = load_file(path)
    first = min(tensors)
    if harm == "missing":
        del tensors[first]
    elif harm == "unknown":
        tensors["nowhere.weight"] = torch.zeros(2)
    elif harm == "shape":
        tensors[first] = torch.zeros(1, 3, 1)
    save_file(tensors, path)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    model = nano_model()
    before = weights(model)
    with pytest.raises(InputError, match=file):
        load_adapter(model, tmp_path)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert active_adapter(model) is None


@pytest.mark.parametrize("field", ["format", "base", "parts", "lora"])
def test_a_field_of_the_wrong_kind_is_named(tmp_path: Path, field: str) -> None:
    trained(tmp_path)
    values = json.loads((tmp_path / INFO).read_text())
    values[field] = 17
    (tmp_path / INFO).write_text(json.dumps(values))
    with pytest.raises(InputError, match=field):
        load_adapter(nano_model(), tmp_path)


@pytest.mark.parametrize("within", ["", "language_model.", "mllm.language_model."])
def test_a_folder_as_peft_saves_it_is_an_adapter(tmp_path: Path, within: str) -> None:
    trained(tmp_path)
    for file in (INFO, PARTS):
        (tmp_path / file).unlink()
    weights = load_file(tmp_path / PEFT_WEIGHTS)
    before = "base_model.model."
    renamed = {n.replace(before, before + within, 1): t for n, t in weights.items()}
    save_file(renamed, tmp_path / PEFT_WEIGHTS)
    model = nano_model()
    bare = model.mllm.language_model.get_input_embeddings().weight.clone()
    assert load_adapter(model, tmp_path).lora
    got = dict(model.named_parameters())
    name = next(iter(weights)).removeprefix(before).replace("lora_A.", "lora_A.default.")
    assert torch.equal(got[f"mllm.language_model.{name}"], next(iter(weights.values())))
    assert unload_adapter(model)
    assert torch.equal(model.mllm.language_model.get_input_embeddings().weight, bare)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target_modules": "(a+)+" * 30 + "$"}, ""),  # never run: the weights name the modules
        ({"rank_pattern": {"(a|a)*$": 2}}, "is a pattern; expected names"),
        ({"r": 10**9}, "r is 1000000000; expected the rank of the weights"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type|not a peft configuration"),
        ({"peft_type": 7}, "not a peft configuration"),
    ],
)
def test_an_adapter_cannot_make_the_loader_run_for_ever(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    trained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    if not says:
        assert load_adapter(nano_model(), tmp_path).lora
        return
    with pytest.raises(InputError, match=says):
        load_adapter(nano_model(), tmp_path)


def test_what_was_read_of_a_picture_does_not_outlive_a_change_of_adapter(tmp_path: Path) -> None:
    trained(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    fresh, changed = nano_model(), nano_model()
    plain = changed.ground([picture], "the mug").embeddings.clone()
    load_adapter(fresh, tmp_path)
    load_adapter(changed, tmp_path)
    wanted = fresh.ground([picture], "the mug").embeddings
    assert torch.equal(changed.ground([picture], "the mug").embeddings, wanted)
    assert not torch.allclose(wanted, plain)
    unload_adapter(changed)
    assert torch.equal(changed.ground([picture], "the mug").embeddings, plain)
