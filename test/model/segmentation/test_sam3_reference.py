# SPDX-License-Identifier: Apache-2.0
"""SAM 3's tracker in sizes that no record has, against transformers' own modules; also by way of a golden folder."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from sa2va_model.checkpoints.files.tensor_names import OURS, Names
from sa2va_model.checkpoints.golden import verify
from sa2va_model.checkpoints.load import save_model
from sa2va_model.checkpoints.presets import NANO_SEGMENTERS
from sa2va_model.config.segmenter import Sam3Config
from sa2va_model.io.preprocessing import sam_pixels
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.kinds import MODULES
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import nano_model, wake

from .sam3_reference import Reference

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """Sizes and a clip; `gate`: the object score is shifted so that it closes on some frames."""

    seed: int
    image_size: int
    window: int
    position_side: int
    frames: int
    gate: bool = False

    @property
    def config(self) -> Sam3Config:
        nano = NANO_SEGMENTERS["sam3"]
        assert isinstance(nano, Sam3Config)
        return replace(
            nano,
            image_size=self.image_size,
            window=self.window,
            position_side=self.position_side,
            decoder_mlp_dim=2048,  # golden folders have no field for it
            rounded_normalisation=True,
        )


CASES = (
    Case(11, 168, 4, 4, 9),
    Case(12, 210, 5, 5, 17),
    Case(13, 210, 5, 5, 9, gate=True),
    Case(14, 182, 4, 3, 7),  # 13 cells: windows are padded, the table of places is cut
)


def official(segmenter: Sam2) -> dict[str, Tensor]:
    state = {OURS + name: tensor for name, tensor in segmenter.sam2_model.state_dict().items()}
    names = Names.of_segmenter(segmenter.config)
    return {n.removeprefix(MODULES): t for n, t in names.official(state).items()}


def frames(case: Case) -> list[np.ndarray]:
    """A picture that changes slowly, uint8 [44, 60, 3]."""
    rng = np.random.default_rng(case.seed)
    image = rng.integers(0, 256, (44, 60, 3)).astype(float)
    out = []
    for _ in range(case.frames):
        image = np.clip(image + rng.normal(0, 20, image.shape), 0, 255)
        out.append(image.astype(np.uint8))
    return out


def shift(reference: Reference, segmenter: Sam2, scores: list[float]) -> None:
    """Moves the object score so that it is below 0 on some frames, and clearly so on each."""
    ordered = sorted(scores)
    gaps = [(b - a, (a + b) / 2) for a, b in itertools.pairwise(ordered)]
    middle = max(gaps)[1]
    heads = (
        segmenter.sam2_model.sam_mask_decoder.pred_obj_score_head.layers[-1],
        reference.model.mask_decoder.pred_obj_score_head.proj_out,
    )
    for head in heads:
        head.bias.data -= middle


def made(case: Case) -> tuple[Sam2, Reference]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        segmenter = Sam2(case.config).eval()
        wake(segmenter)
    return segmenter, Reference(case.config, official(segmenter))


@pytest.mark.parametrize("case", CASES)
def test_transformers_modules_agree_in_other_sizes(case: Case) -> None:
    segmenter, reference = made(case)
    clip = frames(case)
    pixels = [sam_pixels(frame, case.config) for frame in clip]
    embedding = torch.randn(32, generator=torch.Generator().manual_seed(case.seed))
    seen = [reference.see(p) for p in pixels]
    wanted = list(reference.follow(seen, embedding, case.frames))
    if case.gate:
        shift(reference, segmenter, [float(w["object_score"]) for w in wanted])
        wanted = list(reference.follow(seen, embedding, case.frames))
        closed = sum(float(w["object_score"]) <= 0 for w in wanted)
        assert 0 < closed < case.frames
    for computed in (segmenter, FusedSam2(segmenter)):
        tracker = OnlineTracker(computed, TrackerConfig(clip_length=case.frames))
        tracker.add("a", Prompt(embedding=embedding), frames=5)
        for t, (picture, gold) in enumerate(zip(pixels, wanted, strict=True)):
            with torch.inference_mode():
                features = computed.encode_image(picture)
            decoded = tracker.step(features)["a"].decoded
            for name, ours in (
                ("low_res_mask", decoded.logits[0]),
                ("obj_ptr", decoded.pointers[0]),
                ("ious", decoded.ious[0]),
                ("object_score", decoded.object_scores[0]),
            ):
                apart = float((ours - gold[name]).abs().max())
                assert apart <= TOLERANCE, (
                    f"{type(computed).__name__}, frame {t}: {name} {apart:.1e}"
                )


def recorded(model: Sa2VA, case: Case, folder: Path) -> None:
    """A golden folder: masks by transformers' modules, from the embedding that the language half gives."""
    save_model(model, folder, dtype=None)
    own = case.config
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    del values[own.SECTION]
    trunk = {
        "pretrain_img_size": 14 * own.position_side,
        "embed_dim": own.embed_dim,
        "depth": own.depth,
        "num_heads": own.num_heads,
        "mlp_ratio": own.mlp_dim / own.embed_dim,
        "global_att_blocks": list(own.global_blocks),
        "window_size": own.window,
    }
    values["_sam3_small"] = {
        "image_size": own.image_size,
        "d": own.hidden_dim,
        "mem": own.memory_dim,
        "ffn": own.memory_mlp_dim,
        "ma_layers": own.memory_layers,
        "trunk": trunk,
    }
    (folder / "config.json").write_text(json.dumps(values))
    text, clip = "<image>\nPlease segment the red disk.", frames(case)
    reply = model.reply(text, clip[:5], clip=True, max_new_tokens=24)
    prompt = model.mllm.prompt_ids(
        model.mllm.user_turn(text, model.mllm.look(clip[:5], clip=True))[0]
    )
    gold = {
        "input_ids": torch.tensor([prompt]),
        "sequences": torch.tensor(reply.generated.ids),
        "step_logits": reply.generated.logits,
        "last_hidden_states": reply.generated.states[-8:],
        "seg_hidden_states": model.mllm.seg_states(prompt, reply.generated),
        "language_embd": reply.embeddings,
    }
    reference = Reference(own, official(model.sam2))
    seen = [reference.see(sam_pixels(frame, own)) for frame in clip]
    for k, embedding in enumerate(reply.embeddings):
        final = []
        for t, answer in enumerate(reference.follow(seen, embedding, case.frames)):
            kind = "prompted" if t < 5 else "tracked"
            gold |= {f"obj{k}.{kind}.{t}.{name}": value for name, value in answer.items()}
            high = answer["low_res_mask"][None]
            for size in ((own.image_size,) * 2, clip[t].shape[:2]):
                high = F.interpolate(high, size, mode="bilinear", align_corners=False)
            final.append(high[0, 0] > 0)
        gold[f"obj{k}.mask_final"] = torch.stack(final)
    gold |= {f"in.frame.{t}": torch.from_numpy(frame) for t, frame in enumerate(clip)}
    save_file({k: v.contiguous().clone() for k, v in gold.items()}, folder / "clip.safetensors")
    manifest = {"clip": {"text": text, "n_frames": case.frames, "n_masks": len(reply.embeddings)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_golden_folder_of_other_sizes_is_verified(tmp_path: Path) -> None:
    case = CASES[1]
    plain = nano_model(seed=2, family="qwen3_vl", segmenter="sam3")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        config = replace(plain.config, sam2=case.config, keyframes=5)
        model = Sa2VA(config, plain.mllm.tokenizer).eval()
    model.mllm.load_state_dict(plain.mllm.state_dict())
    wake(model.sam2)
    recorded(model, case, tmp_path)
    [report] = verify(tmp_path)
    failed = {s.name: s.largest_difference for s in report.stages if not s.passed}
    assert not failed
    assert {"low res mask", "maskmem features", "final masks", "tokens"} <= {
        s.name for s in report.stages
    }
