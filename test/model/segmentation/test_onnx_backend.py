# SPDX-License-Identifier: Apache-2.0
"""Exported graphs answer as PyTorch does, and what does not fit is refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sa2va_cli.bench.tracker_race import moving_squares
from sa2va_cli.main import main
from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.errors import InputError
from sa2va_model.io.preprocessing import masks_on, masks_to_image, sam_pixels
from sa2va_model.segmentation.backends.registry import pick_runtime
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import nano_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from sa2va_model.export.graphs import sam2_graphs  # noqa: E402
from sa2va_model.export.static_shapes import dynamic_operators  # noqa: E402
from sa2va_model.export.writer import write_graph  # noqa: E402
from sa2va_model.segmentation.backends.onnx import comparison, providers  # noqa: E402
from sa2va_model.segmentation.backends.onnx.backend import onnx_backend  # noqa: E402
from sa2va_model.segmentation.backends.onnx.comparison import difference  # noqa: E402
from sa2va_model.segmentation.backends.onnx.follower import OnnxFollower, bfloat16  # noqa: E402
from sa2va_model.segmentation.backends.onnx.manifest import read_manifest  # noqa: E402
from sa2va_model.segmentation.backends.onnx.model import OnnxSam2  # noqa: E402
from sa2va_model.segmentation.sam2 import Sam2  # noqa: E402

NAMES = ("image", "memory_attention", "decoder", "memory_encoder")


@pytest.fixture(scope="module")
def weights() -> Sam2:
    return nano_model(seed=1).sam2


@pytest.fixture
def graphs(nano_graphs: Path) -> Path:
    return nano_graphs / "graphs"


@pytest.fixture
def copied(graphs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(graphs, tmp_path / "graphs"))


def on_graphs(folder: Path, weights: Sam2) -> OnnxSam2:
    runtime = pick_runtime(onnx_backend(folder), weights.device, weights.config)
    segmenter = runtime.segmenter(weights)
    assert isinstance(segmenter, OnnxSam2)
    return segmenter


def test_graphs_are_static_and_equal_pytorch(graphs: Path) -> None:
    manifest = read_manifest(graphs)
    [entry] = manifest.segmenters
    assert tuple(entry.graphs) == NAMES
    for graph in entry.graphs.values():
        assert graph.difference <= 1e-4
        model = onnx.load(graphs / graph.file)
        assert not dynamic_operators(model)
        assert [o.version for o in model.opset_import if o.domain == ""] == [manifest.opset]
        letters = {d for dims in graph.inputs.values() for d in dims if isinstance(d, str)}
        assert letters <= {"N", "M", "P", "Q"}


def test_objects_that_come_and_go_have_the_same_masks(graphs: Path, weights: Sam2) -> None:
    """60 frames: objects are added, corrected and removed; memories fill and wrap around."""
    fused = pick_runtime("float32", weights.device, weights.config).segmenter(weights)
    frames, prompts = moving_squares(20, weights.config.image_size, 4)
    trackers = []
    for segmenter in (fused, on_graphs(graphs, weights)):
        trackers.append(OnlineTracker(segmenter, TrackerConfig(max_objects=4)))
    equal = total = 0
    for index in range(60):
        seen = []
        for tracker in trackers:
            if index in (0, 7, 9, 21):
                tracker.add(f"object {index}", prompts[(0, 7, 9, 21).index(index)])
            if index == 30:
                tracker.remove("object 7")
                tracker.add("object 0", prompts[0])
            segmenter = tracker._segmenter
            with torch.inference_mode():
                features = segmenter.encode_image(frames[index % len(frames)][None])
                seen.append(tracker.step(features))
        assert seen[0].keys() == seen[1].keys()
        for name, one in seen[0].items():
            other = seen[1][name]
            assert abs(one.object_score - other.object_score) < 1e-2
            equal += int(((one.logits > 0) == (other.logits > 0)).sum())
            total += one.logits.numel()
    assert equal / total >= 0.999


def test_mask_prompts_and_embeddings_answer_alike(graphs: Path, weights: Sam2) -> None:
    fused = pick_runtime("float32", weights.device, weights.config).segmenter(weights)
    other = on_graphs(graphs, weights)
    torch.manual_seed(0)
    size = weights.config.image_size
    pixels, extra = torch.randn(1, 3, size, size), torch.randn(3, 1, weights.config.hidden_dim)
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[10:30, 10:30] = True
    answers = []
    with torch.inference_mode():
        for segmenter in (fused, other):
            features = segmenter.encode_image(pixels)
            plain = segmenter.without_memory(features).expand(3, -1, -1, -1)
            answers.append(segmenter.decode_tokens(features, plain, extra=extra))
            answers.append(segmenter.adopt_mask(features, mask))
    for one, two in zip(answers[:2], answers[2:], strict=True):
        for field in ("logits", "pointers", "object_scores"):
            assert torch.allclose(getattr(one, field), getattr(two, field), atol=1e-3)


def test_a_follower_without_pytorch_gives_the_same_masks(graphs: Path, weights: Sam2) -> None:
    fused = pick_runtime("float32", weights.device, weights.config).segmenter(weights)
    tracker = OnlineTracker(fused, TrackerConfig(max_objects=4))
    follower = OnnxFollower(graphs)
    size = weights.config.image_size
    frames = np.random.default_rng(0).integers(0, 255, (12, size, size, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        if index in (0, 3):
            tracker.add(str(index), Prompt.box(0.2, 0.2, 0.6, 0.7))
            follower.add(
                str(index),
                box=(0.2 * size, 0.2 * size, 0.6 * size, 0.7 * size),
                size=(size, size),
            )
        with torch.inference_mode():
            want = tracker.step(fused.encode_image(sam_pixels(frame, weights.config)))
        got = follower.step(frame)
        assert list(got) == list(want)
        for name, seen in want.items():
            mask = masks_to_image(seen.logits, size, size, size)[0].numpy() > 0
            assert np.mean(mask == got[name].mask) >= 0.999
            assert got[name].quality == pytest.approx(seen.quality, abs=1e-3)
    follower.remove("0")
    assert list(follower.step(frames[0])) == ["3"]


def test_a_follower_without_pytorch_draws_along_edges_where_its_model_does(
    copied: Path, weights: Sam2
) -> None:
    path, size = copied / "manifest.json", weights.config.image_size
    frame = np.random.default_rng(0).integers(0, 255, (2 * size, size, 3), dtype=np.uint8)
    box = (0.2 * size, 0.4 * size, 0.6 * size, 1.4 * size)
    masks = []
    for radius in (0, 2):
        manifest = json.loads(path.read_text())
        for entry in manifest["segmenters"]:
            entry["config"]["guided_radius"] = radius
        path.write_text(json.dumps(manifest))
        follower = OnnxFollower(copied)
        follower.add("a", box=box, size=frame.shape[:2])
        masks.append(follower.step(frame)["a"].mask)
    tracker = OnlineTracker(weights, TrackerConfig())
    tracker.add("a", Prompt.box(0.2, 0.2, 0.6, 0.7))
    with torch.inference_mode():
        pixels = sam_pixels(frame, weights.config)
        seen = tracker.step(weights.encode_image(pixels))["a"]
    guided = replace(weights.config, guided_radius=2)
    for mask, config in zip(masks, (weights.config, guided), strict=True):
        wanted = masks_on(seen.logits, config, frame)[0]
        assert np.mean(mask == wanted) >= 0.999
    assert np.mean(masks[0] == masks[1]) < 0.999


def test_the_follower_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; import sa2va_model.segmentation.backends.onnx.follower; "
        "print([m for m in ('torch', 'transformers', 'sam2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bfloat16_rounds_as_pytorch() -> None:
    values = torch.randn(1000) * 10 ** torch.linspace(-6, 6, 1000)
    assert np.array_equal(bfloat16(values.numpy()), values.bfloat16().float().numpy())


# The language half's view of tiles.


def test_the_vision_tower_answers_as_pytorch(graphs: Path, nano_graphs: Path) -> None:
    """Both grounders see the same tiles; one through its modules, one through the fifth graph."""
    plain = load_model(nano_graphs / "model", device="cpu")
    other = load_model(nano_graphs / "model", device="cpu", profile=onnx_backend(graphs))
    looked = []
    for model in (plain, other):
        model.mllm.vision_model.register_forward_pre_hook(lambda *_: looked.append(1))
    rng = np.random.default_rng(0)
    clip = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(3)]
    one, two = (model.ground(clip, "the mug") for model in (plain, other))
    assert looked == [1]  # the second model's modules saw nothing
    assert (one.text, len(one.embeddings)) == (two.text, len(two.embeddings))
    assert torch.allclose(one.embeddings, two.embeddings, atol=1e-4)
    other.use_profile("float32")
    other.ground(clip, "the mug")
    assert looked == [1, 1]


def test_a_vision_tower_of_another_model_is_refused(graphs: Path) -> None:
    other = nano_model(seed=1)
    with torch.no_grad():
        other.mllm.mlp1[1].bias.add_(1.0)
    with pytest.raises(InputError, match="holds the vision tower of 'nano', not of this model"):
        other.use_profile(onnx_backend(graphs))


def test_sam_3_s_image_encoder_is_static_too(tmp_path: Path) -> None:
    """What else it has are SAM-2's modules."""
    image = sam2_graphs(nano_model(seed=1, segmenter="sam3").sam2)["image"]
    assert write_graph(image, tmp_path, "image.onnx").difference <= 1e-4


