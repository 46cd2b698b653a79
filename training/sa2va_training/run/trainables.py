# SPDX-License-Identifier: Apache-2.0
"""Which numbers of a model are trained, and how fast: LoRA by `peft`, SAM-2's decoder, the projections, or everything.

The published recipe (Sa2VA, Table 5) trains LoRA on the language model, `text_hidden_fcs`, `mlp1` and SAM-2's mask
decoder; the vision model, SAM-2's image encoder and its memory stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from sam2.modeling.sam.transformer import Attention
from torch import nn
from transformers import PreTrainedModel

from sa2va_model.checkpoints.adapters import wrap_language_model
from sa2va_model.checkpoints.quantisation import PACKED
from sa2va_model.errors import InputError
from sa2va_model.mllm import chat as prompts
from sa2va_model.sa2va import Sa2VA
from sa2va_training.families import family_of
from sa2va_training.families.base import Family
from sa2va_training.run.settings import OptimiserSettings, PartSettings

if TYPE_CHECKING:
    from peft import PeftModel

SAM = "sam2.sam2_model."
DECODER = (f"{SAM}sam_mask_decoder.",)
ENCODER = (f"{SAM}image_encoder.",)
MEMORY = tuple(
    SAM + name
    for name in (
        "memory_attention.",
        "memory_encoder.",
        "maskmem_tpos_enc",
        "obj_ptr",
        "no_obj",
        "mask_downsample",
    )
)
TEXT_HIDDEN = ("text_hidden_fcs.",)
_HEADS = ("text_hidden_fcs.", "mlp1.", "visual.merger.", "visual.deepstack_merger_list.",
          "multi_modal_projector.")  # fmt: skip
_SMALL = 100_000_000
_FRESH = 10.0
"""Rate of a layer that begins at nothing and is thrown away, as a factor."""


@dataclass(frozen=True)
class Trainables:
    """What is trained.

    Attributes:
        peft: LoRA of the language model, if any.
        names: of the trained parameters, as `model.named_parameters()` has them.
        parts: those that are not LoRA's; what an adapter folder has to hold beside it.
    """

    peft: PeftModel | None
    names: tuple[str, ...]
    parts: tuple[str, ...]


def prepare(model: Sa2VA, settings: PartSettings) -> Trainables:
    """Freezes everything but what `settings` names; puts LoRA into the language model in place.

    Trained numbers are kept in float32 whatever the rest is in.

    Raises:
        InputError: the model's family cannot be trained.
    """
    family = family_of(model.mllm)
    model.requires_grad_(requires_grad=False)
    peft = None
    if settings.mode == "lora":
        peft = wrap_language_model(model.mllm.language_model, lora_config(model, settings))
        if settings.embeddings == "all":
            for table in (
                "get_input_embeddings",
                "get_output_embeddings",
            ):  # one and the same where tied
                getattr(model.mllm.language_model, table)().weight.requires_grad_(True)
    still = family.idle if settings.patches else (*family.idle, *family.patches)
    for name, parameter in model.named_parameters():
        if name.startswith(_prefixes(settings, family)) and not name.startswith(still):
            parameter.requires_grad_(True)
    if settings.checkpointing and settings.mode not in ("memory", "decoder"):
        _checkpoint(model.mllm.language_model)
    if settings.mode == "memory":
        _drop(model.sam2.sam2_model.memory_attention, settings.memory_dropout)
    chosen = [name for name, p in model.named_parameters() if p.requires_grad]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            _place(model, name).data = parameter.data.float()
    lora = {name for name in chosen if is_lora(name)}
    return Trainables(peft, tuple(chosen), tuple(name for name in chosen if name not in lora))


def _drop(attention: nn.Module, share: float) -> None:
    """Sets how much memory attention drops while it is trained."""
    for module in attention.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        if isinstance(module, Attention):
            module.dropout_p = share


def _checkpoint(language_model: PreTrainedModel) -> None:
    """Recomputes activations of what reads words backwards; not worth it where the whole model is small."""
    if sum(p.numel() for p in language_model.parameters()) < _SMALL:
        return
    reader = getattr(language_model.model, "language_model", language_model)
    enable = getattr(reader, "activation_checkpointing_enable", None)  # transformers 5.23
    (enable or reader.gradient_checkpointing_enable)({"use_reentrant": False})


def lora_config(model: Sa2VA, settings: PartSettings) -> Any:
    """`peft`'s configuration; only the rows of our special tokens are trained where that is asked for.

    `modules_to_save=["embed_tokens"]` would silently untie the table from the output layer; single rows do not.
    """
    from peft import LoraConfig

    rows = None
    if settings.embeddings == "special":
        tokenizer = model.mllm.tokenizer
        ids = [int(tokenizer.convert_tokens_to_ids(t)) for t in prompts.SPECIAL_TOKENS]
        rows = {_embedding_name(model.mllm.language_model): sorted(ids)}
    targets: str | list[str] = settings.targets
    if settings.targets != "all-linear":
        targets = [part.strip() for part in settings.targets.split(",") if part.strip()]
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        exclude_modules=_excluded(family_of(model.mllm).without_lora, bits=settings.bits),
        trainable_token_indices=rows,
    )


def _excluded(pattern: str | None, *, bits: int) -> str | None:
    """Modules that have no LoRA."""
    if not bits:
        return pattern
    return PACKED if pattern is None else f"{pattern}|{PACKED}"


def _embedding_name(language_model: nn.Module) -> str:
    table = language_model.get_input_embeddings()  # type: ignore[operator]
    for name, module in language_model.named_modules():
        if module is table:
            return name.rpartition(".")[2]
    raise InputError("language model: has no table of word embeddings; expected one")


def _prefixes(settings: PartSettings, family: Family) -> tuple[str, ...]:
    """Module paths that are trained besides LoRA."""
    if settings.mode == "memory":
        return (*MEMORY, *(DECODER if settings.decoder else ()))
    chosen: list[str] = []
    if settings.mode == "full":
        chosen += [*family.language, *family.vision]
    for wanted, names in (
        (settings.text_hidden, TEXT_HIDDEN),
        (settings.projector and not language_frozen(settings), family.projector),
        (settings.decoder, DECODER),
        (settings.vision and not language_frozen(settings), family.vision),
        (settings.encoder, ENCODER),
    ):
        chosen += names if wanted else ()
    return tuple(chosen)


def is_lora(name: str) -> bool:
    """Whether the parameter belongs to `peft`."""
    return ".lora_" in name or "trainable_tokens_" in name


def _place(model: nn.Module, name: str) -> nn.Parameter:
    return model.get_parameter(name)


def encoder_frozen(settings: PartSettings) -> bool:
    """Whether SAM-2's image features may be kept."""
    return not settings.encoder


