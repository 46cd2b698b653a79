# SPDX-License-Identifier: Apache-2.0
"""Compares ours with recorded answers of the official code, stage by stage.

A golden folder is a checkpoint plus `manifest.json` and one `<case>.safetensors` for each case: inputs, tokens,
logits, hidden states, embeddings, and per object and frame the masks, scores, pointers and memories of SAM-2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sa2va_model.checkpoints.load import load_model
from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.mllm.families.internvl import InternVL
from sa2va_model.mllm.families.qwen_config import CLIP_MEAN, CLIP_STD, HALF
from sa2va_model.mllm.families.qwen_vl import QwenVL
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Decoded, Prompt

TOLERANCE = 1e-4
# As the answers were recorded. Other counts sum in another order, and memories stored in bfloat16 let the last bit grow
# where weights are random (docs/log.md).
THREADS = 2
MAX_NEW_TOKENS = 24  # what the recorded runs were limited to


@dataclass(frozen=True)
class Stage:
    """The largest absolute difference of one stage; whole numbers and masks must be equal."""

    name: str
    largest_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """NaN does not pass."""
        return self.largest_difference <= self.tolerance


@dataclass(frozen=True)
class CaseReport:
    """All stages of one case."""

    name: str
    stages: tuple[Stage, ...]

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
    _as_recorded(model, manifest.get("_env", {}))
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return [
            _run(model, name, manifest[name], load_file(path / f"{name}.safetensors"))
            for name in names
        ]
    finally:
        torch.set_num_threads(threads)


def _manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    if not file.is_file():
        raise InputError(f"{path}: no manifest.json in it; expected a golden folder")
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def _as_recorded(model: Sa2VA, environment: Mapping[str, Any]) -> None:
    """The system prompt of the recorded run, which stood in for a chat template that the folder does not have."""
    system = environment.get("system_prompt")
    if isinstance(system, str) and model.config.qwen is not None:
        model.mllm.template = replace(model.mllm.template, system=system)


def _run(
    model: Sa2VA, name: str, case: Mapping[str, Any], gold: Mapping[str, Tensor]
) -> CaseReport:
    frames = [gold[f"in.frame.{i}"].numpy() for i in range(case["n_frames"])]
    stages = list(_language_stages(model, case, gold, frames))
    masks = any(name.startswith("obj") for name in gold)
    if frames and masks and len(gold.get("language_embd", ())):
        stages += _mask_stages(model, gold, frames)
    return CaseReport(name, tuple(stages))


def _language_stages(
    model: Sa2VA, case: Mapping[str, Any], gold: Mapping[str, Tensor], frames: list[np.ndarray]
) -> Iterator[Stage]:
    """Preprocessing, vision model, tokens, logits, states and [SEG] embeddings."""
    clip = len(frames) > 1
    shown = frames[: model.config.keyframes]
    regions = [mask.numpy() > 0 for mask in gold.get("in.mask_prompts", torch.zeros(0))]
    if shown:
        yield from _vision_stages(model, gold, shown, clip=clip)
    reply = _reply(model, case, shown, clip=clip, regions=regions)
    states = gold["last_hidden_states"]
    ids = torch.tensor(reply.generated.ids)
    yield _equal("tokens", ids, gold["sequences"].flatten()[-len(ids) :])
    yield _equal(
        "prompt length", torch.tensor(_prompt_length(reply)), gold["input_ids"].flatten().shape[0]
    )
    yield _stage("step logits", reply.generated.logits, gold["step_logits"])
    yield _stage("states", reply.generated.states[-len(states) :], states)
    if frames and "language_embd" in gold:
        prompt = gold["input_ids"].flatten().tolist()
        found = model.mllm.seg_states(prompt, reply.generated)
        yield _stage("seg states", found, gold["seg_hidden_states"])
        yield _stage("embeddings", reply.embeddings, gold["language_embd"])


def _vision_stages(
    model: Sa2VA, gold: Mapping[str, Tensor], shown: list[np.ndarray], *, clip: bool
) -> Iterator[Stage]:
    """What the vision model gets and, where it was recorded, what it sees."""
    if isinstance(model.mllm, QwenVL):
        yield from _patch_stages(model.mllm, gold, shown)
        return
    assert isinstance(model.mllm, InternVL)
    tiles = torch.cat([images.tiles(frame, model.config, single=clip) for frame in shown])
    yield _sampled("pixel_values", tiles, gold)
    if "vit_embeds" in gold:
        with torch.inference_mode():
            seen = model.mllm.visual_tokens(tiles)
        yield _stage("vit", seen, gold["vit_embeds"])


def _patch_stages(
    mllm: QwenVL, gold: Mapping[str, Tensor], shown: list[np.ndarray]
) -> Iterator[Stage]:
    """Patches and their grid. A folder without an image processor's file leaves the normalisation to the record."""
    pixels, grids = mllm.pixels(shown)
    stage = _sampled("pixel_values", pixels, gold)
    for name, mean, std in (("CLIP", CLIP_MEAN, CLIP_STD), ("0.5", HALF, HALF)):
        if stage.passed or mllm.normalisation_given:
            break
        mllm.normalise(mean, std)
        other = _sampled(f"pixel_values ({name} as recorded)", mllm.pixels(shown)[0], gold)
        stage = other if other.passed else stage
    yield stage
    if "image_grid_thw" in gold:
        yield _equal("image grid", grids, gold["image_grid_thw"])
    if "vit_embeds" in gold:
        with torch.inference_mode():
            seen = mllm.look(shown, clip=len(shown) > 1)
        yield _stage("vit", seen.tokens, gold["vit_embeds"].reshape(seen.tokens.shape))


