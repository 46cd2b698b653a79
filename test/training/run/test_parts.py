# SPDX-License-Identifier: Apache-2.0
"""What is trained, and what stays: parts, special tokens, tied embeddings, losses, schedule, settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sa2va_model.checkpoints.adapters import fingerprint, load_adapter, merge_adapter, save_adapter
from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.checkpoints.presets import byte_tokenizer, nano_config
from sa2va_model.errors import InputError
from sa2va_model.mllm import chat as prompts
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_training.objectives.losses import MaskLossSettings, mask_losses
from sa2va_training.run.loop import rate
from sa2va_training.run.settings import OptimiserSettings, PartSettings, Settings, stepped
from sa2va_training.run.settings_files import load_settings, save_settings
from sa2va_training.run.trainables import counts, groups, prepare


def tied_model() -> Sa2VA:
    """A nano model whose output layer is its table of words, as those of 1B and 2B."""
    tokenizer = byte_tokenizer()
    config = nano_config(len(tokenizer))
    llm = {**config.llm, "tie_word_embeddings": True}
    tied = replace(config, mllm=replace(config.mllm, llm=llm))
    torch.manual_seed(0)
    return Sa2VA(tied, tokenizer).eval()


def special_ids(model: Sa2VA) -> list[int]:
    return [
        int(model.mllm.tokenizer.convert_tokens_to_ids(token)) for token in prompts.SPECIAL_TOKENS
    ]


def test_the_published_recipe_trains_lora_decoder_and_projections() -> None:
    model = nano_model()
    trained = prepare(model, PartSettings())
    found = counts(model)
    assert {part for part, (some, _) in found.items() if some} == {
        "language model",
        "projector",
        "text_hidden_fcs",
        "SAM-2 decoder",
    }
    lora = [name for name in trained.names if "mllm.language_model." in name]
    assert lora
    assert all(".lora_" in name for name in lora)
    assert not set(lora) & set(trained.parts)
    decays = {group["weight_decay"] for group in groups(model, OptimiserSettings())}
    assert decays == {0.0, 0.05}


def test_modes_train_what_they_say() -> None:
    full, memory = nano_model(), nano_model()
    prepare(full, PartSettings(mode="full"))
    frozen = {n for n, p in full.named_parameters() if not p.requires_grad}
    assert frozen
    assert all("image_encoder" in n or "sam2_model" in n for n in frozen)
    prepare(memory, PartSettings(mode="memory", decoder=False))
    moved = {n for n, p in memory.named_parameters() if p.requires_grad}
    assert any("memory_attention" in n for n in moved)
    assert not any("language_model" in n or "sam_mask_decoder" in n for n in moved)


@pytest.mark.parametrize("tied", [True, False])
def test_special_tokens_are_trained_and_embeddings_stay_as_tied_as_they_were(
    tmp_path: Path, tied: bool
) -> None:
    """One step moves the rows of our tokens and no other row; tied stays tied, through adapter and merge."""
    model = tied_model() if tied else nano_model()
    save_model(model, tmp_path / "base", dtype=torch.float32)
    model = load_model(tmp_path / "base", device="cpu")
    base = fingerprint(model)
    before = model.mllm.language_model.get_input_embeddings().weight.detach().clone()
    trained = prepare(model, PartSettings(rank=2, alpha=4, dropout=0.0, embeddings="special"))
    lm = model.mllm.language_model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    ids = torch.tensor([[5, 9, *special_ids(model), 12]])
    out = lm(input_ids=ids)
    F.cross_entropy(out.logits[0, :-1], ids[0, 1:]).backward()
    optimizer.step()
    with torch.no_grad():
        wanted = lm(input_ids=ids).logits
    save_adapter(model, tmp_path / "adapter", base=base, parts=trained.parts, peft=trained.peft)
    fresh = load_model(tmp_path / "base", device="cpu")
    load_adapter(fresh, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.allclose(fresh.mllm.language_model(input_ids=ids).logits, wanted, atol=1e-5)
    merge_adapter(fresh)
    merged = fresh.mllm.language_model
    table = merged.get_input_embeddings().weight
    assert (merged.get_output_embeddings().weight is table) is tied
    moved = (table != before).any(1).nonzero()[:, 0].tolist()
    assert moved == sorted(special_ids(model))
    save_model(fresh, tmp_path / "merged", dtype=torch.float32)
    again = load_model(tmp_path / "merged", device="cpu")
    with torch.no_grad():
        found = again.mllm.language_model(input_ids=ids).logits
    assert torch.allclose(found, wanted, atol=1e-4)


def test_mask_losses_are_the_published_ones() -> None:
    """BCE and naive dice with eps 1, over all cells; at all points of a fine grid they are the same."""
    torch.manual_seed(0)
    logits, cover = torch.randn(2, 8, 8), (torch.rand(2, 8, 8) > 0.5).float()
    entropy, dice = mask_losses(logits, cover, MaskLossSettings(points=0), lambda n: torch.zeros(0))
    chance = logits.sigmoid()
    for k in range(2):
        wanted = F.binary_cross_entropy(chance[k], cover[k])
        assert float(entropy[k]) == pytest.approx(float(wanted), rel=1e-5)
        a, b = chance[k].sum(), cover[k].sum()
        wanted = 1 - (2 * (chance[k] * cover[k]).sum() + 1) / (a + b + 1)
        assert float(dice[k]) == pytest.approx(float(wanted), rel=1e-5)


def test_points_go_where_the_model_is_unsure() -> None:
    """A mask that is sure on its left half is judged on its right half, mostly."""
    logits = torch.cat([torch.full((1, 32, 16), 9.0), torch.zeros(1, 32, 16)], 2)
    cover = torch.ones(1, 32, 32)
    generator = torch.Generator().manual_seed(0)
    settings = MaskLossSettings(points=400)
    entropy, _ = mask_losses(
        logits, cover, settings, lambda n: torch.rand(1, n, 2, generator=generator)
    )
    everywhere, _ = mask_losses(logits, cover, MaskLossSettings(points=0), lambda n: torch.zeros(0))
    assert float(entropy) > 1.6 * float(everywhere)


def test_the_rate_warms_up_and_falls_as_a_cosine() -> None:
    settings = OptimiserSettings(warmup=0.1, floor=0.1)
    values = [rate(step, 100, settings) for step in range(100)]
    assert values[0] == pytest.approx(1e-5)
    assert values[10] == 1.0
    assert values[:11] == sorted(values[:11])
    assert values[10:] == sorted(values[10:], reverse=True)
    assert values[55] == pytest.approx(0.1 + 0.9 * 0.5)
    assert rate(100, 100, settings) == pytest.approx(0.1)


def test_settings_are_read_written_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: my_folder\noptimiser: {rate: 1e-4}\n")
    found = load_settings(file, ["train.rank=8", "batches.answers=[a, b]", "merge=false"])
    assert (found.data, found.optimiser.rate, found.train.rank) == ("my_folder", 1e-4, 8)
    assert found.batches.answers == ("a", "b")
    save_settings(found, file)
    assert load_settings(file) == found
    for override, words in (
        ("train.rnk=3", "did you mean train.rank"),
        ("steps=many", "steps is 'many'; expected a whole number"),
        ("merge=3", "expected true or false"),
        ("train=3", "expected keys below it"),
        ("train.mode=half", "expected one of lora, full, decoder, memory"),
        ("rank", "expected key=value"),
        ("train.rank=0", r"train\.rank is 0; expected 1 to 4096"),
    ):
        with pytest.raises(InputError, match=words):
            load_settings(file, [override])
    with pytest.raises(InputError, match=r"that ships: .*finetune\.yaml"):
        load_settings("nowhere.yaml")


@pytest.mark.parametrize("file", sorted(Path(__file__).parents[3].glob("training/configs/*.yaml")))
def test_settings_that_ship_are_valid(file: Path) -> None:
    if file.name.startswith("accelerate_"):
        pytest.skip("for the launcher")
    assert isinstance(load_settings(file), Settings)


@pytest.mark.parametrize(
    ("name", "rank", "batch"), [("paper", 128, 2), ("paper_8b", 256, 2), ("paper_14b", 128, 1)]
)
def test_the_paper_s_step_is_256_samples_on_any_number_of_processes(
    name: str, rank: int, batch: int
) -> None:
    settings = load_settings(name)
    assert (settings.train.rank, settings.train.alpha) == (rank, 2 * rank)
    for processes in (1, 8, 32):
        batches = stepped(settings, processes).batches
        assert batches.batch == batch
        assert batches.batch * batches.accumulate * processes == 256
    with pytest.raises(InputError, match=r"batches.step is 256 for 3 process\(es\)"):
        stepped(settings, 3)
    assert not load_settings("paper_qwen").train.projector


def test_settings_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\nsteps: 5\n")
    (tmp_path / "b.yaml").write_text("extends: paper.yaml\ntrain: {rank: 4}\n")
    found = load_settings(tmp_path / "a.yaml")
    assert (found.steps, found.train.rank, found.train.alpha) == (5, 4, 256)
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(InputError, match="extends itself"):
        load_settings(tmp_path / "a.yaml")


def test_dropout_is_another_in_each_step_and_part() -> None:
    from sa2va_training.run.loop import dropout_seed

    places = [(seed, step, part) for seed in range(3) for step in range(5) for part in range(4)]
    assert len({dropout_seed(*place) for place in places}) == len(places)
    assert dropout_seed(1, 2, 3) == dropout_seed(1, 2, 3)