# What does not fit.


def test_graphs_of_another_model_are_refused(graphs: Path) -> None:
    other = nano_model(seed=2).sam2
    with pytest.raises(InputError, match="holds graphs of 'nano', not of this model's SAM-2"):
        on_graphs(graphs, other)


def test_a_size_that_was_not_exported_is_refused(graphs: Path, weights: Sam2) -> None:
    runtime = pick_runtime(onnx_backend(graphs), weights.device, weights.config)
    with pytest.raises(InputError, match="resolution 96 was not exported; expected one of 64"):
        runtime.segmenter(weights, image_size=96)


def test_a_missing_graph_is_refused(copied: Path) -> None:
    next(copied.glob("*/decoder.onnx")).unlink()
    with pytest.raises(InputError, match=r"decoder\.onnx: no such file; .* export again"):
        onnx_backend(copied)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("opset", 11, "opset is 11; expected 20"),
        ("format", 7, "format is 7; expected 1"),
        ("segmenters", 3, "a field is missing or of the wrong kind"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    copied: Path, field: str, value: int, says: str
) -> None:
    file = copied / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(InputError, match=says):
        onnx_backend(copied)


def test_a_broken_graph_is_refused(copied: Path, weights: Sam2) -> None:
    next(copied.glob("*/decoder.onnx")).write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"decoder\.onnx: ONNX Runtime cannot open it"):
        on_graphs(copied, weights)


