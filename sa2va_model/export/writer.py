# SPDX-License-Identifier: Apache-2.0
"""Writes a folder of graphs: each is exported, made static, checked against PyTorch; the manifest comes last.

The folder appears when all is done: what a failed export has written is gone.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from sa2va_model.config.segmenter import Sam2Config, Sam3Config
from sa2va_model.errors import InputError
from sa2va_model.export.graphs import GraphSpec, sam2_constants, sam2_graphs
from sa2va_model.export.static_shapes import dynamic_operators, fix_shapes
from sa2va_model.export.vision import vision_graph
from sa2va_model.mllm.tiled import TiledMllm
from sa2va_model.segmentation.backends.onnx.fingerprint import fingerprint_of
from sa2va_model.segmentation.backends.onnx.manifest import (
    OPSET,
    GraphEntry,
    Manifest,
    SegmenterEntry,
    VisionEntry,
)
from sa2va_model.segmentation.kinds import kind_of
from sa2va_model.segmentation.sam2 import Sam2

TOLERANCE = 1e-4
HALF_TOLERANCE = 3e-2
LARGEST = 1_800_000_000
"""Bytes of weights in one file; beyond it (protobuf ends at 2 GB) they lie beside it."""
SIZES = (1024, 512, 256)


@dataclass(frozen=True)
class ExportOptions:
    """What is written.

    Attributes:
        sizes: sides of the image, pixels; empty = the model's own.
        half: products in float16, inputs and outputs in float32.
    """

    sizes: tuple[int, ...] = ()
    half: bool = False

    def __post_init__(self) -> None:
        for size in self.sizes:
            if size < 64:
                raise InputError(f"resolution is {size}; expected 64 or more")


Say = Callable[[str], None]


def export(
    source: str,
    segmenters: Sequence[Sam2],
    folder: Path,
    options: ExportOptions,
    *,
    say: Say,
    mllm: TiledMllm | None = None,
) -> Manifest:
    """Writes all graphs of some SAM-2s to a new folder.

    Args:
        source: what they come from, for the manifest.
        segmenters: on the CPU, float32.
        say: told what is done.
        mllm: a language half whose vision tower and projector are a fifth graph; None = none.

    Raises:
        InputError: the folder is there already, or a graph differs from PyTorch.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already; expected a new folder")
    wanted = [
        (weights, _sized(weights, size))
        for weights in segmenters
        for size in options.sizes or (weights.config.image_size,)
    ]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        made = Path(name) / "made"
        made.mkdir()
        entries = [_segmenter(weights, size, made, options, say) for weights, size in wanted]
        versions = {
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        }
        vision = None if mllm is None else _vision(mllm, made, options, say)
        manifest = Manifest(source, tuple(entries), vision, half=options.half, versions=versions)
        manifest.write(made)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    return manifest


def _sized(weights: Sam2, size: int) -> int:
    """The size, if the segmenter can be exported at it."""
    if not isinstance(weights.config, (Sam2Config, Sam3Config)):
        raise InputError(
            f"the segmenter is {kind_of(weights.config).title}, whose memory is not exported; expected SAM-2 or SAM 3, "
            "such as sam2.1_hiera_tiny.pt (what is given runs with --backend torch)"
        )
    return replace(weights.config, image_size=size).image_size


def _segmenter(
    weights: Sam2, size: int, folder: Path, options: ExportOptions, say: Say
) -> SegmenterEntry:
    print_ = fingerprint_of(weights.sam2_model)
    name = f"{print_[:8]}-{size}"
    (folder / name).mkdir(exist_ok=True)
    graphs = {}
    for part, spec in sam2_graphs(weights, size).items():
        graphs[part] = write_graph(spec, folder, f"{name}/{part}.onnx", options.half)
        say(f"{name}/{part}.onnx  largest difference {graphs[part].difference:.1e}")
    constants = f"{name}/constants.npz"
    np.savez(folder / constants, allow_pickle=False, **sam2_constants(weights, size))
    config = asdict(replace(weights.config, image_size=size))
    return SegmenterEntry(print_, size, config, graphs, constants)


def _vision(mllm: TiledMllm, folder: Path, options: ExportOptions, say: Say) -> VisionEntry:
    spec = vision_graph(mllm)
    print_ = fingerprint_of(nn.ModuleList(mllm.vision_parts()))
    name = f"{print_[:8]}-vision"
    (folder / name).mkdir()
    graph = write_graph(spec, folder, f"{name}/vision.onnx", options.half)
    say(f"{graph.file}  largest difference {graph.difference:.1e}")
    return VisionEntry(print_, graph)


def write_graph(spec: GraphSpec, folder: Path, name: str, half: bool = False) -> GraphEntry:
    """One graph as a file, checked.

    Raises:
        InputError: it differs from PyTorch by more than is allowed, or is not static.
    """
    file = folder / name
    model = fix_shapes(_exported(spec))
    wrong = dynamic_operators(model)
    if wrong:
        raise InputError(f"{name}: the graph has {', '.join(wrong)}; expected static operators")
    if half:
        model = _halved(model)
    save(model, file)
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    difference = largest_difference(spec, file)
    if not difference <= tolerance:
        raise InputError(
            f"{name}: differs from PyTorch by {difference:.1e}; expected {tolerance:.0e} at most"
        )
    shapes = {i.name: _dims(i) for i in [*model.graph.input, *model.graph.output]}
    return GraphEntry(
        name,
        {key: shapes[key] for key in spec.inputs},
        {key: shapes[key] for key in spec.outputs},
        difference,
        tolerance,
    )


def save(model: onnx.ModelProto, file: Path) -> None:
    """A model as one file, or with its weights beside it where they are too many."""
    large = model.ByteSize() > LARGEST
    onnx.save(model, file, save_as_external_data=large, location=f"{file.name}.data")


def largest_difference(spec: GraphSpec, file: Path) -> float:
    """Between ONNX Runtime's CPU provider and PyTorch, for the example and for one object, relative beyond 1."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = (
        3  # that products in float16 cannot be folded on a CPU is no fault
    )
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    worst = 0.0
    for inputs in _examples(spec):
        with torch.inference_mode():
            want = spec.module(*inputs.values())
        want = (want,) if isinstance(want, Tensor) else want
        got = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        for one, other in zip(got, want, strict=True):
            apart = np.abs(one - other.numpy()).max() / max(1.0, float(other.abs().max()))
            worst = max(worst, float(apart)) if np.isfinite(apart) else float("inf")
    return worst


def _examples(spec: GraphSpec) -> Iterator[Mapping[str, Tensor]]:
    """The example, and where dimensions vary the same with one object."""
    yield spec.inputs
    if spec.dynamic:
        yield {
            name: tensor[:1].contiguous() if "N" in spec.dynamic.get(name, {}).values() else tensor
            for name, tensor in spec.inputs.items()
        }


def _exported(spec: GraphSpec) -> onnx.ModelProto:
    shapes = tuple(
        dict(spec.dynamic[name]) if name in spec.dynamic else None for name in spec.inputs
    )
    with _quiet(), _uncollected(), torch.no_grad():
        program = torch.onnx.export(
            spec.module.eval(),
            tuple(spec.inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """The exporter makes a million small objects that live on; looking for garbage is a sixth of its time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells at length what it does without."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.__trace", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Float16 inside, float32 outside."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    changed: onnx.ModelProto = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=["Resize", "Sin", "Cos"]
    )
    return changed


def _dims(info: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]
