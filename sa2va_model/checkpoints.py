# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders in and out: published Sa2VA folders as they are, and ours in the same layout.

A folder holds `config.json`, `*.safetensors` (one file or shards with an index) and the tokenizer's files. Tensor
names in the files are the official ones; `_OURS` maps them onto the modules of transformers and `sam2`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from sa2va_model import config as configuration
from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA

SMALL = 30_000_000
"""Parameters below which one CPU thread is faster than several."""
SHIPPED = Path(__file__).parent / "weights" / "tiny"

_OURS = (
    (r"^vision_model\.embeddings\.class_embedding$", "mllm.vision_model.embeddings.cls_token"),
    (
        r"^vision_model\.embeddings\.position_embedding$",
        "mllm.vision_model.embeddings.position_embeddings",
    ),
    (
        r"^vision_model\.embeddings\.patch_embedding\.(.+)$",
        r"mllm.vision_model.embeddings.patch_embeddings.projection.\1",
    ),
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.ls([12])$",
        r"mllm.vision_model.encoder.layer.\1.lambda_\2",
    ),
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.norm1\.(.+)$",
        r"mllm.vision_model.encoder.layer.\1.layernorm_before.\2",
    ),
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.norm2\.(.+)$",
        r"mllm.vision_model.encoder.layer.\1.layernorm_after.\2",
    ),
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.attn\.proj\.(.+)$",
        r"mllm.vision_model.encoder.layer.\1.attention.projection_layer.\2",
    ),
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.attn\.(.+)$",
        r"mllm.vision_model.encoder.layer.\1.attention.\2",
    ),
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.(.+)$",
        r"mllm.vision_model.encoder.layer.\1.mlp.\2",
    ),
    (r"^(language_model|mlp1)\.(.+)$", r"mllm.\1.\2"),
    (r"^grounding_encoder\.(.+)$", r"grounder.\1"),
)
_QKV = re.compile(r"^(vision_model\.encoder\.layers\.\d+\.attn)\.qkv\.(weight|bias)$")


def our_name(official: str) -> str:
    """The module path of an official tensor name; `qkv` is split before."""
    for pattern, replacement in _OURS:
        if re.match(pattern, official):
            return re.sub(pattern, replacement, official).replace(".g_weight", ".gamma")
    return official


