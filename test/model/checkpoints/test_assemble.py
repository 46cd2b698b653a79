# SPDX-License-Identifier: Apache-2.0
"""A base MLLM in its published layout and a SAM-2 become a checkpoint with the official names, which is trained on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sa2va_cli.main import main
from sa2va_model.checkpoints.assemble import assemble
from sa2va_model.checkpoints.files import sam2_files
from sa2va_model.checkpoints.files.safetensors_files import stored_tensors
from sa2va_model.checkpoints.files.tensor_names import Names
from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.checkpoints.presets import CHAT_TOKENS, byte_tokenizer, nano_config
from sa2va_model.errors import InputError
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.families.qwen_vl import QWEN2_5, QWEN3
from sa2va_model.mllm.registry import family_of_nano, nano_fields
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.testing import nano_model

LLAVA = "llava"
NANO = nano_config(300).sam2
BASE_TOKENS = (*CHAT_TOKENS, prompts.IMAGE_START, prompts.IMAGE_END, prompts.IMAGE_TOKEN)


@pytest.fixture(autouse=True)
def sam2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A published file of a size that is published for this test alone."""
    monkeypatch.setitem(sam2_files.SIZES, "nano", NANO)
    torch.manual_seed(1)
    file = tmp_path / "sam2_nano.pt"
    torch.save({"model": Sam2(NANO).sam2_model.state_dict()}, file)
    return file


def base_of(folder: Path, family: str, *, old_names: bool = False) -> dict[str, torch.Tensor]:
    """A base MLLM as it is published, without anything of Sa2VA's; its tensors."""
    extra = family_of_nano(family).tokens
    tokenizer = byte_tokenizer(special=BASE_TOKENS, extra=extra)
    whole = nano_model(family=family)
    rows = len(tokenizer)
    tensors = {}
    for name, tensor in Names(whole.config).official(whole.state_dict()).items():
        if name.startswith(("grounding_encoder.", "text_hidden_fcs.")):
            continue
        table = (
            "embed_tokens" in name
            or "tok_embeddings" in name
            or name.endswith(("lm_head.weight", "output.weight"))
        )
        kept = tensor[:rows] if table and "mlp" not in name and "attention" not in name else tensor
        if family in (QWEN2_5, QWEN3):
            name = name.removeprefix("model.")
            if old_names:
                name = name.replace("model.visual.", "visual.").replace("language_model.", "")
        if family == LLAVA:
            name = name.removeprefix("model.")
            if old_names:
                name = re.sub(r"^model\.(vision_tower|multi_modal)", r"\1", name)
                name = re.sub(r"^model\.language_model\.", "language_model.model.", name)
                name = name.replace("lm_head", "language_model.lm_head")
        tensors[name] = kept.clone().contiguous()
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    values = nano_fields(family, rows)
    if family in (QWEN2_5, QWEN3):
        title = "Qwen2_5_VL" if family == QWEN2_5 else "Qwen3VL"
        values["architectures"] = [f"{title}ForConditionalGeneration"]
    elif family == LLAVA:
        values["architectures"] = ["LlavaForConditionalGeneration"]
        del values["template"]
    else:
        values |= {"architectures": ["InternVLChatModel"], "template": "internvl2_5"}
    (folder / "config.json").write_text(json.dumps(values))
    return tensors


@pytest.mark.parametrize(
    ("family", "old_names"),
    [
        ("qwen2", False),
        ("internlm2", False),
        ("phi3", False),
        (QWEN2_5, True),
        (QWEN3, False),
        (LLAVA, False),
        (LLAVA, True),
    ],
)
def test_a_start_has_all_official_names_and_every_weight_of_its_base(
    tmp_path: Path, sam2: Path, family: str, old_names: bool
) -> None:
    base = base_of(tmp_path / "base", family, old_names=old_names)
    start = tmp_path / "start"
    assemble(tmp_path / "base", sam2, start, image_size=64)
    reference = tmp_path / "reference"
    save_model(nano_model(family=family), reference)
    names = set(stored_tensors(start))
    assert names == set(stored_tensors(reference))
    model = load_model(start, device="cpu")
    state = Names(model.config).official(model.state_dict())
    for name, tensor in base.items():
        ending = "." + re.sub(r"^(language_model\.)?(model\.)?", "", name)
        words = "language_model" if name.startswith("language_model.model.") else ""
        given = (
            name if name in state else next(n for n in state if n.endswith(ending) and words in n)
        )
        torch.testing.assert_close(state[given][: len(tensor)], tensor, atol=0, rtol=0)
    stock = torch.load(sam2, weights_only=True)["model"]
    assert all(torch.equal(model.sam2.sam2_model.state_dict()[n], t) for n, t in stock.items())
    ids = model.mllm.tokenizer.convert_tokens_to_ids(list(prompts.SPECIAL_TOKENS))
    for table in ("get_input_embeddings", "get_output_embeddings"):
        rows = getattr(model.mllm.language_model, table)().weight[ids].float()
        assert rows.isfinite().all()
        assert torch.pdist(rows).min() > 0  # five words, not one


def test_a_tied_base_stays_tied(tmp_path: Path, sam2: Path) -> None:
    base_of(tmp_path / "base", QWEN3)
    file = tmp_path / "base/model.safetensors"
    from safetensors.torch import load_file

    tensors = {k: v for k, v in load_file(file).items() if "lm_head" not in k}
    save_file(tensors, file)
    values = json.loads((tmp_path / "base/config.json").read_text())
    values["tie_word_embeddings"] = values["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "base/config.json").write_text(json.dumps(values))
    assemble(tmp_path / "base", sam2, tmp_path / "start", image_size=64)
    model = load_model(tmp_path / "start", device="cpu").mllm.language_model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_what_is_no_base_is_refused_by_name(
    tmp_path: Path, sam2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, start = tmp_path / "base", tmp_path / "start"
    tensors = base_of(base, "qwen2")
    words = ["assemble", "--mllm", str(base), "--sam2", str(sam2), "-o", str(start)]
    save_file(dict(list(tensors.items())[1:]), base / "model.safetensors")
    assert main(words) == 2
    assert f"{next(iter(tensors))!r} is missing (1 in all)" in capsys.readouterr().err
    save_model(nano_model(), base)
    assert main(words) == 2
    assert "architectures is Sa2VAChatModel; expected InternVLChatModel" in capsys.readouterr().err
    start.mkdir()
    (start / "mine").write_text("")
    with pytest.raises(InputError, match="is not empty"):
        assemble(base, sam2, start)


def test_the_published_shape_keeps_sa2va_s_way_of_using_sam2(tmp_path: Path, sam2: Path) -> None:
    """A stock SAM-2 trusts its object score; the official Sa2VA does not."""
    base_of(tmp_path / "base", "qwen2")
    made: Sa2VA = assemble(tmp_path / "base", sam2, tmp_path / "start", image_size=64)
    assert made.config.sam2 == replace(NANO, object_score_gate=False, binarize_prompted=False)