def _sampled(name: str, ours: Tensor, gold: Mapping[str, Tensor]) -> Stage:
    """Pixels were recorded with a stride: of rows and columns, or of patches."""
    for key, recorded in gold.items():
        stem, _, stride = key.rpartition(".stride")
        if stem == name.split(" ")[0] and stride.isdigit():
            step = int(stride)
            picked = ours[::step] if ours.ndim == 2 else ours[..., ::step, ::step]
            return _stage(name, picked, recorded)
    whole = gold.get(name.split(" ")[0])
    return Stage(f"{name} (not recorded)", 0.0, 0.0) if whole is None else _stage(name, ours, whole)


def _reply(
    model: Sa2VA,
    case: Mapping[str, Any],
    shown: list[np.ndarray],
    *,
    clip: bool,
    regions: list[np.ndarray],
) -> GroundingResult:
    """Greedy decoding, or the recorded forced tokens."""
    forced = case.get("forced")
    choose = None
    if forced:
        tokens = [
            int(model.mllm.tokenizer.convert_tokens_to_ids(_as_vocabulary(t))) for t in forced
        ]

        def choose(step: int, logits: Tensor) -> int:
            return tokens[min(step, len(tokens) - 1)]

    return model.reply(
        case["text"],
        shown,
        clip=clip,
        regions=regions,
        history=case.get("past_text", ""),
        max_new_tokens=MAX_NEW_TOKENS,
        choose=choose,
    )


def _as_vocabulary(text: str) -> str:
    """How a blank is written in a byte-level vocabulary."""
    return text.replace(" ", "Ġ")


def _prompt_length(reply: GroundingResult) -> int:
    return reply.generated.states.shape[0] - len(reply.generated.ids) + 1


def _mask_stages(model: Sa2VA, gold: Mapping[str, Tensor], frames: list[np.ndarray]) -> list[Stage]:
    """SAM-2 in one streaming pass for each object, with the recorded embeddings on the first keyframes.

    One tracker for each object, as the official code does: a batch rounds differently in the last bit, and memories
    stored in bfloat16 let single bits grow where weights are random.
    """
    keyframes = min(model.config.keyframes, len(frames))
    features = [model.encode_image(frame) for frame in frames]
    worst: dict[str, Stage] = {}
    for t, frame in enumerate(frames):
        pixels = images.sam_pixels(frame, model.config.sam2)
        if "g_pixel_values.stride8" in gold:
            recorded = gold["g_pixel_values.stride8"][t : t + 1]
            _keep(worst, _stage("sam pixels", pixels[..., ::8, ::8], recorded))
    for k, embedding in enumerate(gold["language_embd"]):
        tracker = OnlineTracker(model.sam2, TrackerConfig(max_conditioning=keyframes))
        tracker.add("object", Prompt(embedding=embedding), frames=keyframes)
        for t, frame in enumerate(frames):
            decoded = tracker.step(features[t])["object"].decoded
            for stage in _frame_stages(model, gold, k, t, decoded, frame.shape):
                _keep(worst, stage)
    return list(worst.values())


def _frame_stages(
    model: Sa2VA,
    gold: Mapping[str, Tensor],
    k: int,
    t: int,
    decoded: Decoded,
    shape: tuple[int, ...],
) -> Iterator[Stage]:
    kind = "prompted" if f"obj{k}.prompted.{t}.low_res_mask" in gold else "tracked"
    recorded = {
        "multimasks": decoded.candidates[0],
        "ious": decoded.ious[0],
        "object_score": decoded.object_scores[0],
        "low_res_mask": decoded.logits[0],
        "obj_ptr": decoded.pointers[0],
    }
    for name, ours in recorded.items():
        key = f"obj{k}.{kind}.{t}.{name}"
        for variant, values in (
            (key, ours),
            (f"{key}.stride4", ours[..., ::4, ::4] if ours.ndim > 1 else ours),
        ):
            if variant in gold:
                yield _stage(name.replace("_", " "), values, gold[variant].reshape(values.shape))
    logits = images.masks_to_image(decoded.logits, model.config.sam2.image_size, *shape[:2])[0]
    if f"obj{k}.mask_logits_final" in gold:
        yield _stage("final logits", logits, gold[f"obj{k}.mask_logits_final"][t])
    yield _equal("final masks", logits > 0, gold[f"obj{k}.mask_final"][t])


def _keep(worst: dict[str, Stage], stage: Stage) -> None:
    """The worst frame counts."""
    known = worst.get(stage.name)
    if known is None or not stage.largest_difference <= known.largest_difference:
        worst[stage.name] = stage


def _stage(name: str, ours: Tensor, gold: Tensor, tolerance: float = TOLERANCE) -> Stage:
    if ours.shape != gold.shape:
        return Stage(
            f"{name} (shape {list(ours.shape)}, recorded {list(gold.shape)})",
            float("inf"),
            tolerance,
        )
    if not ours.numel():
        return Stage(name, 0.0, tolerance)
    return Stage(name, float((ours.float().cpu() - gold.float()).abs().max()), tolerance)


def _equal(name: str, ours: Tensor, gold: Tensor | int) -> Stage:
    """Counts elements that differ."""
    recorded = gold if isinstance(gold, Tensor) else torch.tensor(gold)
    if ours.shape != recorded.shape:
        return Stage(name, float("inf"), 0.0)
    return Stage(name, float((ours.cpu() != recorded).sum()), 0.0)