@pytest.mark.parametrize("name", ["cuda", "tensorrt", "openvino"])
def test_a_provider_that_is_not_there_is_refused(graphs: Path, name: str) -> None:
    if providers.NAMES[name] in providers.runtime().get_available_providers():
        pytest.skip("it is there")
    with pytest.raises(InputError, match=f"provider '{name}' is not in this onnxruntime"):
        onnx_backend(graphs, providers.ProviderOptions(name))


def test_nodes_that_fell_to_another_provider_are_an_error(
    graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by ONNX Runtime itself; here the name of the CPU's provider stands for another one."""
    [entry] = read_manifest(graphs).segmenters
    file = graphs / entry.graphs["memory_encoder"].file
    elsewhere = {"elsewhere": Counter({"MatMul": 7})}
    monkeypatch.setattr(providers, "placements", lambda session: elsewhere)
    with pytest.raises(InputError, match=r"not all nodes run on cpu: \d+ on elsewhere"):
        providers.open_session(file, providers.ProviderOptions("cpu"), {})
    allowed = providers.ProviderOptions("cpu", fallback=True)
    assert providers.open_session(file, allowed, {})


def test_the_placement_of_all_nodes_is_told(graphs: Path) -> None:
    [entry] = read_manifest(graphs).segmenters
    session = providers.open_session(
        graphs / entry.graphs["decoder"].file, providers.ProviderOptions("cpu"), {}
    )
    placed = providers.placements(session)
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime does not tell")
    assert set(placed) == {"cpu"}
    assert placed["cpu"]["MatMul"] > 10


# The command.


def test_the_command_tells_what_runs_where(
    graphs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(graphs)]) == 0
    told = capsys.readouterr().out
    assert told.count("nodes on cpu") + told.count("placement not told") == 5


def test_two_sessions_are_compared_on_what_they_answer(copied: Path) -> None:
    [entry] = read_manifest(copied).segmenters
    for name in NAMES:
        graph = entry.graphs[name]
        file = copied / graph.file
        plain = providers.open_session(file, providers.ProviderOptions("cpu"), {})
        assert difference(graph, plain, plain) == 0
        model = onnx.load(file)
        large = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = np.frombuffer(large.raw_data, np.float32)
        large.raw_data = (values * np.float32(1.1)).tobytes()
        onnx.save(model, file)
        other = providers.open_session(file, providers.ProviderOptions("cpu"), {})
        assert difference(graph, other, plain) > graph.tolerance