def language_frozen(settings: PartSettings) -> bool:
    """Whether nothing before `text_hidden_fcs` learns, so that no gradient has to go there."""
    return settings.mode == "decoder"


def vision_frozen(settings: PartSettings) -> bool:
    """Whether the vision model's tokens may be kept."""
    return not settings.vision and settings.mode != "full"


def groups(model: nn.Module, settings: OptimiserSettings) -> list[dict[str, Any]]:
    """AdamW's parameter groups: matrices decay, vectors do not; `base` is a group's peak rate.

    Args:
        model: any module whose parameter names end as those of Sa2VA.
    """
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in _trained(model):
        factor = 1.0
        if ENCODER[0] in name:
            factor = settings.encoder
        elif SAM in name:
            factor = settings.decoder
        elif any(head in name for head in _HEADS):
            factor = settings.heads
        elif name.startswith("names."):
            factor = _FRESH
        found.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": settings.decay if matrix else 0.0,
            "lr": settings.rate * factor,
            "base": settings.rate * factor,
        }
        for (factor, matrix), parameters in found.items()
    ]


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    yield from ((n, p) for n, p in model.named_parameters() if p.requires_grad)


def counts(model: Sa2VA) -> dict[str, tuple[int, int]]:
    """Trained and all numbers of each part, for the table at the start."""
    family = family_of(model.mllm)
    parts = {
        "language model": family.language,
        "projector": family.projector,
        "vision model": family.vision,
        "text_hidden_fcs": TEXT_HIDDEN,
        "SAM-2 encoder": ENCODER,
        "SAM-2 decoder": DECODER,
        "SAM-2 memory and rest": (SAM,),
    }
    found = dict.fromkeys(parts, (0, 0))
    for name, parameter in model.named_parameters():
        part = next(part for part, prefixes in parts.items() if name.startswith(prefixes))
        trained, every = found[part]
        size = parameter.numel()
        found[part] = (trained + size * parameter.requires_grad, every + size)
    return found
