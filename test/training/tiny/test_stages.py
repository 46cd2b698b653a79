# SPDX-License-Identifier: Apache-2.0
"""Stages on a nano model: losses fall, runs resume exactly, exports answer as the learner did."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_model.checkpoints.load import load_model
from sa2va_model.errors import InputError
from sa2va_training.run import precision
from sa2va_training.run.reporting.journal import read_journal
from sa2va_training.tiny import loop, stages
from sa2va_training.tiny.data.batches import Batches, Library
from sa2va_training.tiny.data.crops import SIDE, CropBatches
from sa2va_training.tiny.data.packing import look
from sa2va_training.tiny.data.scenes import PRESENT, SHAPE, SHAPE_NAMES, ShardSpec, write_shard
from sa2va_training.tiny.loop import STAGES, StageRun
from sa2va_training.tiny.nano import small_learner
from sa2va_training.tiny.running_mean import weights_of
from sa2va_training.tiny.settings import StageSettings, stage_settings
from sa2va_training.tiny.shipping.export import export, export_learner
from sa2va_training.tiny.stages import sight_stage

SHARES = {
    "memory": {"flat-clips": 1.0},
    "together": {"flat": 1.0, "flat-clips": 1.0},
}


MEMBER = """
import torch
from sa2va_training.run.launch import join
from sa2va_training.tiny.gradients import agree, average
here = join(cpu=True)
both, one = (torch.nn.Parameter(torch.zeros(())) for _ in range(2))
both.grad = torch.tensor(1.0 + here.process_index)
if here.process_index:
    one.grad = torch.tensor(4.0)
