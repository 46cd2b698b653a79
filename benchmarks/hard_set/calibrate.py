# SPDX-License-Identifier: Apache-2.0
"""Measures what a model's scores are worth and writes `calibration.json` beside its weights.

    python benchmarks/hard_set/calibrate.py                       the tiny model that ships
    python benchmarks/hard_set/calibrate.py --model FOLDER --clips 20
    python benchmarks/hard_set/calibrate.py --clips 80 --ordinary 160    ordinary objects as well (`make realistic`)

A model's scores mean less for what it hardly knows: values that fit the toy world alone hide masks of ordinary objects
that are right. The clips are other ones than those of `measure.py`. Run it again whenever weights change.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from calibration_fit import (
    MaskEvidence,
    Moment,
    fit_preference,
    fit_thresholds,
    fit_weights,
    fit_words,
)
from clips import CALIBRATION_OFFSET, DEFAULT_CACHE, clips, ordinary_clips
from events import RIGHT
from rich.console import Console
from start import ASKED
from torch import Tensor
from tqdm import tqdm

from sa2va_model.checkpoints.calibration import Calibration, EvidenceWeights
from sa2va_model.checkpoints.load import SHIPPED, load_model
from sa2va_model.io import preprocessing as images
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Decoded, Prompt
from sa2va_model.tracking.config import GateConfig
from sa2va_model.tracking.judgement.evidence import weigh
from sa2va_model.tracking.judgement.memory_gate import Measured, MemoryGate
from sa2va_sim.hard_clips import HardClip

ASK_EVERY = 5  # frames
# To begin with, where nothing was fitted yet: what masks look like and how large they are.
_START = EvidenceWeights(object_score=0.5, quality=0.0, look=13.0, area=-3.0, bias=-12.0)


class EvidenceRecorder:
    """The evidence as ever, and a note of what it was made of, of the first object's masks."""

    def __init__(self, memory: EvidenceWeights) -> None:
        self._memory = memory
        self.notes: dict[str, tuple[Decoded, float, float]] = {}

    def __call__(
        self,
        weights: EvidenceWeights,
        decoded: Decoded,
        likeness: Tensor,
        change: Tensor,
        *,
        scored: bool,
    ) -> Tensor:
        """As `evidence.weigh`."""
        name = "memory" if weights is self._memory else "spoken"
        self.notes.setdefault(name, (decoded, float(likeness[0]), float(change[0])))
        return weigh(weights, decoded, likeness, change, scored=scored)


@torch.inference_mode()
def record(model: Sa2VA, clip: HardClip, start: Calibration) -> list[Moment] | None:
    """The evidence of all frames from the first mask on; None where the words were not understood."""
    begun = next(
        (
            (frame, reply.embeddings[0].clone())
            for frame in ASKED
            if (reply := model.ground([clip.rgb[frame]], clip.expression)).found
        ),
        None,
    )
    if begun is None:
        return None
    first, embedding = begun
    recorder = EvidenceRecorder(start.memory)
    gate = MemoryGate(model.sam2, 1, start, GateConfig(), recorder)
    tracker = OnlineTracker(model.sam2, TrackerConfig(max_objects=1, reuse_embedding=True), gate)
    tracker.add("0", Prompt(embedding=embedding))
    moments = []
    for number in range(first, len(clip.rgb)):
        recorder.notes = {}
        features = model.encode_image(clip.rgb[number])
        seen = tracker.step(features)["0"]
        truth = clip.instances[number] == clip.target
        if number == first:
            if _iou(model, seen.decoded, truth) < RIGHT:
                return None  # the words meant something else: nothing to learn about tracking
            continue
        parts = {
            name: _evidence(model, decoded, likeness, change, truth)
            for name, (decoded, likeness, change) in recorder.notes.items()
        }
        words, said = None, None
        if (number - first) % ASK_EVERY == 0:
            reply = model.ground([clip.rgb[number]], clip.expression)
            words = reply.found
            if words:
                plain = model.sam2.without_memory(features)
                shown = model.sam2.decode(
                    features, plain, Prompt(embedding=reply.embeddings[0].clone())
                )
                recorder.notes = {}
                gate.weigh(start.spoken, torch.tensor([0]), shown)
                said = _evidence(model, *recorder.notes["spoken"], truth)
        agreement = Measured(*seen.measured).agreement
        visible = float(clip.visible[number])
        moments.append(Moment(visible, parts["memory"], parts["spoken"], agreement, words, said))
    return moments


def _iou(model: Sa2VA, decoded: Decoded, truth: np.ndarray) -> float:
    shown = images.masks_to_image(decoded.logits, model.config.sam2.image_size, *truth.shape)
    mask = (shown[0] > 0).numpy()
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


def _evidence(
    model: Sa2VA, decoded: Decoded, likeness: float, change: float, truth: np.ndarray
) -> MaskEvidence:
    return MaskEvidence(
        float(decoded.object_scores[0]),
        float(decoded.quality[0]),
        likeness,
        change,
        _iou(model, decoded, truth),
        bool((decoded.logits > 0).any()),
    )


def calibrate(
    recorded: list[list[Moment]], start: Calibration, *, scored: bool
) -> tuple[Calibration, dict[str, float]]:
    """The values that fit the recorded clips, and what they reach there."""
    weights, found = {}, {"clips": len(recorded)}
    for name in ("memory", "spoken"):
        rows = [(getattr(m, name), m.visible) for clip in recorded for m in clip]
        weights[name], found[f"AUC {name}"] = fit_weights(rows, scored=scored)
    margin, overlap = fit_preference(recorded)
    confirmed, denied, words = fit_words(recorded)
    values = replace(
        start,
        **weights,
        prefer_margin=margin,
        prefer_overlap=overlap,
        confirmed=confirmed,
        denied=denied,
        redetect=scored,
    )
    values, figures = fit_thresholds(recorded, values, scored=scored)
    return values, {**found, **words, **figures}


def main(arguments: list[str] | None = None) -> int:
    """Records, fits, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=60, metavar="N")
    parser.add_argument(
        "--ordinary", type=int, default=0, metavar="N", help="clips of the furniture catalogue"
    )
    parser.add_argument("--model", metavar="FOLDER", help="a checkpoint; default: the tiny model")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="keep what was recorded; used again if it exists"
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = Path(args.model) if args.model else SHIPPED
    model = load_model(args.model, device="cpu")
    start = replace(Calibration(), memory=_START, spoken=_START)
    start = replace(start, memory=replace(_START, bias=-12.001))  # told apart by identity
    if args.keep and args.keep.exists():
        recorded = pickle.loads(args.keep.read_bytes())
    else:
        numbers = range(CALIBRATION_OFFSET, CALIBRATION_OFFSET + args.clips)
        both = chain(clips(numbers, args.cache), ordinary_clips(args.ordinary))
        found = (record(model, clip, start) for clip in both)
        total = args.clips + args.ordinary
        recorded = [c for c in tqdm(found, total=total, desc="clips") if c is not None]
        if args.keep:
            args.keep.write_bytes(pickle.dumps(recorded))
    scored = model.config.sam2.object_score_gate
    values, reached = calibrate(recorded, Calibration(), scored=scored)
    report = {name: round(float(value), 4) for name, value in reached.items()}
    made_by = f"python benchmarks/hard_set/calibrate.py --clips {args.clips}"
    if args.ordinary:
        made_by += f" --ordinary {args.ordinary}"
    path = values.write(folder, {"by": made_by, **report})
    console = Console(width=120)
    console.print(f"{path}: {asdict(values)}")
    for name, value in report.items():
        console.print(f"  {name}: {value:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
