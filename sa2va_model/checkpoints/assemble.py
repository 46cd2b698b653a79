# SPDX-License-Identifier: Apache-2.0
"""What Sa2VA's training starts from: a base MLLM and a SAM-2, put together as one checkpoint (arXiv 2501.04001).

Bases are the published folders of InternVL 2, 2.5 and 3 (`InternVLChatModel`), Qwen2.5-VL, Qwen3-VL and LLaVA-1.5.
`[SEG]` and its kin get rows of their own in both tables of words, near the mean of all others; `text_hidden_fcs` begins
at random. Nothing is found before it is trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sa2va_model.checkpoints.config_json import config_from_json
from sa2va_model.checkpoints.files.hub import find_folder
from sa2va_model.checkpoints.files.safetensors_files import Stored, read, stored_tensors
from sa2va_model.checkpoints.files.sam2_files import load_stock, read_stock, recognise
from sa2va_model.checkpoints.files.tensor_names import Names
from sa2va_model.checkpoints.load import save_model
from sa2va_model.checkpoints.meta_init import place, unallocated
from sa2va_model.checkpoints.tokenizer import read_base_tokenizer
from sa2va_model.config.model import ModelConfig, Sam2Config
from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.errors import InputError
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.family import BaseMllm, MllmFamily
from sa2va_model.mllm.registry import families, family
from sa2va_model.sa2va import Sa2VA

_OURS = ("grounding_encoder.", "text_hidden_fcs.")
_SAM2 = ("embed_dim", "num_heads", "stages", "global_blocks", "window_spec", "background_size",
         "pointer_positions")  # fmt: skip
"""What is read off a SAM-2; how it is used is Sa2VA's own."""
_NOISE = 0.02
"""Of new rows, as a share of the spread of all rows."""


def assemble(
    mllm: str | Path, sam2: str | Path, output: str | Path, *, image_size: int = 1024, seed: int = 0
) -> Sa2VA:
    """Writes a checkpoint to start training from.

    Args:
        mllm: folder of a base MLLM, or its name on the hub.
        sam2: a published SAM-2 or SAM-2.1, `.pt`.
        output: a new folder. The language half keeps its type, SAM-2 is float32.
        image_size: side of the square that SAM-2 sees, pixels.
        seed: of what begins at random.

    Returns:
        The model as it was written.

    Raises:
        InputError: one of them cannot be read, is of another family, or `output` holds something.
    """
    folder, target = find_folder(mllm), Path(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: is not empty; expected a new folder")
    tokenizer = read_base_tokenizer(folder)
    added = _add_tokens(tokenizer)
    seen = recognise(read_stock(Path(sam2)), str(sam2))
    own: SegmenterConfig = Sam2Config(
        image_size=image_size, **{name: getattr(seen, name) for name in _SAM2}
    )
    if seen.hidden_dim != own.hidden_dim or seen.memory_dim != own.memory_dim:  # not published
        own = replace(seen, image_size=image_size, object_score_gate=False, binarize_prompted=False)
    config = base_config(folder, own, rows=max(tokenizer.get_vocab().values()) + 1)
    with unallocated():
        model = Sa2VA(config, tokenizer).eval()
    generator = torch.Generator().manual_seed(seed)
    _fill_mllm(model, folder, added, generator)
    segmenter = load_stock(sam2, image_size=image_size)
    for name, tensor in segmenter.sam2_model.state_dict().items():
        place(model, f"sam2.sam2_model.{name}", tensor)
    _begin(model.text_hidden_fcs, model.mllm.dtype, generator)
    save_model(model, target, dtype=None)
    return model


def base_config(folder: Path, sam2: SegmenterConfig, *, rows: int) -> ModelConfig:
    """The configuration of a Sa2VA around a base MLLM.

    Args:
        rows: that the tables of words need at least.

    Raises:
        InputError: a base of another family, or one whose fields no code path serves.
    """
    values, file = _json(folder / "config.json"), folder / "config.json"
    name = (values.get("architectures") or ["nothing"])[0]
    own, base = _base_of(str(name), file)
    values = base.fields(values)
    values[base.llm_field] = _wider(values.get(base.llm_field), rows, file)
    values["architectures"] = [own.architectures[0]]
    processor = folder / "preprocessor_config.json"
    given = _json(processor) if processor.is_file() else None
    return replace(config_from_json(values, str(file), given), sam2=sam2)


def _base_of(name: str, file: Path) -> tuple[MllmFamily, BaseMllm]:
    """The family of a base MLLM, and what it says of such bases."""
    known = [(one, one.base) for one in families() if one.base is not None]
    for own, base in known:
        if name in base.architectures:
            return own, base
    expected = [
        " or ".join(base.architectures) + (f" ({base.layout})" if base.layout else "")
        for _, base in known
    ]
    raise InputError(f"{file}: architectures is {name}; expected {' or '.join(expected)}")


def _wider(values: Any, rows: int, file: Path) -> dict[str, Any]:
    if not isinstance(values, Mapping) or not isinstance(values.get("vocab_size"), int):
        raise InputError(
            f"{file}: the language model's vocab_size is missing; expected a base MLLM"
        )
    return {**values, "vocab_size": max(rows, values["vocab_size"])}


def _json(file: Path) -> dict[str, Any]:
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); expected a base MLLM") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: holds a {type(values).__name__}; expected a JSON object")
    return values


