# SPDX-License-Identifier: Apache-2.0
"""Compares ours with recorded answers of the official code, stage by stage.

A golden folder is a checkpoint plus `manifest.json` and one `<case>.safetensors` for each case: inputs, tokens,
logits, hidden states, embeddings, and per object and frame the masks, scores, pointers and memories of SAM-2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sa2va_model.checkpoints.files.tensor_names import Names
from sa2va_model.checkpoints.load import load_model
from sa2va_model.checkpoints.recorded.masks import mask_stages
from sa2va_model.checkpoints.recorded.stages import GoldenStage, equal, within
from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json
from sa2va_model.mllm.base import Mllm
from sa2va_model.sa2va import GroundingResult, Sa2VA

BEYOND = 24
"""New tokens that are allowed where the record ends with a stop token, so that a stop that is missed shows."""
_BLANKS = (" ", "\u0120", "\u2581")
"""How a blank is written in a manifest, in a byte-level vocabulary and in Llama's."""


@dataclass(frozen=True)
class CaseReport:
    """All stages of one case."""

    name: str
    stages: tuple[GoldenStage, ...]

    @property
    def passed(self) -> bool:
        """Every stage is within its tolerance."""
        return all(stage.passed for stage in self.stages)


def verify(folder: str | Path, case: str | None = None, device: str = "cpu") -> list[CaseReport]:
    """Runs the cases of a golden folder.

    Raises:
        InputError: the folder has no manifest, or no case of that name.
    """
    path = Path(folder)
    manifest = _manifest(path)
    names = [name for name in manifest if not name.startswith("_")]
    if case is not None:
        if case not in names:
            raise InputError(f"{path}: no case {case!r}; there are {', '.join(names)}")
        names = [case]
    model = load_model(path, device=device, dtype=torch.float32, profile="reference")
    model.mllm.as_recorded(manifest.get("_env", {}))
    reports = []
    for name in names:
        with _overridden(model, manifest[name].get("overrides", {})):
            gold = load_file(path / f"{name}.safetensors")
            reports.append(_run(model, name, manifest[name], gold))
    return reports


@contextmanager
def _overridden(model: Sa2VA, tensors: Mapping[str, Any]) -> Iterator[None]:
    """The model with some tensors, by their official names, set to what a case was recorded with."""
    names, kept = Names(model.config), {}
    for official, values in tensors.items():
        for name, part in names.cut(official, torch.tensor(values)).items():
            weight = model.get_parameter(name)
            kept[name] = weight.detach().clone()
            weight.data.copy_(part.view(weight.shape))
    if kept:
        model.forget()  # what was made of the old ones
    try:
        yield
    finally:
        for name, old in kept.items():
            model.get_parameter(name).data.copy_(old)
        if kept:
            model.forget()


def _manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    if not file.is_file():
        raise InputError(f"{path}: no manifest.json in it; expected a golden folder")
    values: dict[str, Any] = read_json(file, dict)
    for name, case in values.items():
        if not isinstance(case, dict):
            raise InputError(f"{file}: {name} is {case!r:.80}; expected a JSON object")
        if not name.startswith("_") and not (path / f"{name}.safetensors").is_file():
            raise InputError(f"{path}: no {name}.safetensors in it; {file.name} names it")
    return values


def _run(
    model: Sa2VA, name: str, case: Mapping[str, Any], gold: Mapping[str, Tensor]
) -> CaseReport:
    frames = [gold[f"in.frame.{i}"].numpy() for i in range(case["n_frames"])]
    stages = list(_language_stages(model, case, gold, frames))
    masks = any(name.startswith("obj") for name in gold)
    if frames and masks and len(gold.get("language_embd", ())):
        stages += mask_stages(model, gold, frames)
    return CaseReport(name, tuple(stages))


