# SPDX-License-Identifier: Apache-2.0
"""Fine-tuned adapters: a small folder that changes a loaded model, and can be taken out again without a trace.

    adapter.json               format, fingerprint of the base model, names of the other trained parts, notes
    adapter_config.json        ┐ of `peft`, for the language model (absent if it was not trained with LoRA)
    adapter_model.safetensors  ┘
    parts.safetensors          the other trained parts under our module names (mask decoder, projections …)

LoRA is put beside the frozen weights and not merged into them, so that unloading restores the model bit for bit and
a large model needs no second copy. Nothing may run the model while an adapter is changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation_half import SegmentationHalf, SegmentingModel

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

FORMAT = 1
INFO, PARTS = "adapter.json", "parts.safetensors"
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WRAPPED = "base_model.model."  # before every name in an adapter of `peft`
_FINGERPRINTED = ("text_hidden_fcs.", "mllm.mlp1.", "grounder.sam2_model.sam_mask_decoder.")


@dataclass(frozen=True)
class Adapter:
    """What is known of an adapter folder.

    Attributes:
        base: fingerprint of the model it was trained on.
        parts: names of the tensors in `parts.safetensors`.
        lora: whether the language model has LoRA weights.
        notes: what the trainer wrote (data, steps, metrics); for people.
    """

    folder: Path
    base: str
    parts: tuple[str, ...]
    lora: bool
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call it: the folder's name, or that of the run it lies in."""
        return (
            self.folder.parent.name if self.folder.name == "adapter" else self.folder.name
        ) or str(self.folder)


@dataclass
class _Active:
    """An adapter in a model, and what it replaced."""

    adapter: Adapter
    peft: PeftModel | None
    replaced: dict[str, Tensor]
    vocabulary: Vocabulary | None


_ACTIVE: WeakKeyDictionary[Sa2VA, _Active] = WeakKeyDictionary()
_REPLACED: WeakKeyDictionary[SegmentationHalf, dict[str, Tensor]] = WeakKeyDictionary()


def active_adapter(model: Sa2VA) -> Adapter | None:
    """The adapter that is in `model`, None if it is the bare model."""
    held = _ACTIVE.get(model)
    return held.adapter if held else None


@torch.no_grad()
def fingerprint(model: Sa2VA) -> str:
    """Tells one base model from another: sizes, and the values of the parts that every Sa2VA training changes.

    The same for float32, float16 and bfloat16 copies of one checkpoint, because values are compared in bfloat16; large
    matrices, which may be quantised, are left out. The model must be without an adapter.
    """
    digest = hashlib.sha256()
    sizes = {k: model.config.llm.get(k) for k in ("hidden_size", "num_hidden_layers", "vocab_size")}
    if model.config.seg != "single":
        sizes["seg"] = model.config.seg
    digest.update(json.dumps([sizes, model.config.sam2.image_size], sort_keys=True).encode())
    for name, tensor in _in_signing_order(model):
        norm = name.startswith("mllm.language_model.") and "norm" in name
        if norm or name.startswith(_FINGERPRINTED):
            values = tensor.detach().to("cpu", torch.bfloat16).contiguous()
            digest.update(f"{name}{list(values.shape)}".encode())
            digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]


@torch.no_grad()
def decoder_fingerprint(model: SegmentingModel) -> str:
    """Tells whether a [SEG] embedding that one model made means the same to another: equal mask decoders, equal image.

    A language half is trained for one mask decoder; LoRA that leaves it alone leaves this alone. An adapter with a mask
    decoder of its own changes it.
    """
    digest = hashlib.sha256(f"{model.config.sam2.image_size}".encode())
    for name, tensor in sorted(model.sam2.sam2_model.sam_mask_decoder.state_dict().items()):
        values = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{name}{list(values.shape)}".encode())
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]


def load_decoder(half: SegmentationHalf, folder: str | Path) -> Adapter:
    """Puts into a half what an adapter changes in SAM-2; its language part belongs to where sentences are understood.

    Raises:
        InputError: as `load_adapter`; of which base model it is cannot be seen here.
    """
    adapter = read_adapter(folder)
    unload_decoder(half)
    if (adapter.folder / INFO).is_file():
        given = _read(adapter.folder / PARTS)
        parts = {name: tensor for name, tensor in given.items() if name.startswith("sam2.")}
        places = dict(half.named_parameters()) | dict(half.named_buffers())
        _check_shapes(adapter.folder / PARTS, parts, places)
        replaced: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, tensor in parts.items():
                replaced[name] = places[name].detach().to("cpu", copy=True)
                places[name].copy_(tensor)
        _REPLACED[half] = replaced
        half.forget()
    return adapter


def unload_decoder(half: SegmentationHalf) -> None:
    """Takes out what `load_decoder` put in; the half is bit for bit what it was."""
    places = dict(half.named_parameters()) | dict(half.named_buffers())
    with torch.no_grad():
        for name, tensor in _REPLACED.pop(half, {}).items():
            places[name].copy_(tensor)
    half.forget()


