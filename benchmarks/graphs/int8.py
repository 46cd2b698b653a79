# SPDX-License-Identifier: Apache-2.0
"""What int8 of the image encoder costs and gains: static quantisation on painted scenes, J and milliseconds.

    python benchmarks/graphs/int8.py GRAPHS --clips 8 --json out/int8.json       GRAPHS: sa2va export -o GRAPHS

Objects are prompted with the box of their true mask on the first frame and followed through painted clips that neither
training nor calibration has seen (seeds from 900,000). Frames alternate between the two encoders.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from sa2va_model.checkpoints.load import load_half
from sa2va_model.io.preprocessing import mask_box, masks_to_image, sam_pixels
from sa2va_model.segmentation.backends.onnx.backend import onnx_backend
from sa2va_model.segmentation.backends.onnx.manifest import read_manifest
from sa2va_model.segmentation.backends.registry import pick_runtime
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Prompt
from sa2va_sim.painted.scene import flat_clip, flat_scene


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Normalised pictures, one after the other."""

    def __init__(self, config: Any, count: int) -> None:
        rng = np.random.default_rng(800_000)
        self._given = iter(
            {"pixels": sam_pixels(flat_scene(rng, 256).rgb, config).numpy()} for _ in range(count)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next one."""
        return next(self._given, None)


def main() -> None:
    """Quantise, follow, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("graphs", type=Path)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=64, help="for calibration")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights = load_half(None, "cpu").sam2
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "int8"
        shutil.copytree(args.graphs, small)
        [entry] = read_manifest(small).segmenters
        file = small / entry.graphs["image"].file
        before = file.stat().st_size
        quantise(file, _Pictures(weights.config, args.pictures))
        report = follow(weights, {"float32": args.graphs, "int8": small}, args.clips)
        report["image_mb"] = [round(size / 1e6, 1) for size in (before, file.stat().st_size)]
    print(report)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def quantise(file: Path, pictures: CalibrationDataReader) -> None:
    """Products and convolutions of one graph in int8, in place."""
    prepared = file.with_suffix(".prepared.onnx")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(file),
        pictures,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=False,
        op_types_to_quantize=["MatMul", "Conv", "Gemm"],
        extra_options={"MatMulConstBOnly": True},
    )
    prepared.unlink()


def follow(weights: Any, folders: dict[str, Path], clips: int) -> dict[str, Any]:
    """Mean J over all objects and frames behind the first, and median milliseconds of the encoder."""
    segmenters = {
        name: pick_runtime(onnx_backend(folder), weights.device, weights.config).segmenter(weights)
        for name, folder in folders.items()
    }
    scores: dict[str, list[float]] = {name: [] for name in segmenters}
    spent: dict[str, list[float]] = {name: [] for name in segmenters}
    for clip in range(clips):
        frames = flat_clip(np.random.default_rng(900_000 + clip), 256, 12)
        whole = [frame.instances for frame in frames]
        shown_first = {n: whole[0] == n + 1 for n in range(len(frames[0].facts))}
        first = {n: mask for n, mask in shown_first.items() if mask.sum() > 100}
        trackers = {}
        for name, segmenter in segmenters.items():
            trackers[name] = OnlineTracker(segmenter, TrackerConfig(max_objects=max(1, len(first))))
            for n, mask in first.items():
                box, _ = mask_box(mask)
                assert box is not None
                trackers[name].add(str(n), Prompt.box(*(edge / 256 for edge in box)))
        for index, frame in enumerate(frames):
            pixels = sam_pixels(frame.rgb, weights.config)
            for name, tracker in trackers.items():
                with torch.inference_mode():
                    begin = time.process_time()
                    features = segmenters[name].encode_image(pixels)
                    spent[name].append((time.process_time() - begin) * 1e3)
                    seen = tracker.step(features)
                for key, one in seen.items():
                    if index:
                        shown = masks_to_image(one.logits, 256, 256, 256)[0].numpy() > 0
                        scores[name].append(jaccard(shown, whole[index] == int(key) + 1))
    return {
        name: {
            "J": round(float(np.mean(scores[name])), 4),
            "masks": len(scores[name]),
            "encode_cpu_ms": round(float(np.median(spent[name])), 2),
        }
        for name in segmenters
    } | {"onnxruntime": onnxruntime.__version__}


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """IoU; two empty masks agree."""
    either = np.logical_or(one, other).sum()
    return float(np.logical_and(one, other).sum() / either) if either else 1.0


if __name__ == "__main__":
    main()
