# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by name, from shards and from older tokenizer files, in fewer bits; nothing here needs a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_model.checkpoints import load as checkpoints
from sa2va_model.checkpoints.files.hub import find_folder
from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.checkpoints.tokenizer import read_tokenizer
from sa2va_model.errors import InputError
from sa2va_model.testing import nano_model

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's local cache, and no way to the hub itself."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_name_is_found_in_the_cache_without_a_network(offline: Path) -> None:
    repository = offline / "models--someone--nano"
    save_model(nano_model(), repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert find_folder("someone/nano") == repository / "snapshots" / COMMIT
    assert find_folder(f"someone/nano@{COMMIT}") == repository / "snapshots" / COMMIT
    assert load_model("someone/nano").segment(IMAGE, "the mug").found


def test_a_name_that_is_nowhere_is_said_in_one_line(offline: Path) -> None:
    with pytest.raises(InputError, match=r"someone/other: no such folder, and not to be had") as e:
        load_model("someone/other")
    assert "\n" not in str(e.value)


def test_a_local_folder_comes_first(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(nano_model(), tmp_path / "someone" / "nano")
    monkeypatch.chdir(tmp_path)
    assert find_folder("someone/nano") == Path("someone/nano")
    assert load_model("someone/nano").segment(IMAGE, "the mug").found


def test_what_is_neither_folder_nor_name(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(InputError, match="is a file; expected a Sa2VA checkpoint folder"):
        load_model(file)
    with pytest.raises(InputError, match="no such folder"):
        load_model(str(tmp_path / "a" / "b"))


def test_a_large_checkpoint_is_saved_in_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SHARD", 200_000)
    model = nano_model(family="internlm2")
    save_model(model, tmp_path, dtype=None)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert set(index["weight_map"].values()) == set(files)
    again = load_model(tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
    monkeypatch.setattr(checkpoints, "SHARD", 10**9)
    save_model(model, tmp_path, dtype=None)  # what was there before is gone
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3_vl"])
def test_half_precision_is_for_the_language_half(tmp_path: Path, family: str, dtype: str) -> None:
    save_model(nano_model(family=family), tmp_path)
    model = load_model(tmp_path, dtype=dtype)
    kinds = {name: value.dtype for name, value in model.named_parameters()}
    assert {k for n, k in kinds.items() if n.startswith("sam2.")} == {torch.float32}
    assert {k for n, k in kinds.items() if not n.startswith("sam2.")} == {getattr(torch, dtype)}
    assert model.segment(IMAGE, "the mug").found


def test_a_large_tensor_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sa2va_model.checkpoints import meta_init as filling
    from sa2va_model.checkpoints.files import safetensors_files as tensors

    model = nano_model(family="qwen2_5_vl")
    save_model(model, tmp_path, dtype=None)
    for module in (filling, tensors):
        monkeypatch.setattr(module, "WINDOW", 5000)
    again = load_model(tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_a_stored_head_is_not_tied_whatever_the_configuration_says(tmp_path: Path) -> None:
    for family in ("qwen2", "qwen2_5_vl"):
        model = nano_model(family=family)
        save_model(model, tmp_path, dtype=None)
        values = json.loads((tmp_path / "config.json").read_text())
        values.get("llm_config", values.get("text_config"))["tie_word_embeddings"] = True
        (tmp_path / "config.json").write_text(json.dumps(values))
        language = load_model(tmp_path).mllm.language_model
        head = model.mllm.language_model.get_output_embeddings().weight
        assert torch.equal(language.get_output_embeddings().weight, head)
        assert not torch.equal(language.get_input_embeddings().weight, head)


# Tokenizers.


TEXTS = ("Please segment the red mug.", "It is [SEG].<|im_end|>", "<img><IMG_CONTEXT></img>\nä 日")


def test_a_tokenizer_of_vocabulary_and_merges(tmp_path: Path) -> None:
    """As checkpoints of slow Qwen2 tokenizers have it; no tokenizer.json."""
    tokenizer = nano_model().mllm.tokenizer
    tokenizer.save_pretrained(tmp_path / "one")
    model = json.loads((tmp_path / "one" / "tokenizer.json").read_text())["model"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "vocab.json").write_text(json.dumps(model["vocab"]))
    (other / "merges.txt").write_text("#version: 0.2\n")
    added = {
        str(token): {
            "content": str(text),
            "special": True,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "single_word": False,
        }
        for token, text in tokenizer.added_tokens_decoder.items()
    }
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]},
        "added_tokens_decoder": added,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    read = read_tokenizer(other)
    assert read.eos_token_id == tokenizer.eos_token_id
    for text in TEXTS:
        assert read.encode(text) == tokenizer.encode(text)


def test_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    """As InternLM2 checkpoints have it: tokenizer.model, and a class that only their own code knows."""
    import sentencepiece

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("please segment the red mug\nthe blue box on the table\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        pad_id=-1,
        minloglevel=2,
    )
    special = ["<unk>", "<s>", "</s>", "<|im_end|>", "[SEG]"]
    places = [0, 1, 2, 320, 321]
    settings = {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": {
            str(place): {"content": text, "special": True}
            for place, text in zip(places, special, strict=True)
        },
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = read_tokenizer(tmp_path)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in ("please segment the red mug", "A 日 ü?", "on the table"):
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text)
        assert ours.encode(f"{text}[SEG]<|im_end|>") == [1, *theirs.encode(text), 321, 320]
    assert ours.eos_token_id == 2


def test_code_of_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    save_model(nano_model(), tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\n")
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((tmp_path / name).read_text())
        auto = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
        values["auto_map"] = auto | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        (tmp_path / name).write_text(json.dumps(values))
    assert load_model(tmp_path).segment(IMAGE, "the mug").found


# Fewer bits.


def test_without_bitsandbytes_the_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import builtins
    from collections.abc import Callable
    from typing import Any

    real: Callable[..., Any] = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "bitsandbytes":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r"bitsandbytes.*pip install 'sa2va_ros\[quantised\]'"):
        load_model(None, bits=4)


def test_other_numbers_of_bits() -> None:
    with pytest.raises(InputError, match="bits is 3; expected 8 or 4"):
        load_model(None, bits=3)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["internlm2", "qwen2_5_vl"])
def test_only_the_language_model_is_quantised(tmp_path: Path, family: str, bits: int) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra 'quantised' is not installed")
    from sa2va_model.checkpoints.quantisation import is_quantised

    save_model(nano_model(family=family), tmp_path, dtype=None)
    whole, small = load_model(tmp_path), load_model(tmp_path, bits=bits)
    body = small.mllm.language_model.model
    body = getattr(body, "language_model", body)
    assert is_quantised(body)
    for part in (small.sam2, small.text_hidden_fcs, small.mllm.language_model.lm_head):
        assert not is_quantised(part)
    if family == "qwen2_5_vl":
        assert not is_quantised(small.mllm.language_model.model.visual)
    one, other = (m.ground([IMAGE], "the mug") for m in (whole, small))
    assert one.raw == other.raw
    assert not torch.equal(one.embeddings, other.embeddings)
    assert torch.cosine_similarity(one.embeddings, other.embeddings).min() > 0.9
    with pytest.raises(InputError, match="quantised model cannot be saved"):
        save_model(small, tmp_path / "again")
    shutil.rmtree(tmp_path)


def test_no_code_is_fetched_and_the_network_is_named_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    from sa2va_model.checkpoints.files import hub

    asked: list[list[str]] = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert "looked for on the Hugging Face hub" in caplog.text
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    assert hub.find_folder("owner/name") == tmp_path
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert hub.find_folder("owner/name") == Path("owner/name")  # a folder comes first
    ((patterns,)) = asked
    assert set(patterns) == {"*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"}
