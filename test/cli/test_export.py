# SPDX-License-Identifier: Apache-2.0
"""What `sa2va export` takes and leaves: published files, every family, float16, and nothing where it fails."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sa2va_cli.bench.tracker_race import moving_squares
from sa2va_cli.export import _weights
from sa2va_cli.main import main
from sa2va_model.checkpoints.files import sam2_files
from sa2va_model.checkpoints.load import save_model
from sa2va_model.checkpoints.presets import NANO_SEGMENTERS
from sa2va_model.errors import InputError
from sa2va_model.mllm.registry import nano_names
from sa2va_model.mllm.tiled import TiledMllm
from sa2va_model.segmentation.backends.registry import pick_runtime
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.testing import nano_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from sa2va_model.export import writer  # noqa: E402
from sa2va_model.export.graphs import GraphSpec  # noqa: E402
from sa2va_model.export.vision import vision_graph  # noqa: E402
from sa2va_model.export.writer import ExportOptions, export  # noqa: E402
from sa2va_model.segmentation.backends.onnx.backend import onnx_backend  # noqa: E402
from sa2va_model.segmentation.backends.onnx.manifest import read_manifest  # noqa: E402

BY_GRIDS = ("qwen2_5_vl", "qwen3_vl")
"""Families whose vision tower sees grids of any size."""


@pytest.fixture(scope="module")
def weights() -> Sam2:
    return nano_model(seed=1).sam2


@pytest.fixture
def traced(nano_graphs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The nano's graphs; an export takes them as traced, and fails on its own check if they are of other weights."""
    graphs = nano_graphs / "graphs"
    manifest = read_manifest(graphs)
    known = {tuple(g.outputs): g.file for g in manifest.segmenters[0].graphs.values()}
    if manifest.vision is not None:
        known[tuple(manifest.vision.graph.outputs)] = manifest.vision.graph.file

    def again(spec: GraphSpec) -> Any:
        return onnx.load(graphs / known[spec.outputs])

    monkeypatch.setattr(writer, "_exported", again)
    return graphs


def quiet(line: str) -> None:
    """What an export says."""


def test_float16_inside_is_told_and_follows_alike(
    traced: Path, weights: Sam2, tmp_path: Path
) -> None:
    manifest = export("nano", [weights], tmp_path / "half", ExportOptions(half=True), say=quiet)
    [plain], [half] = read_manifest(traced).segmenters, manifest.segmenters
    assert manifest.half
    for name, graph in half.graphs.items():
        assert plain.graphs[name].difference < graph.difference <= graph.tolerance == 3e-2
        model = onnx.load(tmp_path / "half" / graph.file)
        kinds = {t.data_type for t in model.graph.initializer if len(t.dims) > 1}
        assert kinds - {onnx.TensorProto.INT64} == {onnx.TensorProto.FLOAT16}, name
        edges = {i.type.tensor_type.elem_type for i in (*model.graph.input, *model.graph.output)}
        assert edges <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    frames, prompts = moving_squares(12, weights.config.image_size, 2)
    shown = []
    for profile in ("float32", onnx_backend(tmp_path / "half")):
        segmenter = pick_runtime(profile, weights.device, weights.config).segmenter(weights)
        tracker = OnlineTracker(segmenter, TrackerConfig(max_objects=2))
        for n, prompt in enumerate(prompts):
            tracker.add(str(n), prompt)
        with torch.inference_mode():
            steps = [tracker.step(segmenter.encode_image(frame[None])) for frame in frames]
        shown.append(torch.stack([s[n].logits > 0 for s in steps for n in sorted(s)]))
    assert float((shown[0] == shown[1]).float().mean()) >= 0.99