def _add_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Gives the tokenizer what it lacks of Sa2VA's special tokens; their ids."""
    known = tokenizer.get_vocab()
    missing = [token for token in prompts.SPECIAL_TOKENS if token not in known]
    tokenizer.add_tokens(missing, special_tokens=True)
    return [int(i) for i in tokenizer.convert_tokens_to_ids(missing)]


def _fill_mllm(model: Sa2VA, folder: Path, added: list[int], generator: torch.Generator) -> None:
    """Every tensor of the base in its place; the tables of words with rows for the new tokens."""
    names = Names(model.config)
    stored = {
        _official(name, model.config): entry for name, entry in stored_tensors(folder).items()
    }
    empty = {k: torch.empty_like(v, device="meta") for k, v in model.state_dict().items()}
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in names.official(empty).items()
        if not name.startswith(_OURS)
    }
    language = model.mllm.language_model
    tables = {id(language.get_input_embeddings()), id(language.get_output_embeddings())}
    places = {
        f"mllm.language_model.{n}.weight" for n, m in language.named_modules() if id(m) in tables
    }
    heads = set(names.official(dict.fromkeys(places, torch.empty(0))))
    _check(stored, shapes, heads, folder, tied=model.config.tied)
    for official, tensor in read(sorted(stored.items(), key=lambda item: item[1].file)):
        if official in heads:
            tensor = _with_rows(tensor, shapes[official][0], added, generator)
        for name, part in names.cut(official, tensor).items():
            place(model, name, part.clone().contiguous())
    if model.config.tied or not any("lm_head" in n or n.endswith("output.weight") for n in stored):
        language.get_output_embeddings().weight = language.get_input_embeddings().weight


def _official(name: str, config: ModelConfig) -> str:
    """A base's tensor under the name that it has in a Sa2VA."""
    base = family(config.mllm.family).base
    return name if base is None else base.name(name)


def _check(
    stored: Mapping[str, Stored],
    shapes: Mapping[str, tuple[int, ...]],
    tables: set[str],
    folder: Path,
    *,
    tied: bool,
) -> None:
    missing = sorted(set(shapes) - set(stored))
    if tied:
        missing = [name for name in missing if name not in tables]
    unknown = sorted(set(stored) - set(shapes))
    if missing or unknown:
        what = f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} has no place"
        count = len(missing or unknown)
        raise InputError(f"{folder}: tensor {what} ({count} in all); expected a whole base MLLM")
    for name, entry in stored.items():
        wanted = shapes[name]
        if entry.shape[1:] != wanted[1:] or (name not in tables and entry.shape != wanted):
            raise InputError(
                f"{entry.file}: tensor {name!r} has shape {list(entry.shape)}; expected {list(wanted)}"
            )


def _with_rows(tensor: Tensor, rows: int, added: list[int], generator: torch.Generator) -> Tensor:
    """A table of words [V, C] with rows up to `rows`; those of new tokens lie near the mean of the others."""
    known = tensor.float()
    table = torch.cat([known, known.new_zeros(max(rows - len(known), 0), known.shape[1])])
    spread = _NOISE * known.std(0)
    for row in sorted({*added, *range(len(known), len(table))}):
        noise = torch.randn(known.shape[1], generator=generator)
        table[row] = known.mean(0) + spread * noise
    return table.to(tensor.dtype)


def _begin(module: nn.Module, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Linear layers without memory get it, with what `torch` gives new ones."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, layer in list(module.named_modules()):
            if isinstance(layer, nn.Linear):
                fresh = nn.Linear(layer.in_features, layer.out_features, dtype=dtype)
                module.set_submodule(name, fresh)
