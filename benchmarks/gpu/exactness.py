# SPDX-License-Identifier: Apache-2.0
"""What must be equal before anything is fast."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu.setting import Setting
from sa2va_cli.bench.tracker_race import agreement, moving_squares, ours
from sa2va_model.checkpoints.load import load_model
from sa2va_model.device import require_float32
from sa2va_model.io import preprocessing as images
from sa2va_model.segmentation.backends.registry import pick_runtime
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import Prompt


def numbers(setting: Setting) -> dict[str, Any]:
    """Largest difference in mask logits between ways of computing; of pixels in counts of 255."""
    device, side = setting.device, setting.side
    require_float32(device)
    frames, prompts = moving_squares(setting.count(8, 5), side, 2)
    model = setting.sam2("tiny")

    def follow(profile: str, graphs: bool) -> list[Tensor]:
        runtime = pick_runtime(profile, device, model.config, graphs=graphs)
        return list(ours(runtime.segmenter(model), frames, prompts))

    modules, exact = follow("reference", False), follow("float32", False)
    out: dict[str, Any] = {
        "float32 to the modules of sam2": _apart(exact, modules),
        "float32 with graphs to without": _apart(follow("float32", True), exact),
        "bfloat16 to float32": _apart(follow("bfloat16", False), exact),
    }
    [image] = setting.pictures(1, 720, 1280)
    size = [(side, side)]
    [own] = images.resize_on_device(image, size, device)
    [by_pil] = images.resize_by_pil(image, size, torch.device("cpu"))
    out["pixels to PIL"] = float((own.cpu() - by_pil).abs().max())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"machine": name, **out}


def _apart(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(one, other, strict=True))


def shipped(setting: Setting) -> dict[str, Any]:
    """J of the shipped model in bfloat16 to float32 and to the truth, on a clip's frames or a made one's."""
    model = load_model(device=str(setting.device), dtype=torch.float32).sam2
    frames, prompt, truth = _clip(setting, model)
    masks = {}
    for profile in ("float32", "bfloat16"):
        runtime = pick_runtime(profile, setting.device, model.config)
        masks[profile] = list(_masks(runtime.segmenter(model), frames, prompt))
    mean, least = agreement(masks["bfloat16"], masks["float32"])
    out: dict[str, Any] = {"J bfloat16 to float32": round(mean, 4), "least": round(least, 4)}
    for profile, found in masks.items() if truth else ():
        j, _ = agreement([found[t] for t in truth], list(truth.values()))
        out[f"J {profile} to the truth"] = round(j, 4)
    return out


def _clip(setting: Setting, model: Sam2) -> tuple[list[Tensor], Prompt, dict[int, Tensor]]:
    size = model.config.image_size
    if setting.clip is None:
        made, prompts = moving_squares(setting.count(20, 4), size, 1)
        return [frame[None] for frame in made], prompts[0], {}
    from PIL import Image

    names = sorted(setting.clip.glob("*.jpg"))[: setting.count(120, 4)]
    shown = [images.sam_pixels(np.asarray(Image.open(name)), model.config) for name in names]
    truth = {}
    for t, name in enumerate(names):
        mask = name.with_suffix(".png")
        if mask.exists():
            picture = Image.open(mask).resize((size, size), Image.Resampling.NEAREST)
            truth[t] = torch.from_numpy(np.asarray(picture) > 127)[None]
    rows, columns = torch.nonzero(truth[0][0], as_tuple=True)
    corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return shown, Prompt.box(*(float(c) / size for c in corners)), truth


@torch.inference_mode()
def _masks(segmenter: Any, frames: list[Tensor], prompt: Prompt) -> list[Tensor]:
    tracker, out = OnlineTracker(segmenter), []
    tracker.add("it", prompt)
    for frame in frames:
        seen = tracker.step(segmenter.encode_image(frame.to(segmenter.device)))
        out.append((segmenter.image_logits(seen["it"].logits)[:, 0] > 0).cpu())
    return out
