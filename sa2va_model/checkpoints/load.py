# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders in and out: published Sa2VA folders as they are, and ours in the same layout.

A folder holds `config.json`, `*.safetensors` (one file or shards with an index) and the tokenizer's files. Tensor
names in the files are the official ones (`tensor_names.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.checkpoints.config_bounds import check_sizes
from sa2va_model.checkpoints.config_json import config_from_json, config_to_json
from sa2va_model.checkpoints.files.hub import find_folder
from sa2va_model.checkpoints.files.safetensors_files import (
    INDEX,
    Stored,
    refuse_pointer,
    stored_tensors,
)
from sa2va_model.checkpoints.files.tensor_names import Names
from sa2va_model.checkpoints.meta_init import check, fill, unallocated, weights
from sa2va_model.checkpoints.quantisation import is_quantised, quantise
from sa2va_model.checkpoints.tokenizer import read_tokenizer
from sa2va_model.config.model import ModelConfig
from sa2va_model.device import prepare, traits_of
from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json
from sa2va_model.mllm.llm import CONFIG_ERRORS, one_line
from sa2va_model.mllm.registry import family
from sa2va_model.mllm.tiled import TiledMllm
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.mllm.word_probes import WordProbes
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.backends.registry import Profile, check_profile
from sa2va_model.segmentation.kinds import as_stored
from sa2va_model.segmentation_half import SegmentationHalf, SegmentingModel

SMALL = 30_000_000
"""Parameters below which one CPU thread is faster than several."""
SHIPPED = Path(__file__).parents[1] / "weights" / "tiny"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SEGMENTER = "grounding_encoder."
"""Begins the names of the segmenter's tensors in files."""
HEAD = "mllm.language_model.lm_head.weight"
HEADS = ("lm_head.weight", "language_model.output.weight")
"""The language model's head among ours and in files."""
PROCESSOR = "preprocessor_config.json"
SHARD = 5 * 10**9
"""Bytes in one file of a saved checkpoint."""


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


def suit_threads(model: SegmentingModel) -> None:
    """One thread for a small model on the CPU; anything else is left to PyTorch.

    Operations of a small model are too short to share: on two cores that other processes use as well, two threads
    wait for each other and are three to five times slower than one (docs/log.md). OpenCV's second thread spins after
    each picture. A set OMP_NUM_THREADS is kept.
    """
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    if small and traits_of(model.device).reads_back and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)


def pick_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """None and `auto` are float32 on the CPU and bfloat16 on CUDA.

    Raises:
        InputError: an unknown name.
    """
    if name is None or name == "auto":
        return traits_of(device).half
    if isinstance(name, str) and name not in DTYPES:
        raise InputError(f"dtype is {name!r}; expected auto, {', '.join(DTYPES)}")
    return DTYPES[name] if isinstance(name, str) else name


def load_model(
    folder: str | Path | None = None,
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    *,
    bits: int | None = None,
    profile: Profile = "auto",
) -> Sa2VA:
    """Loads a checkpoint; all tasks take the fastest way that the device has.

    Weights go from the files to the device and type where they are used, one after the other: host memory holds them
    once on the CPU, and hardly anything of them on CUDA.

    Args:
        folder: ours or an official one, or a name on the Hugging Face hub; None = the tiny model that ships.
        device: auto, cpu, cuda or cuda:N.
        dtype: of the language half: auto, float32, bfloat16 or float16; auto and None = float32 on the CPU, bfloat16
            on CUDA. SAM-2's weights are float32.
        bits: 8 or 4 = the language model's blocks are quantised (bitsandbytes); None = they are not.
        profile: how SAM-2 is computed: auto = the fastest with practically the same masks, float32, bfloat16, or
            reference = its own modules and no graphs, for training and for comparisons to the last bit; or a backend.

    Raises:
        InputError: no such checkpoint, a corrupt file, a missing, unknown or misshapen tensor, a tokenizer that does
            not fit, a configuration that no code path serves.
    """
    check_profile(profile)
    path = SHIPPED if folder is None else find_folder(folder)
    target = prepare(pick_device(device))
    kind = pick_dtype(dtype, target)
    model, stored, names = _planned(path)
    language_model = model.mllm.language_model
    if bits is not None:
        quantise(language_model, bits, kind, target)
    fill(model, stored, names, target, kind)
    if model.config.tied:
        language_model.get_output_embeddings().weight = language_model.get_input_embeddings().weight
    model.calibration = Calibration.read(path)
    model.vocabulary = Vocabulary.read(path)
    model.word_probes = WordProbes.read(path, model.mllm.hidden_size)
    model.use_profile(profile)
    return model


def load_eyes(folder: str | Path | None = None) -> Sa2VA:
    """Loads what sees, on the CPU in float32, for export: SAM-2, and vision tower and projector of a `TiledMllm`.

    The language model has no memory for its weights.

    Raises:
        InputError: as `load_model`.
    """
    path = SHIPPED if folder is None else find_folder(folder)
    model, stored, names = _planned(path)
    parts = model.mllm.vision_parts() if isinstance(model.mllm, TiledMllm) else ()
    wanted = {
        id(tensor)
        for part in (model.sam2, *parts)
        for tensor in part.state_dict(keep_vars=True).values()
    }
    state = {k: v for k, v in model.state_dict(keep_vars=True).items() if id(v) in wanted}
    seen = names.official({k: torch.empty_like(v, device="meta") for k, v in state.items()})
    needed = {name: entry for name, entry in stored.items() if name in seen}
    fill(model, needed, names, torch.device("cpu"), torch.float32)
    return model


def has_language_half(folder: str | Path | None) -> bool:
    """Whether the files of a checkpoint hold more than SAM-2."""
    path = SHIPPED if folder is None else find_folder(folder)
    return any(not name.startswith(SEGMENTER) for name in stored_tensors(path))


def load_half(
    folder: str | Path | None = None, device: str = "auto", *, profile: Profile = "auto"
) -> SegmentationHalf:
    """Loads SAM-2 of a checkpoint and nothing else, for a robot whose sentences are understood elsewhere.

    Args: as `load_model`. Files without the language half, and without a tokenizer, are enough.

    Raises:
        InputError: as `load_model`.
    """
    check_profile(profile)
    path = SHIPPED if folder is None else find_folder(folder)
    target = prepare(pick_device(device))
    config = read_config(path)
    stored = {k: v for k, v in stored_tensors(path).items() if k.startswith(SEGMENTER)}
    config = replace(config, sam2=as_stored(config.sam2, stored, str(path)))
    with unallocated():
        half = SegmentationHalf(config).eval()
    names = Names(config)
    stored = {name: entry for name, entry in stored.items() if names.needed(name)}
    check(half, stored, names, path)
    fill(half, stored, names, target, torch.float32)
    half.calibration = Calibration.read(path)
    half.use_profile(profile)
    return half


def _planned(path: Path) -> tuple[Sa2VA, dict[str, Stored], Names]:
    """The model without memory for its weights, and what the files have for each of them."""
    config, stored = read_config(path), stored_tensors(path)
    check_sizes(_read_json(path / "config.json"), stored, path / "config.json")
    config = replace(config, sam2=as_stored(config.sam2, stored, str(path)))
    if any(name.endswith(HEADS) for name in stored):
        # Published checkpoints store the head, because [SEG] and its kin were trained in both matrices, and their
        # configurations still say what the base model did.
        config = config.untied()
    tokenizer = read_tokenizer(path)
    model = _build(config, tokenizer, path)
    names = Names(config)
    stored = {name: entry for name, entry in stored.items() if names.needed(name)}
    check(model, stored, names, path, shared=_shared(config))
    return model, stored, names


def _build(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, path: Path) -> Sa2VA:
    """The model without memory for its weights."""
    try:
        with unallocated():
            return Sa2VA(config, tokenizer).eval()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (*CONFIG_ERRORS, RuntimeError, AssertionError, IndexError) as error:
        # Sizes that contradict each other are found by the modules themselves.
        raise InputError(
            f"{path / 'config.json'}: no model has these sizes ({type(error).__name__}: {one_line(error)})"
        ) from error


def save_model(model: Sa2VA, folder: str | Path, dtype: torch.dtype | None = torch.float16) -> None:
    """Writes `model` as a folder that `load_model` and the official names' readers take.

    Args:
        dtype: of the stored weights; None = as they are, so that loading them in their type gives the same bits.

    Raises:
        InputError: the model is quantised.
    """
    if is_quantised(model):
        raise InputError(f"{folder}: a quantised model cannot be saved; load it without bits")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    _save_tensors(model, path, dtype)
    _write_json(path / "config.json", config_to_json(model.config))
    processor = family(model.config.mllm.family).processor(model.config.mllm)
    if processor is not None:
        _write_json(path / PROCESSOR, processor)
    model.mllm.tokenizer.save_pretrained(path)
    if model.vocabulary is not None:
        model.vocabulary.write(path)
        if model.word_probes is not None:
            model.word_probes.write(path)


def _save_tensors(model: Sa2VA, path: Path, dtype: torch.dtype | None) -> None:
    """One file, or shards with an index where one would be too large."""
    for old in (*path.glob("model*.safetensors"), path / INDEX):
        old.unlink(missing_ok=True)
    state = {k: v.detach() for k, v in weights(model).items() if k not in _shared(model.config)}
    official = Names(model.config).official(state)
    plan = split_torch_state_dict_into_shards(
        {k: _kind(v, dtype) for k, v in official.items()},
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD,
    )
    for file, names in plan.filename_to_tensors.items():
        tensors = {
            name: official[name].to("cpu", _kind(official[name], dtype).dtype).contiguous()
            for name in names
        }
        save_file(tensors, path / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write_json(path / INDEX, index)


def _kind(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor without memory, of the shape and type in which `tensor` is stored."""
    keep = dtype is None or not tensor.is_floating_point()
    return torch.empty_like(tensor, dtype=tensor.dtype if keep else dtype, device="meta")


def _shared(config: ModelConfig) -> frozenset[str]:
    """Parameters that are another one and are not stored."""
    return frozenset({HEAD}) if config.tied else frozenset()


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_config(path: Path) -> ModelConfig:
    """`config.json` of a folder, and `preprocessor_config.json` where it has one.

    Raises:
        InputError: no such folder or file, no JSON, or a field with a value that no code path serves.
    """
    file = path / "config.json"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected a Sa2VA checkpoint folder")
    if not file.is_file():
        raise InputError(f"{path}: no config.json in it; expected a Sa2VA checkpoint folder")
    processor = path / PROCESSOR
    values = _read_json(file), str(file), _read_json(processor) if processor.is_file() else None
    try:
        return config_from_json(*values)
    except InputError as error:
        raise InputError(error if str(path) in str(error) else f"{file}: {error}") from error


def _read_json(file: Path) -> dict[str, Any]:
    refuse_pointer(file)
    values: dict[str, Any] = read_json(file, dict)
    return values