def test_a_published_file_becomes_the_same_graphs(
    traced: Path,
    weights: Sam2,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SAM-2's own `.pt`, of a size that is published for this test; the sizes there are: test_sam2_files."""
    monkeypatch.setitem(sam2_files.SIZES, "nano", NANO_SEGMENTERS["sam2"])
    torch.save({"model": weights.sam2_model.state_dict()}, tmp_path / "sam2_nano.pt")
    words = ["export", str(tmp_path / "sam2_nano.pt"), "-o", str(tmp_path / "out")]
    assert main(words) == 0
    assert capsys.readouterr().out.count("largest difference") == 4
    made, theirs = read_manifest(tmp_path / "out"), read_manifest(traced)
    assert made.vision is None
    assert made.source == "sam2_nano.pt"
    assert [e.fingerprint for e in made.segmenters] == [e.fingerprint for e in theirs.segmenters]
    assert onnx_backend(tmp_path / "out").make is not None


@pytest.mark.parametrize("name", nano_names())
def test_every_family_has_a_tower_to_export_or_is_told_that_it_has_none(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of the whole checkpoint: SAM-2 and what sees tiles are read, of the language model nothing."""
    model = nano_model(seed=3, family=name)
    save_model(model, tmp_path / "model", dtype=None)
    args = Namespace(
        source=str(tmp_path / "model"), model=None, resolution=(), no_vision=False, sam2=None
    )
    _, [sam2], mllm = _weights(args)
    assert writer.fingerprint_of(sam2.sam2_model) == writer.fingerprint_of(model.sam2.sam2_model)
    assert (mllm is None) is (name in BY_GRIDS)
    assert ("stays in PyTorch" in capsys.readouterr().out) is (name in BY_GRIDS)
    if mllm is None:
        return
    assert isinstance(model.mllm, TiledMllm)
    spec, own = vision_graph(mllm), vision_graph(model.mllm)
    with torch.inference_mode():
        seen, want = (one.module(spec.inputs["tiles"]) for one in (spec, own))
    assert torch.equal(seen, want)


def test_what_is_not_exported_is_refused_before_anything_is_traced(
    tmp_path: Path, weights: Sam2, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace(spec: GraphSpec) -> Any:
        raise AssertionError("traced")

    monkeypatch.setattr(writer, "_exported", trace)
    edge = nano_model(segmenter="edgetam").sam2
    with pytest.raises(
        InputError, match="is EdgeTAM, whose memory is not exported; expected SAM-2"
    ):
        export("x", [weights, edge], tmp_path / "out", ExportOptions(), say=quiet)
    with pytest.raises(InputError, match=r"image_size is 100; expected a multiple of 32"):
        export("x", [weights], tmp_path / "out", ExportOptions((64, 100)), say=quiet)
    with pytest.raises(InputError, match="resolution is 32; expected 64 or more"):
        ExportOptions((32,))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["differs", "not static", "interrupted", "disk full"])
def test_a_failed_export_leaves_nothing(
    traced: Path, weights: Sam2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Two graphs are written, the third fails."""
    whole = writer._exported
    said: list[str] = []

    def third(spec: GraphSpec) -> Any:
        model = whole(spec)
        if spec.outputs[0] != "masks":
            return model
        if how == "differs":
            tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
            values = np.frombuffer(tensor.raw_data, np.float32) + 0.01
            tensor.raw_data = values.astype(np.float32).tobytes()
        elif how == "not static":
            name = model.graph.output[0].name
            model.graph.node.append(onnx.helper.make_node("Shape", [name], ["shape"]))
            model.graph.output.append(
                onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [4])
            )
        elif how == "interrupted":
            raise KeyboardInterrupt
        else:
            raise OSError(28, "No space left on device")
        return model

    monkeypatch.setattr(writer, "_exported", third)
    failures: dict[str, type[BaseException]] = {
        "interrupted": KeyboardInterrupt,
        "disk full": OSError,
    }
    words = {"differs": r"decoder\.onnx: differs", "not static": "the graph has Shape"}
    with pytest.raises(failures.get(how, InputError), match=words.get(how)):
        export("x", [weights], tmp_path / "out", ExportOptions(), say=said.append)
    assert len(said) == 2
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already; expected a new folder"):
        export("x", [weights], tmp_path / "there", ExportOptions(), say=said.append)
    assert (tmp_path / "there" / "mine.txt").read_text() == "mine"