def to_ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names and layout to ours."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        fused = _QKV.match(name)
        if fused:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                out[our_name(f"{fused[1]}.{letter}_proj.{fused[2]}")] = part
        else:
            out[our_name(name)] = tensor
    return out


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and layout to the official ones; the inverse of `to_ours`."""
    inverse = (
        (r"^mllm\.vision_model\.embeddings\.cls_token$", "vision_model.embeddings.class_embedding"),
        (
            r"^mllm\.vision_model\.embeddings\.position_embeddings$",
            "vision_model.embeddings.position_embedding",
        ),
        (
            r"^mllm\.vision_model\.embeddings\.patch_embeddings\.projection\.(.+)$",
            r"vision_model.embeddings.patch_embedding.\1",
        ),
        (
            r"^mllm\.vision_model\.encoder\.layer\.(\d+)\.lambda_",
            r"vision_model.encoder.layers.\1.ls",
        ),
        (
            r"^mllm\.vision_model\.encoder\.layer\.(\d+)\.layernorm_before",
            r"vision_model.encoder.layers.\1.norm1",
        ),
        (
            r"^mllm\.vision_model\.encoder\.layer\.(\d+)\.layernorm_after",
            r"vision_model.encoder.layers.\1.norm2",
        ),
        (
            r"^mllm\.vision_model\.encoder\.layer\.(\d+)\.attention\.projection_layer",
            r"vision_model.encoder.layers.\1.attn.proj",
        ),
        (
            r"^mllm\.vision_model\.encoder\.layer\.(\d+)\.attention",
            r"vision_model.encoder.layers.\1.attn",
        ),
        (r"^mllm\.vision_model\.encoder\.layer\.(\d+)\.", r"vision_model.encoder.layers.\1."),
        (r"^mllm\.", ""),
        (r"^grounder\.", "grounding_encoder."),
    )
    out: dict[str, Tensor] = {}
    fused: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        for pattern, replacement in inverse:
            if re.match(pattern, name):
                name = re.sub(pattern, replacement, name)
                break
        name = re.sub(r"(memory_encoder\.fuser\.layers\.\d+)\.gamma$", r"\1.g_weight", name)
        part = re.match(
            r"^(vision_model\.encoder\.layers\.\d+\.attn)\.([qkv])_proj\.(weight|bias)$", name
        )
        if part:
            fused.setdefault(f"{part[1]}.qkv.{part[3]}", {})[part[2]] = tensor
        else:
            out[name] = tensor
    for name, parts in fused.items():
        out[name] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return out


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        InputError: CUDA was asked for and is not there, or the name is unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") and not name.startswith("cuda:"):
        raise InputError(f"device is {name!r}; expected auto, cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            "device is 'cuda', but PyTorch sees no CUDA device; use --device cpu or auto"
        )
    return torch.device(name)


def suit_threads(model: Sa2VA) -> None:
    """One thread for a small model on the CPU; anything else is left to PyTorch.

    Operations of a small model are too short to share: on two cores that other processes use as well, two threads
    wait for each other and are three to five times slower than one (docs/log.md). A set OMP_NUM_THREADS is kept.
    """
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    if small and model.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def load_model(
    folder: str | Path | None = None, device: str = "auto", dtype: torch.dtype | None = None
) -> Sa2VA:
    """Loads a checkpoint folder.

    Args:
        folder: ours or an official one; None = the tiny model that ships.
        device: auto, cpu, cuda or cuda:N.
        dtype: None = float32 on the CPU, bfloat16 on CUDA.

    Raises:
        InputError: no such folder, no checkpoint in it, a corrupt file, a missing or unknown tensor.
    """
    path = SHIPPED if folder is None else Path(folder)
    config = read_config(path)
    target = pick_device(device)
    tensors = to_ours(read_tensors(path))
    model = Sa2VA(config, read_tokenizer(path)).eval()
    _fill(model, tensors, path)
    if dtype is None:
        dtype = torch.float32 if target.type == "cpu" else torch.bfloat16
    return model.to(target, dtype)


def save_model(model: Sa2VA, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes `model` as a folder that `load_model` and the official names' readers take."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    state = {k: v for k, v in model.state_dict().items() if k not in _tied(model)}
    tensors = {
        k: v.detach().cpu().to(dtype if v.is_floating_point() else v.dtype).contiguous()
        for k, v in to_official(state).items()
    }
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(configuration.to_dict(model.config), indent=2) + "\n"
    (path / "config.json").write_text(text, encoding="utf-8")
    model.mllm.tokenizer.save_pretrained(path)


def read_config(path: Path) -> configuration.ModelConfig:
    """`config.json` of a folder."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected a Sa2VA checkpoint folder")
    file = path / "config.json"
    if not file.is_file():
        raise InputError(f"{path}: no config.json in it; expected a Sa2VA checkpoint folder")
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: holds a {type(values).__name__}; expected a JSON object")
    return configuration.from_dict(values, str(file))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by their names in the files."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise InputError(f"{path}: no *.safetensors in it; expected the weights of a checkpoint")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(named - {file.name for file in files})
        if missing:
            raise InputError(f"{index}: names {missing[0]!r}, which is not there")
        files = [path / name for name in sorted(named)]
    elif (path / "model.safetensors").is_file():
        files = [path / "model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as handle:
                tensors.update({name: handle.get_tensor(name) for name in handle.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({error})") from error
    return tensors


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder."""
    if not any(
        (path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    ):
        raise InputError(
            f"{path}: no tokenizer.json in it; expected the checkpoint's tokenizer files"
        )
    # transformers warns that it does not know the model type, which it need not for a tokenizer.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: tokenizer cannot be read ({error})") from error
    finally:
        logging.set_verbosity(verbosity)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _tied(model: Sa2VA) -> set[str]:
    """Parameters that share storage with another one and are not written."""
    if model.config.llm.get("tie_word_embeddings", False):
        return {"mllm.language_model.lm_head.weight"}
    return set()


def _fill(model: Sa2VA, tensors: dict[str, Tensor], path: Path) -> None:
    """Copies tensors into the model; each must have its place and each place its tensor."""
    own = model.state_dict()
    unknown = sorted(set(tensors) - set(own))
    missing = sorted(set(own) - set(tensors) - _tied(model))
    if missing:
        raise InputError(f"{path}: tensor {missing[0]!r} is missing ({len(missing)} in all)")
    if unknown:
        raise InputError(
            f"{path}: tensor {unknown[0]!r} has no place in the model ({len(unknown)} in all)"
        )
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise InputError(
                f"{path}: tensor {name!r} has shape {list(tensor.shape)}; expected {list(own[name].shape)}"
            )
    model.load_state_dict(tensors, strict=False)