average(here, [both, one])
clock = agree(here, float(here.process_index))
print(f"{here.process_index} {[p.grad.item() for p in (both, one)]} {clock}\\n", end="", flush=True)
here.end_training()
"""


def settings(kind: str, **changes: object) -> StageSettings:
    shares = SHARES.get(kind, {"flat": 1.0})
    values = {"images": 2, "each": 2, "steps": 4, "held": 2, "warmup": 0.0, **changes}
    return StageSettings(kind, kind, shares, **values)


@pytest.mark.parametrize("kind", ["sam", "sight", "words", "masks"])
def test_loss_falls_on_one_batch(kind: str, data: Path) -> None:
    stage = partial(stages.words_stage, masks=1.0, codes=0.1) if kind == "masks" else STAGES[kind]
    learner = small_learner()
    batch = Batches(
        Library({"flat": 1.0}, "train", data), images=2, each=2, none_share=0.3, seed=1
    ).at(0)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss, report = stage(learner, batch, np.random.default_rng(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert all(np.isfinite(value) for value in report.values())
    assert losses[-1] < 0.8 * losses[0]


def test_masks_reach_the_vision_half_and_the_decoder_alone(data: Path, tmp_path: Path) -> None:
    """What SAM-2 remembers and how it sees stay as they are; without masks its decoder does as well."""
    moved: dict[float, set[str]] = {}
    for masks in (0.0, 1.0):
        torch.manual_seed(0)
        asked = settings("words", masks=masks, talk=0.0, steps=2)
        run = StageRun(asked, small_learner(), runs=tmp_path / str(masks), data=data)
        before = {name: value.clone() for name, value in run.learner.named_parameters()}
        run.train()
        changed = {n for n, v in run.learner.named_parameters() if not torch.equal(v, before[n])}
        moved[masks] = {name for name in changed if name.startswith("model.sam2.")}
        assert any("vision_model" in name for name in changed)
    assert not moved[0.0]
    assert moved[1.0]
    assert all("sam_mask_decoder" in name for name in moved[1.0])
    with pytest.raises(InputError, match=r"masks is 1\.0; expected 0 for a stage of kind 'sam'"):
        settings("sam", masks=1.0)


def test_captions_are_drawn_as_well(data: Path) -> None:
    learner = small_learner()
    batches = Batches(Library({"flat": 1.0}, "train", data), images=2, each=2, none_share=0, seed=1)
    args = learner, batches.at(0), np.random.default_rng(0)
    _, report = stages.words_stage(*args, talk=1.0, listing=1.0, masks=1.0)
    assert 0 <= report["captionmask"] <= 1


def test_ordinary_things_are_asked_for_and_talked_about(
    furniture_library: Path, tmp_path: Path
) -> None:
    write_shard(ShardSpec("things", "train", 1_000_000, 6, 64), tmp_path)
    library = Library({"things": 1.0}, "train", tmp_path)
    (shard,) = library.shards.values()
    rows = shard.objects[shard.objects[:, :, PRESENT] > 0]
    shown = {SHAPE_NAMES[int(row[SHAPE])] for row in rows}
    assert shown & {"mug", "book"}
    asked = {e.text for row in shard.expressions for e in row if e.target >= 0}
    assert any("coffee mug" in text or "cup" in text or "book" in text for text in asked)
    learner = small_learner()
    batches = Batches(library, images=2, each=2, none_share=0.3, seed=1)
    for step in range(4):
        for talk in (0.0, 1.0):
            rng = np.random.default_rng(step)
            loss, report = stages.words_stage(learner, batches.at(step), rng, talk=talk)
            assert torch.isfinite(loss)
            assert all(np.isfinite(value) for value in report.values())


def test_feeders_change_nothing(data: Path, tmp_path: Path) -> None:
    """Batches made ahead by two processes are those that the training process makes itself."""
    ends = []
    for feeders in (0, 2):
        torch.manual_seed(0)
        plan = settings("words", feeders=feeders, steps=5)
        run = StageRun(plan, small_learner(), runs=tmp_path / str(feeders), data=data)
        run.train(until=3)
        run = StageRun(plan, small_learner(), runs=tmp_path / str(feeders), data=data)
        run.train()
        ends.append(run.learner.state_dict())
    for name, one in ends[0].items():
        assert torch.equal(one, ends[1][name]), name


def test_stem_learns_to_name_crops(data: Path) -> None:
    learner = small_learner()
    batch = CropBatches(Library({"flat": 1.0}, "train", data), count=8, seed=1).at(0)
    assert batch.pixels.shape == (8, 3, SIDE, SIDE)
    assert (batch.masks.flatten(1).sum(1) >= 40).all()
    assert (batch.masks[:, SIDE // 2 - 8 : SIDE // 2 + 8].flatten(1).sum(1) > 0).all()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss, report = STAGES["stem"](learner, batch, np.random.default_rng(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert 0 <= report["shape"] <= 1


def test_sight_can_imitate_a_model(data: Path, tmp_path: Path) -> None:
    export_learner(small_learner(), tmp_path / "old")
    library = Library({"flat": 1.0}, "train", data)
    batch = Batches(library, images=2, each=2, none_share=0, seed=1).at(0)
    example = load_model(tmp_path / "old").mllm
    apart = [
        sight_stage(small_learner(seed), batch, np.random.default_rng(0), example)[1]["apart"]
        for seed in (0, 1)
    ]
    assert apart[0] < 1e-3 < 0.1 < apart[1]
    imitating = settings("sight", like=str(tmp_path / "old"), steps=2)
    StageRun(imitating, small_learner(1), runs=tmp_path, data=data).train()
    with pytest.raises(InputError, match="only that imitates a model, not 'sam'"):
        settings("sam", like=imitating.like)


def test_half_precision_is_near_full(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda device: True)
    learner = small_learner()
    batches = Batches(Library({"flat": 1.0}, "train", data), images=2, each=2, none_share=0, seed=1)
    learner.eval()
    exact = look(learner.mllm, batches.at(0).pixels)
    learner.train()
    rounded = look(learner.mllm, batches.at(0).pixels)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("kind", ["words", "memory", "together"])
def test_resumed_run_equals_straight_run(kind: str, data: Path, tmp_path: Path) -> None:
    straight = StageRun(settings(kind), small_learner(), runs=tmp_path / "straight", data=data)
    straight.train()
    begun = StageRun(settings(kind), small_learner(), runs=tmp_path / "cut", data=data)
    begun.train(until=2)
    resumed = StageRun(settings(kind), small_learner(seed=9), runs=tmp_path / "cut", data=data)
    assert resumed.step == 2
    resumed.train()
    other = resumed.learner.state_dict()
    for name, value in straight.learner.state_dict().items():
        assert torch.equal(value, other[name]), name
    rows = read_journal(straight.folder)
    assert [row["step"] for row in rows] == [1, 4]  # a report, and what was measured at the end
    assert any(name.startswith("held/") for name in rows[-1])


def test_processes_share_their_gradients_and_their_clock(tmp_path: Path) -> None:
    """One did not use the second parameter: it counts as zero there."""
    script = tmp_path / "member.py"
    script.write_text(MEMBER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    run = [*launch, "--master-port", "0", "--standalone", str(script)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:2]) == ["0 [1.5, 2.0] 0.0", "1 [1.5, 2.0] 0.0"]


def test_halves_are_plugged_together(data: Path, tmp_path: Path) -> None:
    for kind in ("sam", "words"):
        StageRun(
            settings(kind, steps=1), small_learner(seed=len(kind)), runs=tmp_path, data=data
        ).train()
    joined = StageRun(
        settings("together", start=("sam:sam", "words:words")),
        small_learner(),
        runs=tmp_path,
        data=data,
    )
    sam = torch.load(tmp_path / "sam/last.pt", weights_only=False)["learner"]
    words = torch.load(tmp_path / "words/last.pt", weights_only=False)["learner"]
    state = joined.learner.state_dict()
    for name in ("model.sam2.sam2_model.no_mem_embed", "map_aids.fine.weight"):
        assert torch.equal(state[name], sam[name])
    for name in ("model.mllm.mlp1.1.weight", "model.text_hidden_fcs.0.weight"):
        assert torch.equal(state[name], words[name])


def test_an_export_may_average_language_halves(data: Path, tmp_path: Path) -> None:
    runs = []
    for seed in (1, 2):
        run = StageRun(
            settings("words", steps=1), small_learner(seed), runs=tmp_path / str(seed), data=data
        )
        run.save()
        runs.append(run.folder)
    export(runs[:1], tmp_path / "mean", small_learner(), words=runs)
    weights = load_model(tmp_path / "mean", device="cpu").state_dict()
    states = [torch.load(r / "last.pt", weights_only=False)["learner"] for r in runs]
    name = "mllm.language_model.model.norm.weight"
    other = "mllm.mlp1.1.weight"
    for key in (name, other):
        mean = sum(state[f"model.{key}"] for state in states) / 2
        torch.testing.assert_close(weights[key], mean, rtol=2e-3, atol=1e-4)


def test_the_mean_of_a_runs_end_survives_a_cut_and_is_what_the_run_gives(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_AVERAGE_EVERY", 1)
    asked = settings("words", steps=6, averaged=0.6)
    seen = []
    straight = StageRun(asked, small_learner(), runs=tmp_path / "straight", data=data)
    for step in range(1, 7):
        straight.train(until=step)
        seen.append({k: v.clone() for k, v in straight.learner.state_dict().items()})
    for until in (4, None):
        StageRun(asked, small_learner(), runs=tmp_path / "cut", data=data).train(until=until)
    mean = weights_of(tmp_path / "cut" / asked.name)
    name = "model.mllm.mlp1.1.weight"
    torch.testing.assert_close(mean[name], torch.stack([s[name] for s in seen[2:]]).mean(0))
    assert not torch.equal(mean[name], seen[-1][name])
    begun = StageRun(
        settings("sam", start=(f"{asked.name}:words",)),
        small_learner(seed=5),
        runs=tmp_path / "cut",
        data=data,
    )
    assert torch.equal(begun.learner.state_dict()[name], mean[name])


@pytest.mark.parametrize("share", ["none_share", "averaged"])
def test_a_share_of_one_or_more_is_an_input_error(share: str) -> None:
    with pytest.raises(InputError, match=f"{share} is 1.5"):
        settings("words", **{share: 1.5})


def test_a_start_that_is_not_there_is_an_input_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sam:sam"):
        StageRun(
            settings("together", start=("sam:sam",)), small_learner(), runs=tmp_path, data=data
        )


def test_exported_model_makes_the_learners_masks(data: Path, tmp_path: Path) -> None:
    learner = small_learner().eval()
    export_learner(learner, tmp_path / "weights")
    model = load_model(tmp_path / "weights", device="cpu")
    learner.model.load_state_dict(model.state_dict())  # the float16 rounding of the files
    library = Library({"flat": 1.0}, "held", data)
    shard = next(iter(library.shards.values()))
    image = np.asarray(shard.rgb[0])
    codes = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pixels = stages_pixels(image)
        ours = learner.decode(learner.encode(pixels).features, codes, 2)
        features = model.encode_image(image)
        for n, code in enumerate(codes):
            plain = model.sam2.without_memory(features)
            theirs = model.sam2.decode_tokens(features, plain, extra=code[None, None])
            visible = bool(theirs.object_scores > 0)
            assert torch.allclose(theirs.object_scores[0], ours.object_scores[n], atol=1e-4)
            if visible:
                assert torch.allclose(theirs.logits[0], ours.logits[n], atol=1e-4)
    assert model.config.sam2.object_score_gate
    assert not any(name.startswith(("word_aids", "teacher")) for name in model.state_dict())


def stages_pixels(image: np.ndarray) -> torch.Tensor:
    from sa2va_training.tiny.data.batches import normalised

    return normalised([image])


def test_near_miss_prompts_never_match_an_object(data: Path) -> None:
    learner = small_learner()
    batches = Batches(
        Library({"flat": 1.0}, "train", data), images=4, each=4, none_share=0.7, seed=3
    )
    for step in range(5):
        batch = batches.at(step)
        codes = stages.prompt_codes(learner, batch, np.random.default_rng(step))
        real = stages.exact_codes(learner, batch)
        absent = ~batch.found
        for i in torch.nonzero(absent)[:, 0].tolist():
            image = i // batch.targets.shape[1]
            same = [j for j in torch.nonzero(batch.found)[:, 0].tolist() if j // 4 == image]
            assert not any(torch.allclose(codes[i], real[j]) for j in same)


def test_overrides_name_the_key_that_is_wrong() -> None:
    assert stage_settings("together", ["rate=1e-4", "shares=flat:1"]).shares == {"flat": 1.0}
    with pytest.raises(InputError, match="did you mean 'rate'"):
        stage_settings("together", ["rat=1"])
    with pytest.raises(InputError, match="expected one of sam"):
        stage_settings("joynt")
    with pytest.raises(InputError, match="rate='fast'"):
        stage_settings("together", ["rate=fast"])