@pytest.mark.parametrize(("apart", "status"), [(0.4, 1), (1e-6, 0)])
def test_a_provider_that_computes_something_else_is_told(
    graphs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    apart: float,
    status: int,
) -> None:
    """The CPU's provider stands for OpenVINO's, and is as far from itself as is said."""
    cpu = providers.NAMES["cpu"]
    monkeypatch.setattr(providers, "NAMES", providers.NAMES | {"openvino": cpu})
    monkeypatch.setattr(providers, "_providers", lambda *_: [cpu])
    monkeypatch.setattr(providers, "placements", lambda session: {})
    monkeypatch.setattr(comparison, "difference", lambda *_: apart)
    assert main(["doctor", str(graphs), "--provider", "openvino", "--fallback"]) == status
    told = capsys.readouterr().out
    assert told.count("4e-01 from the CPU, 1e-04 expected") == (5 if status else 0)
    assert told.count("1e-06 from the CPU") == (0 if status else 5)


def broken(graphs: Path, how: str) -> None:
    """Spoils a folder of graphs."""
    if how == "missing graph":
        next(graphs.glob("*/decoder.onnx")).unlink()
    elif how == "half a graph":
        file = next(graphs.glob("*/decoder.onnx"))
        file.write_bytes(file.read_bytes()[:5000])
    elif how == "half an export":
        (graphs / "manifest.json").unlink()
    elif how == "another opset":
        file = graphs / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"opset": 17}))
    elif how == "another size":
        file = graphs / "manifest.json"
        values = json.loads(file.read_text())
        values["segmenters"][0]["image_size"] = 96
        file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing graph", r"decoder.onnx: no such file; "),
        ("half a graph", r"decoder.onnx: ONNX Runtime cannot open it"),
        ("half an export", "no manifest.json in it"),
        ("another opset", "opset is 17; expected 20"),
        ("another size", "resolution 64 was not exported; expected one of 96"),
        ("another model", "holds the vision tower of 'nano', not of this model"),
        ("no provider", "is not in this onnxruntime"),
        ("no folder", "--backend onnx needs --onnx DIR"),
        ("no backend", "--onnx is given without --backend onnx"),
    ],
)
def test_what_does_not_fit_ends_the_command_with_one_line(
    copied: Path,
    nano_graphs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    how: str,
    says: str,
) -> None:
    broken(copied, how)
    source = tmp_path / "frame.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(source)
    model = nano_graphs / "model"
    if how == "another model":
        save_model(nano_model(seed=2), model := tmp_path / "other", dtype=None)
    words = ["track", str(source), "--box", "10,10,40,40", "--model", str(model), "--device", "cpu"]
    words += ["-o", str(tmp_path / "out")]
    words += [] if how == "no backend" else ["--backend", "onnx"]
    words += [] if how == "no folder" else ["--onnx", str(copied)]
    if how == "no provider":
        missing = [n for n, long in providers.NAMES.items() if long not in there()]
        words += ["--provider", missing[0]]
    assert main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line


def there() -> list[str]:
    return list(providers.runtime().get_available_providers())


def test_an_export_writes_no_folder_that_is_there(
    graphs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in graphs.rglob("*")}
    assert main(["export", "-o", str(graphs)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "exists already; expected a new folder" in line
    assert before == {path: path.stat().st_mtime_ns for path in graphs.rglob("*")}


def test_the_command_tracks_on_graphs(nano_graphs: Path, graphs: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for index in range(3):
        picture = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "frames" / f"{index}.png")
    common = [
        str(tmp_path / "frames"),
        "--box",
        "10,10,40,40",
        "--model",
        str(nano_graphs / "model"),
    ]
    out = []
    for name, more in (
        ("torch", []),
        ("onnx", ["--backend", "onnx", "--onnx", str(graphs)]),
    ):
        folder = tmp_path / name
        assert main(["track", *common, "-o", str(folder), *more]) == 0
        out.append({p.relative_to(folder): p.read_bytes() for p in folder.glob("masks/*/*.png")})
    assert out[0]
    assert out[0].keys() == out[1].keys()
    same = [out[0][name] == out[1][name] for name in out[0]]
    assert all(same)
    refused = ["track", *common, "-o", str(tmp_path / "o"), "--onnx", str(graphs)]
    assert main(refused) == 2