def _in_signing_order(model: Sa2VA) -> list[tuple[str, Tensor]]:
    """Weights under the names that fingerprints are made with.

    `sam2` was once called `grounder`; adapters and calibrations made then keep their fingerprint.
    """
    signed = {re.sub(r"^sam2\.", "grounder.", n): t for n, t in model.state_dict().items()}
    return sorted(signed.items())


def save_adapter(
    model: Sa2VA,
    folder: str | Path,
    *,
    base: str,
    parts: Iterable[str],
    peft: PeftModel | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Adapter:
    """Writes what was trained.

    Args:
        model: with its trained parts in place.
        base: `fingerprint` of the model before training.
        parts: names in `model.state_dict()` of the trained tensors outside of LoRA.
        peft: the LoRA of `model.mllm.language_model`.
        notes: anything that JSON can hold.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    chosen = {name: state[name].detach().cpu().contiguous().clone() for name in parts}
    if peft is not None:
        peft.save_pretrained(str(path))
        (path / "README.md").unlink(missing_ok=True)  # a model card full of blanks
    save_file(chosen, path / PARTS, metadata={"format": "pt"})
    adapter = Adapter(path, base, tuple(sorted(chosen)), peft is not None, dict(notes or {}))
    text = {
        "format": FORMAT,
        "base": base,
        "lora": adapter.lora,
        "parts": list(adapter.parts),
        "notes": adapter.notes,
    }
    (path / INFO).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    return adapter


def read_adapter(folder: str | Path) -> Adapter:
    """Reads and checks `adapter.json`.

    Raises:
        InputError: no such folder, no adapter in it, or one of another format.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected an adapter folder with {INFO}")
    file = path / INFO
    if not file.is_file() and (path / PEFT_CONFIG).is_file():
        return Adapter(
            path, "", (), lora=True
        )  # as `peft` saves it; of which base model is not known
    if not file.is_file():
        inside = path / "adapter"
        hint = f"; did you mean {inside}?" if (inside / INFO).is_file() else ""
        raise InputError(f"{path}: no {INFO} in it; expected an adapter folder{hint}")
    values: Any = read_json(file, dict)
    if values.get("format") != FORMAT:
        raise InputError(f"{file}: format is {values.get('format')!r:.80}; expected {FORMAT}")
    for name, kind in (("base", str), ("parts", list), ("lora", bool)):
        if not isinstance(values.get(name), kind):
            raise InputError(
                f"{file}: field {name!r} is {values.get(name)!r:.80}; expected a {kind.__name__}"
            )
    if not all(isinstance(part, str) for part in values["parts"]):
        raise InputError(f"{file}: field 'parts' holds something else than names of tensors")
    notes = values.get("notes") or {}
    if not isinstance(notes, dict):
        raise InputError(f"{file}: field 'notes' is {notes!r:.80}; expected a JSON object")
    return Adapter(path, values["base"], tuple(values["parts"]), values["lora"], notes)


def load_adapter(model: Sa2VA, folder: str | Path) -> Adapter:
    """Puts an adapter into a model; one that is in it is taken out first. On an error the model is without any.

    Raises:
        InputError: the adapter belongs to another base model, or a tensor is missing, unknown, of the wrong shape or
            not finite.
    """
    adapter = read_adapter(folder)
    unload_adapter(model)
    places = dict(model.named_parameters()) | dict(model.named_buffers())
    parts = read_parts(adapter, fingerprint(model), places)
    peft = put_lora(model, adapter.folder) if adapter.lora else None
    replaced: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, tensor in parts.items():
            replaced[name] = places[name].detach().to("cpu", copy=True)
            places[name].copy_(tensor)
    _forget_cache(model)
    _ACTIVE[model] = _Active(adapter, peft, replaced, model.vocabulary)
    model.vocabulary = None  # what the adapter was taught is on no list
    return adapter


def read_parts(adapter: Adapter, own: str, places: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that an adapter puts in the place of a model's.

    Args:
        own: `fingerprint` of the bare model; `places`: its tensors.

    Raises:
        InputError: as `load_adapter`.
    """
    if not (adapter.folder / INFO).is_file():
        return {}
    parts = _read(adapter.folder / PARTS)
    if own != adapter.base:
        raise InputError(
            f"{adapter.folder}: was trained on base model {adapter.base}; expected {own}, the model that is loaded"
        )
    _check_parts(adapter, parts, places)
    return parts


def unload_adapter(model: Sa2VA) -> bool:
    """Takes the adapter out; the model is bit for bit what it was. False if there was none."""
    held = _ACTIVE.pop(model, None)
    if held is None:
        return False
    if held.peft is not None:
        held.peft.unload()
    places = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in held.replaced.items():
            places[name].copy_(tensor)
    model.vocabulary = held.vocabulary
    _forget_cache(model)
    return True


def merge_adapter(model: Sa2VA) -> bool:
    """Makes the adapter that is in the model a part of it for good, for `checkpoints.save_model`."""
    held = _ACTIVE.pop(model, None)
    if held is None:
        return False
    if held.peft is not None:
        held.peft.merge_and_unload()  # type: ignore[operator]
    _forget_cache(model)
    return True


def wrap_language_model(
    language_model: nn.Module, config: PeftConfig, name: str = "default"
) -> PeftModel:
    """Puts LoRA into a language model in place; the model keeps its class and its place in Sa2VA."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # peft reads an attribute that transformers renames
        return get_peft_model(language_model, config, name, autocast_adapter_dtype=False)  # type: ignore[arg-type]


def _forget_cache(model: Sa2VA) -> None:
    """What was read of the last frames was read with other weights."""
    model.forget()


def _read(file: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(file)
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; expected the tensors of an adapter") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({error})") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{file}: tensor {name!r} holds NaN or infinity; expected numbers")
    return tensors


def _check_parts(
    adapter: Adapter, parts: Mapping[str, Tensor], places: Mapping[str, Tensor]
) -> None:
    file = adapter.folder / PARTS
    missing, extra = set(adapter.parts) - set(parts), set(parts) - set(adapter.parts)
    if missing or extra:
        name = min(missing or extra)
        raise InputError(f"{file}: tensor {name!r} is {'missing' if missing else 'not in ' + INFO}")
    _check_shapes(file, parts, places)


def _check_shapes(file: Path, given: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
    for name, tensor in given.items():
        if name not in places:
            raise InputError(f"{file}: tensor {name!r} has no place in the model")
        if places[name].shape != tensor.shape:
            raise InputError(
                f"{file}: tensor {name!r} has shape {list(tensor.shape)}; "
                f"expected {list(places[name].shape)}"
            )


def put_lora(
    model: Sa2VA, folder: Path, name: str = "default", beside: PeftModel | None = None
) -> PeftModel:
    """LoRA of a folder in a language model, under a name, beside what is there already.

    Raises:
        InputError: it does not fit; a language model that had none has none then.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    file = folder / PEFT_WEIGHTS
    given = _under_our_names(_read(file), model.mllm.language_model)
    config = _lora_config(folder, given)
    try:
        if beside is None:
            peft = wrap_language_model(model.mllm.language_model, config, name)
        else:
            peft = beside
            peft.add_adapter(name, config)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder / PEFT_CONFIG}: does not fit the model ({error})") from error
    try:
        expected = get_peft_model_state_dict(peft, adapter_name=name)
        missing = sorted(set(expected) - set(given))
        if missing:
            raise InputError(f"{file}: tensor {missing[0]!r} is missing ({len(missing)} in all)")
        _check_shapes(file, given, expected)
    except InputError:
        if beside is None:
            peft.unload()
        raise
    set_peft_model_state_dict(peft, given, adapter_name=name)
    peft.requires_grad_(requires_grad=False).eval()
    return peft


def _under_our_names(given: dict[str, Tensor], language_model: nn.Module) -> dict[str, Tensor]:
    """Adapters of a whole Sa2VA name the language model before its modules; ours begin with them."""
    modules = {name for name, _ in language_model.named_modules()}
    for within in ("mllm.language_model.", "language_model."):
        inner = {
            name.replace(_WRAPPED + within, _WRAPPED, 1): tensor for name, tensor in given.items()
        }
        if not _targets(given) & modules and _targets(inner) & modules:
            return inner
    return given


def _targets(given: Iterable[str]) -> set[str]:
    """The modules that have LoRA weights, by the names of these."""
    parts = (name.removeprefix(_WRAPPED).partition(".lora_") for name in given)
    return {module for module, lora, _ in parts if lora}


def _lora_config(folder: Path, given: Mapping[str, Tensor]) -> PeftConfig:
    """The folder's configuration for exactly the modules that have weights.

    `peft` takes text for modules as regular expressions, which a file could make run for ever; the weights name them.
    """
    from peft import LoraConfig, PeftConfig

    file = folder / PEFT_CONFIG
    try:
        config = PeftConfig.from_pretrained(str(folder), local_files_only=True)
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: not a peft configuration ({reason})") from error
    if not isinstance(config, LoraConfig):
        raise InputError(f"{file}: peft_type is {config.peft_type}; expected LORA")
    patterns = {**(config.rank_pattern or {}), **(config.alpha_pattern or {})}
    for pattern in (*patterns, *(config.modules_to_save or ())):
        if not re.fullmatch(r"[\w.]+", str(pattern)):
            raise InputError(f"{file}: {pattern!r:.80} is a pattern; expected names of modules")
    ranks = {int(tensor.shape[0]) for name, tensor in given.items() if ".lora_A." in name}
    if config.r not in ranks and not config.rank_pattern:
        raise InputError(
            f"{file}: r is {config.r}; expected the rank of the weights, {sorted(ranks)}"
        )
    if any(rank not in ranks for rank in (config.rank_pattern or {}).values()):
        raise InputError(f"{file}: rank_pattern names a rank that the weights do not have")
    config.target_modules = sorted(_targets(given))
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    return config
