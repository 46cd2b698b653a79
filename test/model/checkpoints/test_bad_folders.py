# SPDX-License-Identifier: Apache-2.0
"""The table of checkpoint folders that are not as they should be: each loads or ends in one clear error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.checkpoints.presets import byte_tokenizer
from sa2va_model.errors import InputError
from sa2va_model.testing import nano_model

FAMILIES = ("qwen2", "qwen3_vl")
RGB = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / request.param
    save_model(nano_model(family=request.param), folder, dtype=None)
    return folder


def edit_json(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))


def language(values: dict[str, Any]) -> dict[str, Any]:
    return values["llm_config" if "llm_config" in values else "text_config"]


def config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder, "config.json", change)


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        stored = load_file(folder / "model.safetensors")
        change(stored)
        save_file(stored, folder / "model.safetensors")

    return damage


def shards(folder: Path) -> None:
    """Two files and an index."""
    stored = load_file(folder / "model.safetensors")
    names = sorted(stored)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: stored[name] for name in part}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def cut_shard(folder: Path) -> None:
    shards(folder)
    whole = (folder / "b.safetensors").read_bytes()
    (folder / "b.safetensors").write_bytes(whole[: len(whole) // 2])


def without_shard(folder: Path) -> None:
    shards(folder)
    (folder / "b.safetensors").unlink()


def broken_index(folder: Path) -> None:
    shards(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


def twice(folder: Path) -> None:
    shards(folder)
    stored = load_file(folder / "a.safetensors")
    save_file({**load_file(folder / "b.safetensors"), **stored}, folder / "b.safetensors")


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": 1')


def foreign_tokenizer(folder: Path) -> None:
    """One that has never heard of [SEG]."""
    edit_json(
        folder,
        "tokenizer.json",
        lambda v: v.update(added_tokens=[t for t in v["added_tokens"] if t["content"] != "[SEG]"]),
    )
    text = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(text.replace("[SEG]", "<p>"))


def large_tokenizer(folder: Path) -> None:
    extra = [f"<extra{i}>" for i in range(20)]
    tokens = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    byte_tokenizer(extra=[*tokens, *extra]).save_pretrained(folder)


def renamed(change: Callable[[str], str]) -> Callable[[Path], None]:
    return tensors(lambda t: [t.update({change(name): t.pop(name)}) for name in list(t)])


def as_pickle(name: str, inside: str = "") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        stored = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save({inside: stored} if inside else stored, folder / name)

    return change


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def as_payload(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": Payload()}, folder / "pytorch_model.bin")


def pointer(name: str) -> Callable[[Path], Any]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 497\n"
    return lambda folder: (folder / name).write_text(text)


def added(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    return lambda f: edit_json(f, "tokenizer.json", lambda v: change(v["added_tokens"]))


def swapped(entries: list[dict[str, Any]]) -> None:
    ids = {entry["content"]: entry for entry in entries}
    ids["[SEG]"]["id"], ids["<p>"]["id"] = ids["<p>"]["id"], ids["[SEG]"]["id"]


def moved_decoder(folder: Path) -> None:
    entry = {"content": "[SEG]", "special": True}
    edit_json(
        folder, "tokenizer_config.json", lambda v: v.update(added_tokens_decoder={"7": entry})
    )


HEAD = "text_hidden_fcs.0.weight"
FOLDERS: dict[str, tuple[Callable[[Path], Any], str | None]] = {
    "nothing wrong": (lambda folder: None, None),
    "shards": (shards, None),
    "a corrupt shard": (cut_shard, r"b\.safetensors: not a readable safetensors file"),
    "a missing shard": (without_shard, r"index\.json: names 'b\.safetensors'"),
    "a broken index": (broken_index, r"index\.json: not a readable index"),
    "a tensor in two files": (twice, "is also in"),
    "a missing tensor": (tensors(lambda t: t.pop(HEAD)), f"'{HEAD}' is missing"),
    "a renamed tensor": (
        tensors(lambda t: t.update({"text_hidden_fc.0.weight": t.pop(HEAD)})),
        f"'{HEAD}' is missing.*files have 'text_hidden_fc.0.weight'",
    ),
    "a tensor too many": (tensors(lambda t: t.update(x=torch.ones(1))), "'x' has no place"),
    "a tensor of the wrong shape": (
        tensors(lambda t: t.update({HEAD: torch.ones(3, 3)})),
        rf"'{HEAD}' has shape \[3, 3\]; expected \[32, 32\]",
    ),
    "a tensor of whole numbers": (
        tensors(lambda t: t.update({HEAD: t[HEAD].to(torch.int8)})),
        f"'{HEAD}' has type I8",
    ),
    "no tokenizer": (without_tokenizer, r"no tokenizer\.json"),
    "a broken tokenizer": (broken_tokenizer, "tokenizer cannot be read"),
    "a tokenizer without [SEG]": (foreign_tokenizer, r"'\[SEG\]' is in no file with an id"),
    "a tokenizer of a larger model": (large_tokenizer, "tokenizer: its highest token"),
    "no config.json": (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
    "a list for a config": (
        lambda folder: (folder / "config.json").write_text("[1]"),
        "holds a list; expected a JSON object",
    ),
    "an unknown architecture": (
        config(lambda c: c.update(architectures=["LlavaForConditionalGeneration"])),
        "architectures is .*Llava.*expected Sa2VAChatModel",
    ),
    "no language model": (
        config(lambda c: [c.pop("llm_config", 0), c.pop("text_config", 0)]),
        "_config' is missing",
    ),
    "a language model that is a list": (
        config(lambda c: c.update({k: [] for k in ("llm_config", "text_config") if k in c})),
        "_config' is",
    ),
    "a size that is a word": (
        config(lambda c: language(c).update(hidden_size="many")),
        "hidden_size.*many",
    ),
    "no heads": (config(lambda c: language(c).update(num_attention_heads=0)), "_config"),
    "sizes that do not fit": (
        config(lambda c: language(c).update(hidden_size=48)),
        r"has shape \[.*32.*\]; expected \[.*48",
    ),
    "layers that are not there": (
        config(lambda c: language(c).update(num_hidden_layers=3)),
        "'.*layers.2.*' is missing",
    ),
    "an odd image size for SAM-2": (
        config(lambda c: c["sam2_config"].update(image_size=100)),
        "sam2_config.image_size is 100",
    ),
    "widths of SAM-2 that do not fit": (
        config(lambda c: c["sam2_config"].update(num_heads=3)),
        "sam2_config.num_heads is 3",
    ),
    "an unknown field for SAM-2": (
        config(lambda c: c["sam2_config"].update(imagesize=64)),
        "unknown field 'imagesize'",
    ),
    "NaN": (
        tensors(lambda t: t[HEAD].view(-1)[3:4].fill_(float("nan"))),
        rf"tensor '{HEAD}' holds NaN or Inf \(1 of",
    ),
    "Inf": (
        tensors(lambda t: t[HEAD].view(-1)[5:6].fill_(float("inf"))),
        rf"tensor '{HEAD}' holds NaN or Inf",
    ),
    "names of a distributed and compiled model": (renamed("module._orig_mod.{}".format), None),
    "names of a merged adapter": (renamed("base_model.model.{}".format), None),
    "a compiled part": (
        renamed(lambda n: n.replace("grounding_encoder.", "grounding_encoder._orig_mod.")),
        None,
    ),
    "saved beside an adapter": (
        renamed(lambda n: n.replace("fcs.0.weight", "fcs.0.modules_to_save.default.weight")),
        None,
    ),
    "rotary frequencies": (
        tensors(lambda t: t.update({"x.layers.0.rotary_emb.inv_freq": torch.ones(8)})),
        None,
    ),
    "an adapter that was not merged": (
        tensors(lambda t: t.update({"x.q_proj.lora_A.default.weight": torch.ones(8)})),
        "is of an adapter; expected it merged",
    ),
    "pytorch_model.bin": (as_pickle("pytorch_model.bin"), None),
    "a .pth of xtuner": (as_pickle("iter_1000.pth", "state_dict"), None),
    "a .bin with code": (as_payload, r"not readable as weights \(no archive of tensors alone\)$"),
    "a pointer for weights": (pointer("model.safetensors"), "is a git-lfs pointer.*git lfs pull"),
    "a pointer for a tokenizer": (pointer("tokenizer.json"), r"tokenizer\.json: is a git-lfs"),
    "added tokens in another order": (added(lambda a: a.reverse()), "but is loaded as"),
    "ids that were swapped": (added(swapped), r"but is loaded as"),
    "an id that another file contradicts": (
        moved_decoder,
        "tokenizer_config.json: token|but is loaded",
    ),
    "a mark of Windows": (
        lambda f: (f / "config.json").write_bytes(
            b"\xef\xbb\xbf" + (f / "config.json").read_bytes()
        ),
        None,
    ),
    "a billion layers": (
        config(lambda c: language(c).update(num_hidden_layers=10**9)),
        r"num_hidden_layers is 1000000000, but the files have \d+ tensors",
    ),
    "a billion blocks of SAM-2": (
        config(lambda c: c["sam2_config"].update(stages=[1, 10**9, 1, 1])),
        r"sam2_config\.stages\[1\] is 1000000000",
    ),
    "a billion channels": (
        config(lambda c: c["sam2_config"].update(embed_dim=10**9)),
        r"embed_dim is 1000000000, but the largest tensor",
    ),
    "rotation by nothing": (
        config(lambda c: language(c).update(rope_theta=0)),
        r"config\.json: .*rope_theta is 0; expected a number from 1 to 1e\+12",
    ),
    "a word for a rotation": (
        config(lambda c: language(c).update(rope_theta="x")),
        r"rope_theta is 'x'; expected a number",
    ),
    "a rotation scaled by nothing": (
        config(lambda c: language(c).update(rope_scaling={"rope_type": "linear", "factor": 0})),
        r"rope_scaling\.factor is 0; expected a number",
    ),
    "a norm that divides by nothing but its epsilon": (
        config(lambda c: language(c).update(rms_norm_eps=1e300)),
        r"rms_norm_eps is 1e\+300; expected a number",
    ),
    "no attention heads": (
        config(lambda c: language(c).update(num_attention_heads=0)),
        "num_attention_heads is 0; expected 1 or more",
    ),
    "a billion tiles": (config(lambda c: c.update(max_tiles=10**9)), "max_tiles is 1000000000"),
    "JSON without a bottom": (
        lambda f: (f / "config.json").write_text("[" * 100_000),
        "not valid JSON",
    ),
    "a number without an end": (
        lambda f: (f / "config.json").write_text('{"a": ' + "1" * 10_000 + "}"),
        "not valid JSON",
    ),
    "a list for a width": (
        config(lambda c: c["sam2_config"].update(embed_dim=[[[]]])),
        r"sam2_config\.embed_dim is \[\[\[\]\]\]; expected a whole number",
    ),
    "a share for a window": (
        config(lambda c: c["sam2_config"].update(window_spec=[8, 0.5, 8, 4])),
        r"window_spec\[1\] is 0\.5; expected a whole number",
    ),
    "a window of a billion": (
        config(lambda c: c["sam2_config"].update(window_spec=[8, 10**9, 8, 4])),
        r"window_spec\[1\] is 1000000000",
    ),
    "blocks that are not there": (
        config(lambda c: c["sam2_config"].update(global_blocks=[999])),
        "global_blocks is",
    ),
    "a negative length": (config(lambda c: c.update(max_new_tokens=-1)), "max_new_tokens is -1"),
    "an endless length": (config(lambda c: c.update(max_new_tokens=10**9)), "max_new_tokens is"),
    "text for a length": (config(lambda c: c.update(max_new_tokens="x")), "max_new_tokens is 'x'"),
    "a vocabulary without a bottom": (
        lambda f: (f / "vocabulary.json").write_text("[" * 100_000),
        r"vocabulary\.json: not valid JSON",
    ),
    "a calibration that is a number": (
        lambda f: (f / "calibration.json").write_text("5"),
        r"calibration\.json: holds a int; expected a JSON object",
    ),
    "no keyframes": (config(lambda c: c.update(keyframes=0)), "keyframes is 0"),
    "a word for the keyframes": (config(lambda c: c.update(keyframes="five")), "config.json"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_checkpoints(saved: Path, tmp_path: Path, name: str) -> None:
    damage, error = FOLDERS[name]
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    damage(folder)
    if error is None:
        assert load_model(folder).segment(RGB, "the mug").found
        return
    with pytest.raises(InputError, match=error) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_that_is_not_known(tmp_path: Path) -> None:
    save_model(nano_model(), tmp_path)
    edit_json(tmp_path, "config.json", lambda c: c.update(template="vicuna"))
    with pytest.raises(InputError, match="template is 'vicuna'; expected one of internlm2_chat"):
        load_model(tmp_path)


def test_a_family_that_is_not_known(tmp_path: Path) -> None:
    save_model(nano_model(family="qwen3_vl"), tmp_path)

    def other(values: dict[str, Any]) -> None:
        values["text_config"]["model_type"] = values["vision_config"]["model_type"] = "glm4v"
        values["vision_config"].pop("deepstack_visual_indexes")

    edit_json(tmp_path, "config.json", other)
    with pytest.raises(InputError, match=r"text_config\.model_type is 'glm4v'"):
        load_model(tmp_path)


def test_the_same_weights_in_shards_keep_their_calibration(saved: Path, tmp_path: Path) -> None:
    from sa2va_model.checkpoints.calibration import Calibration

    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    Calibration(hide=-0.25).write(folder, {})
    shards(folder)
    assert Calibration.read(folder).hide == -0.25
    tensors_of_b = load_file(folder / "b.safetensors")
    next(iter(tensors_of_b.values())).view(-1)[0] += 1
    save_file(tensors_of_b, folder / "b.safetensors")
    assert Calibration.read(folder) == Calibration()