def _language_stages(
    model: Sa2VA, case: Mapping[str, Any], gold: Mapping[str, Tensor], frames: list[np.ndarray]
) -> Iterator[GoldenStage]:
    """Preprocessing, vision model, tokens, logits, states and [SEG] embeddings."""
    clip = len(frames) > 1
    shown = frames[: model.config.keyframes]
    regions = [mask.numpy() > 0 for mask in gold.get("in.mask_prompts", torch.zeros(0))]
    if shown:
        yield from _vision_stages(model.mllm, gold, shown, clip=clip)
    limit = len(gold["step_logits"])
    if int(gold["sequences"].flatten()[-1]) in model.mllm.stop_ids:
        limit += BEYOND
    reply = _reply(model, case, shown, clip=clip, regions=regions, limit=limit)
    states = gold["last_hidden_states"]
    ids = torch.tensor(reply.generated.ids)
    yield equal("tokens", ids, gold["sequences"].flatten()[-len(ids) :])
    yield equal(
        "prompt length",
        torch.tensor(_prompt_length(reply)),
        torch.tensor(gold["input_ids"].numel()),
    )
    yield within("step logits", reply.generated.logits, gold["step_logits"])
    yield within("states", reply.generated.states[-len(states) :], states)
    if frames and "language_embd" in gold:
        prompt = gold["input_ids"].flatten().tolist()
        found = model.mllm.seg_states(prompt, reply.generated)
        yield within("seg states", found, gold["seg_hidden_states"])
        yield within("embeddings", reply.embeddings, gold["language_embd"])


def _vision_stages(
    mllm: Mllm, gold: Mapping[str, Tensor], shown: list[np.ndarray], *, clip: bool
) -> Iterator[GoldenStage]:
    """What the vision model gets and, where it was recorded, what it sees."""
    stage = _sampled("pixel_values", mllm.seen_pixels(shown, clip=clip), gold)
    for name, reading in mllm.open_readings().items():
        if stage.passed:
            break
        reading()
        pixels = mllm.seen_pixels(shown, clip=clip)
        other = _sampled(f"pixel_values ({name} as recorded)", pixels, gold)
        stage = other if other.passed else stage
    yield stage
    with torch.inference_mode():
        seen = mllm.look(shown, clip=clip)
    if "image_grid_thw" in gold:
        yield equal("image grid", torch.tensor(seen.grids), gold["image_grid_thw"])
    if "vit_embeds" in gold:
        yield within("vit", seen.tokens, gold["vit_embeds"].reshape(seen.tokens.shape))


def _sampled(name: str, ours: Tensor, gold: Mapping[str, Tensor]) -> GoldenStage:
    """Pixels were recorded with a stride: of rows and columns, or of patches."""
    for key, recorded in gold.items():
        stem, _, stride = key.rpartition(".stride")
        if stem == name.split(" ")[0] and stride.isdigit():
            step = int(stride)
            picked = ours[::step] if ours.ndim == 2 else ours[..., ::step, ::step]
            return within(name, picked, recorded)
    whole = gold.get(name.split(" ")[0])
    return (
        GoldenStage(f"{name} (not recorded)", 0.0, 0.0)
        if whole is None
        else within(name, ours, whole)
    )


def _reply(
    model: Sa2VA,
    case: Mapping[str, Any],
    shown: list[np.ndarray],
    *,
    clip: bool,
    regions: list[np.ndarray],
    limit: int,
) -> GroundingResult:
    """Greedy decoding of at most `limit` tokens, or the recorded forced ones."""
    forced = case.get("forced")
    choose = None
    if forced:
        known = model.mllm.tokenizer.get_vocab()
        tokens = [token_id(known, text) for text in forced]

        def choose(step: int, logits: Tensor) -> int:
            return tokens[min(step, len(tokens) - 1)]

    return model.reply(
        case["text"],
        shown,
        clip=clip,
        regions=regions,
        history=case.get("past_text", ""),
        max_new_tokens=limit,
        choose=choose,
    )


def token_id(vocabulary: Mapping[str, int], text: str) -> int:
    """The token that a manifest writes as `text`, whose blanks a vocabulary has in its own way.

    Raises:
        InputError: there is none.
    """
    for blank in _BLANKS:
        if (found := vocabulary.get(text.replace(" ", blank))) is not None:
            return found
    raise InputError(f"manifest.json: forced token {text!r} is not in the tokenizer")


def _prompt_length(reply: GroundingResult) -> int:
    return reply.generated.states.shape[0] - len(reply.generated.ids) + 1
