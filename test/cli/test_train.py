# SPDX-License-Identifier: Apache-2.0
"""`sa2va train` from a folder to an adapter that other commands take, on the nano model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from sa2va_cli.main import main
from sa2va_model.checkpoints.adapters import active_adapter, load_adapter
from sa2va_model.checkpoints.load import SHIPPED, load_model, save_model
from sa2va_model.errors import InputError
from sa2va_model.testing import nano_model
from sa2va_training.data.synth import write_scenes
from sa2va_training.run.blend import SHARES
from sa2va_training.run.reporting import judge

HUB_CODE = """from transformers import PretrainedConfig


class OurConfig(PretrainedConfig):
    model_type = "sa2va_chat"
    told = "by the code beside the weights"
"""
SMALL = ["batches.batch=2", "batches.accumulate=1", "batches.frames=1", "measure=2", "train.rank=2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano checkpoint."""
    folder = tmp_path_factory.mktemp("base")
    save_model(nano_model(), folder, dtype=torch.bfloat16)
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "configuration_ours.OurConfig"}, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 7}))
    (folder / "configuration_ours.py").write_text(HUB_CODE)
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    (folder / "special_tokens_map.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn scenes with expressions, questions and captions."""
    folder = tmp_path_factory.mktemp("data")
    write_scenes(folder, "flat", range(8), size=96)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    words = ["train", "finetune.yaml", f"data={data}", f"output={folder}", "steps=3", *SMALL]
    assert main([*words, "optimiser.rate=0.01", "--model", str(base)]) == 0
    return folder


def test_a_run_leaves_what_it_promises(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert results["steps"] == 3
    for figures in results["before"].values():
        assert {"expressions", "giou", "found"} <= figures.keys()
    assert results["before"].keys() == results["after"].keys()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert list((run / "tensorboard").iterdir())
    for name in ("loss.png", "settings.yaml", "adapter/adapter.json", "merged/config.json"):
        assert (run / name).is_file(), name
    picture = cv2.imread(str(run / "loss.png"))
    assert picture is not None
    assert picture.std() > 1


def test_the_merged_checkpoint_is_base_and_adapter(run: Path, base: Path) -> None:
    adapted, merged = load_model(base, device="cpu"), load_model(run / "merged", device="cpu")
    plain = load_model(base, device="cpu")
    load_adapter(adapted, run / "adapter")
    ids = torch.tensor([plain.mllm.prompt_ids("what is it?")])
    with torch.no_grad():
        one, two, three = (
            m.text_hidden_fcs(m.mllm.language_model.base_model(input_ids=ids).last_hidden_state)
            for m in (adapted, merged, plain)
        )
    assert torch.allclose(one, two, atol=3e-2)  # stored in bfloat16
    assert not torch.allclose(one, three, atol=3e-2)


def test_the_merged_checkpoint_stands_where_its_base_stood(
    run: Path, base: Path, tmp_path: Path
) -> None:
    """Hub code, ids, tokenizer and type are the base's; `sa2va merge` writes the same."""
    again = tmp_path / "again"
    words = ["merge", str(run / "adapter"), "--model", str(base), "-o", str(again)]
    assert main(words) == 0
    assert main(words) == 2  # nothing is overwritten
    for folder in (run / "merged", again):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        assert config.told == "by the code beside the weights"
        assert config.eos_token_id == 7
        assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
        for name in ("generation_config.json", "special_tokens_map.json", "tokenizer.json"):
            assert (folder / name).read_bytes() == (base / name).read_bytes()
        weights = load_file(folder / "model.safetensors")
        assert {t.dtype for t in weights.values() if t.is_floating_point()} == {torch.bfloat16}
        assert weights.keys() == load_file(base / "model.safetensors").keys()
    one, two = (
        load_file(run / "merged" / "model.safetensors"),
        load_file(again / "model.safetensors"),
    )
    assert all(torch.equal(one[name], value) for name, value in two.items())


def test_a_share_of_an_adapter_lies_between(run: Path, base: Path, tmp_path: Path) -> None:
    words = ["merge", str(run / "adapter"), "--model", str(base), "-o", str(tmp_path / "part")]
    assert main([*words, "--share", "1.5"]) == 2
    assert main([*words, "--share", "0.25"]) == 0
    before, after, part = (
        load_file(folder / "model.safetensors")
        for folder in (base, run / "merged", tmp_path / "part")
    )
    moved = 0
    for name, value in part.items():
        expected = torch.lerp(before[name].float(), after[name].float(), 0.25)
        torch.testing.assert_close(value.float(), expected, rtol=1e-2, atol=1e-3)
        moved += not torch.equal(value, before[name])
    assert moved


def test_of_several_adapters_the_mean_is_taken(
    run: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    words = ["train", "finetune.yaml", f"data={data}", f"output={other}", *SMALL, "seed=7"]
    assert main([*words, "steps=2", "--model", str(base), "optimiser.rate=0.01"]) == 0
    words = ["merge", str(run / "adapter"), str(other / "adapter"), "--model", str(base)]
    assert main([*words, "-o", str(tmp_path / "mean")]) == 0
    one, two, mean = (
        load_file(folder / "model.safetensors")
        for folder in (run / "merged", other / "merged", tmp_path / "mean")
    )
    assert any(not torch.equal(one[name], two[name]) for name in mean)
    for name, value in mean.items():
        expected = (one[name].float() + two[name].float()) / 2
        torch.testing.assert_close(value.float(), expected, rtol=1e-2, atol=1e-3)
    # shares of its own for each, and checkpoints in place of adapters
    words = ["merge", str(run / "merged"), str(other / "adapter"), "--model", str(base)]
    words += ["-o", str(tmp_path / "sum")]
    assert main([*words, "--share", "0.5", "0.5", "0.5"]) == 2
    assert main([*words, "--share", "0.75", "0.5"]) == 0
    before, total = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "sum"))
    for name, value in total.items():
        moved = 0.75 * (one[name].float() - before[name].float())
        moved += 0.5 * (two[name].float() - before[name].float())
        expected = before[name].float() + moved
        torch.testing.assert_close(value.float(), expected, rtol=1e-2, atol=1e-3)
    words[1] = str(SHIPPED)
    assert main([*words[:-1], str(tmp_path / "no")]) == 2  # of another size


def test_evaluate_takes_what_a_run_has_held_out(
    run: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    held = json.loads((run / "held_out.json").read_text())
    pictures = held[data.name]["pictures"]
    assert 0 < len(pictures) < 8
    words = [
        "evaluate",
        str(data),
        "--on",
        str(run),
        "-o",
        str(tmp_path / "e"),
        "--model",
        str(base),
    ]
    assert main(words) == 0
    lines = [
        json.loads(line) for line in (tmp_path / "e" / "records.jsonl").read_text().splitlines()
    ]
    asked = {line["id"].partition(":")[0] for line in lines if "id" in line}
    assert asked <= set(pictures)
    assert asked


def test_options_that_would_change_nothing_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "finetune.yaml", f"data={data}", f"output={tmp_path / 'o'}"]
    assert main([*line, "--dtype", "bfloat16"]) == 2
    assert "expected precision=bf16" in capsys.readouterr().err
    assert main([*line, "--bits", "4", "train.mode=full"]) == 2
    assert "train.bits is 4 in mode full" in capsys.readouterr().err


def test_an_adapter_that_is_not_finite_is_never_loaded(
    run: Path, base: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(run / "adapter", tmp_path / "broken")
    for name in ("parts.safetensors", "adapter_model.safetensors"):
        file = broken / name
        good = file.read_bytes()
        tensors = load_file(file)
        key = sorted(tensors)[0]
        tensors[key].view(-1)[0] = float("nan")
        save_file(tensors, file, metadata={"format": "pt"})
        model = load_model(base, device="cpu")
        with pytest.raises(InputError, match="holds NaN or infinity"):
            load_adapter(model, broken)
        assert active_adapter(model) is None
        file.write_bytes(good)


def test_other_commands_take_the_adapter(
    run: Path, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(next((data / "images").glob("*.jpg")))
    ask = ["ask", picture, "Please segment it.", "--adapter", str(run / "adapter")]
    assert main([*ask, "--model", str(base)]) == 0
    assert main(ask) == 2  # the model that ships is not what it was trained on
    assert "was trained on base model" in capsys.readouterr().err
    assert main([*ask[:3], "--adapter", str(run), "--model", str(base)]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_finished_run_is_not_overwritten_but_may_be_resumed(
    run: Path, base: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "metrics.jsonl").read_text()
    assert (
        main(["train", "finetune.yaml", f"data={data}", f"output={run}", "--model", str(base)]) == 2
    )
    assert f"--resume {run}" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--model", str(base)]) == 0
    assert (run / "metrics.jsonl").read_text() == before
    assert main(["train", "finetune.yaml", "--resume", str(run)]) == 2
    assert main(["train", "--resume", str(data)]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err


def test_a_finished_run_can_be_made_longer(
    run: Path, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = shutil.copytree(run, tmp_path / "longer")
    words = ["train", "--resume", str(longer), "--model", str(base)]
    assert main([*words, "steps=5"]) == 0
    rows = [json.loads(line) for line in (longer / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    old = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.dumps(row) for row in rows[:3]] == old
    results = json.loads((longer / "results.json").read_text())
    assert results["steps"] == 5
    assert results["before"] == json.loads((run / "results.json").read_text())["before"]
    assert main([*words, "optimiser.rate=1"]) == 2
    assert "expected no optimiser.rate=1 beside it" in capsys.readouterr().err


def test_the_best_weights_are_kept_and_a_tired_run_ends(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worth by script: .1 .5 .3 .2; two measurements without gain end the run, the adapter is that of step 2."""
    values = iter((0.1, 0.5, 0.3, 0.2, 0.9))
    monkeypatch.setattr(judge, "worth", lambda figures: next(values))
    out, plain = tmp_path / "o", tmp_path / "plain"
    words = ["train", "finetune.yaml", f"data={data}", *SMALL, "optimiser.rate=0.01", "merge=false"]
    words += ["--model", str(base), "save_every=1", "keep=9", "steps=9"]
    more = ["validate_every=1", "patience=2"]
    assert main([*words, *more, f"output={out}"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert (results["best"], results["steps"]) == (2, 4)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["val"] for row in rows] == [0.1, 0.5, 0.3, 0.2]
    saved = torch.load(out / "checkpoints" / "00000002" / "state.pt", weights_only=True)["trained"]
    kept = load_file(out / "adapter" / "parts.safetensors")
    assert all(torch.equal(saved[f"model.{name}"], value) for name, value in kept.items())
    assert main([*words, f"output={plain}", "measure=0"]) == 0  # looking changes nothing
    other = torch.load(plain / "checkpoints" / "00000004" / "state.pt", weights_only=True)
    last = torch.load(out / "checkpoints" / "00000004" / "state.pt", weights_only=True)
    assert all(torch.equal(other["trained"][k], v) for k, v in last["trained"].items())
    assert len(list((out / "tensorboard").iterdir())) >= 1


def test_the_language_model_can_stay_as_it_is(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    words = [
        "train",
        "finetune.yaml",
        f"data={data}",
        f"output={out}",
        *SMALL,
        "train.mode=decoder",
    ]
    assert main([*words, "steps=2", "--model", str(base), "optimiser.rate=0.01"]) == 0
    adapter = json.loads((out / "adapter" / "adapter.json").read_text())
    assert not adapter["lora"]
    tops = {name.partition(".")[0] for name in adapter["parts"]}
    assert tops == {"text_hidden_fcs", "sam2"}
    before, after = load_model(base, device="cpu"), load_model(out / "merged", device="cpu")
    changed = {
        name.split(".")[0]
        for (name, one), two in zip(
            before.state_dict().items(), after.state_dict().values(), strict=True
        )
        if not torch.equal(one, two)
    }
    assert changed == {"text_hidden_fcs", "sam2"}


def test_a_dry_run_writes_nothing(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", tmp_path / "dry.json"
    words = ["train", "finetune.yaml", f"data={data}", f"output={out}", *SMALL, "--dry-run"]
    assert main([*words, "--model", str(base), "--json", str(file)]) == 0
    assert not out.exists()
    assert json.loads(file.read_text())["seconds_per_step"] > 0
    shown = capsys.readouterr().err
    for word in ("language model", "text_hidden_fcs", "memory", "dry run"):
        assert word in shown


def test_pictures_set_aside_choose_how_far_to_go(base: Path, data: Path, tmp_path: Path) -> None:
    """Nothing is good enough here, so all places are tried; the adapter holds the weights of the best one."""
    out = tmp_path / "o"
    words = ["train", "finetune.yaml", f"data={data}", f"output={out}", "steps=3", *SMALL]
    more = [f"rehearsal={data}", "aside=0.4", "forget=-1", "optimiser.rate=0.01", "merge=false"]
    assert main([*words, *more, "--model", str(base)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert list(results["aside"]) == [str(share) for share in (0.0, *SHARES)]
    share = results["share"]
    assert json.loads((out / "adapter" / "adapter.json").read_text())["notes"]["share"] == share
    name = "text_hidden_fcs.2.weight"
    before = load_model(base, device="cpu").state_dict()[name]
    saved = torch.load(next(out.glob("checkpoints/*3/state.pt")), weights_only=True)
    after = saved["trained"][f"model.{name}"]
    kept = load_file(out / "adapter" / "parts.safetensors")[name]
    assert torch.allclose(kept, torch.lerp(before, after, share), atol=1e-6)


def test_a_few_samples_are_learnt_by_heart(base: Path, data: Path, tmp_path: Path) -> None:
    words = ["train", f"data={data}", f"output={tmp_path / 'o'}", "steps=40", *SMALL, "merge=false"]
    more = ["optimiser.rate=0.01", "optimiser.decoder=1", "batches.talk=0", "--overfit", "1"]
    assert main([*words, *more, "--model", str(base)]) == 0
    results = json.loads((tmp_path / "o" / "results.json").read_text())
    (before,), (after,) = results["before"].values(), results["after"].values()
    assert before["giou"] < 0.3
    assert after["giou"] > 0.6


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data=/nowhere"], "/nowhere: no such folder"),
        ([], "data is not set"),
        (["data={data}", "optimizer.rate=1"], "did you mean optimiser"),
        (["data={data}", "train.mode=memory"], "batches.frames is 1; expected 2 or more"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str],
    expected: str,
    base: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = [word.format(data=data) for word in words]
    line = ["train", "finetune.yaml", *chosen, *SMALL, f"output={tmp_path / 'o'}", "steps=1"]
    status = main([*line, "--model", str(base)])
    if (
        expected is None
    ):  # allowed: stills have no memory to train, every step is empty but goes through
        assert status == 0
        return
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2
    assert expected in error


def test_adapters_do_not_stay_in_a_model(run: Path, base: Path) -> None:
    model = load_model(base, device="cpu")
    assert active_adapter(model) is None
    load_adapter(model, run / "adapter")
    active = active_adapter(model)
    assert active is not None
    assert active.name == "mine"
