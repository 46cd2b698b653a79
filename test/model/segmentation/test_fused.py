# SPDX-License-Identifier: Apache-2.0
"""The rewritten blocks: the same answers as the `sam2` package's modules, for shapes that are not the usual ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sa2va_cli.bench.tracker_race import agreement, moving_squares, ours
from sa2va_model import device
from sa2va_model.checkpoints.presets import NANO_SEGMENTERS, nano_config
from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.device import CPU, CUDA
from sa2va_model.segmentation.backends import profile, registry
from sa2va_model.segmentation.backends.fused import kernels
from sa2va_model.segmentation.backends.fused.cuda_graphs import bucket
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.backends.profile import BFLOAT16, FLOAT32
from sa2va_model.segmentation.sam2 import Sam2, same_encoder
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import wake

NANO = replace(nano_config(300).sam2, pointer_positions=True, object_score_gate=True)
CONFIGS = {
    "windows that overhang": replace(
        NANO, image_size=96, window_spec=(4, 5, 4, 2), background_size=(3, 3)
    ),
    "sums from all levels": replace(NANO, top_down_levels=(0, 1, 2, 3)),
    "one mask, fallback": replace(NANO, multimask=False, stability_fallback=True),
    "one mask": replace(NANO, multimask=False, stability_fallback=False),
    "sam2.0, official": replace(NANO, pointer_positions=False, object_score_gate=False),
    "edgetam": NANO_SEGMENTERS["edgetam"],
    "sam3": NANO_SEGMENTERS["sam3"],
    "sam3, windows that overhang": replace(NANO_SEGMENTERS["sam3"], image_size=140),
}


def make(config: SegmenterConfig) -> Sam2:
    torch.manual_seed(2)
    segmenter = Sam2(config).eval()
    wake(segmenter)
    return segmenter


def prompts() -> list[Prompt]:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[12:32, 8:30] = True
    embedding = torch.randn(NANO.hidden_dim, generator=torch.Generator().manual_seed(0))
    point = Prompt(points=torch.tensor([[0.4, 0.3]]), labels=torch.tensor([1]))
    return [Prompt(mask=mask), Prompt.box(0.1, 0.2, 0.5, 0.6), point, Prompt(embedding=embedding)]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_blocks_answer_as_the_packages_do(name: str) -> None:
    config = CONFIGS[name]
    segmenter, (frames, _) = make(config), moving_squares(8, config.image_size, 1)
    plain = list(ours(segmenter, frames, prompts()))
    fast = list(ours(FusedSam2(segmenter, FLOAT32), frames, prompts()))
    for one, other in zip(plain, fast, strict=True):
        assert float((one - other).abs().max()) <= 1e-4


def test_without_onednn_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, (frames, _) = make(NANO), moving_squares(5, 64, 1)
    monkeypatch.setattr(kernels, "mkl_is_as_wide", lambda: False)
    fused = list(ours(FusedSam2(segmenter, FLOAT32), frames, prompts()))
    monkeypatch.setattr(kernels, "onednn_linear", lambda dtype: False)
    plain = list(ours(FusedSam2(segmenter, FLOAT32), frames, prompts()))
    for one, other in zip(plain, fused, strict=True):
        assert float((one - other).abs().max()) <= 1e-4


@pytest.mark.parametrize(
    ("capability", "mkl", "pays"),
    [("AVX2", True, False), ("AVX2", False, True), ("AVX512", True, True)],
)
def test_onednn_is_taken_where_mkl_leaves_vectors_unused(
    monkeypatch: pytest.MonkeyPatch, capability: str, mkl: bool, pays: bool
) -> None:
    monkeypatch.setattr(kernels, "onednn_linear", lambda dtype: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert kernels.onednn_pays(torch.float32) is pays
    assert kernels.onednn_pays(torch.bfloat16)
    dense = kernels.Kernels(torch.float32, CPU).dense(torch.randn(3, 4), None)
    assert dense._packed is pays


def test_the_rewrite_is_what_runs_and_encodes_an_image_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four objects: one image encoding, one memory attention and one decoder call for a frame."""
    segmenter = make(NANO)
    fused, (frames, _) = FusedSam2(segmenter, FLOAT32), moving_squares(4, 64, 1)
    calls: list[tuple[str, int]] = []

    def counted(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Tensor, **kwargs: Tensor) -> Tensor:
            out = function(*args, **kwargs)
            calls.append((name, len(out) if isinstance(out, Tensor) else len(out[0])))
            return out

        return call

    for name in ("attend_memory", "_head", "_remember", "encode_levels"):
        object.__setattr__(fused, name, counted(name, getattr(fused, name)))
    for module in (segmenter.sam2_model.memory_attention, segmenter.sam2_model.sam_mask_decoder):
        monkeypatch.setattr(module, "forward", None)
    list(ours(fused, frames, prompts()[:3] + prompts()[:1]))
    last = calls[-4:]
    assert last == [("encode_levels", 1), ("attend_memory", 4), ("_head", 4), ("_remember", 4)]


def test_objects_of_any_age_are_one_padded_batch() -> None:
    """What a GPU reads, with a mask of unused slots, gives what the CPU reads without padding."""
    fused, (frames, _) = FusedSam2(make(NANO), FLOAT32), moving_squares(24, 64, 1)
    tracker = OnlineTracker(fused, TrackerConfig(max_objects=3, max_conditioning=4))
    for t, frame in enumerate(frames):
        if t in (0, 5, 20):
            tracker.add(str(t), prompts()[1])
        if t in (8, 9):
            tracker.add("0", prompts()[2])
        with torch.inference_mode():
            features = fused.encode_image(frame[None])
            tracker.step(features)
            rows = [tracker.row(name) for name in tracker.ids]
            ragged = fused.attend_memory(features, tracker._bank, rows)
            begun = fused._prepare(features).attention
            assert begun is not None
            padded = fused._attend_padded(begun, tracker._bank, torch.tensor(rows), 4)
            tokens = tracker._bank.padded(torch.tensor(rows), 4)
        for row, length, bias in zip(rows, tokens.lengths.tolist(), tokens.bias, strict=True):
            read = length - int((bias < 0).sum())
            assert len(bias) == tokens.pointer_tokens
            assert read == len(tracker._bank.tokens(row).values)
        assert float((ragged - padded).abs().max()) <= 1e-4


class _Direct:
    """In place of CUDA graphs: runs the stage on the same filled inputs, with the same warm-up."""

    def __init__(self) -> None:
        self.keys: list[Hashable] = []

    def run(
        self,
        key: Hashable,
        stage: Callable[..., tuple[Tensor, ...]],
        inputs: Sequence[Tensor],
        *,
        harmless: Sequence[Tensor] | None = None,
        owner: object = None,
    ) -> tuple[Tensor, ...]:
        if key not in self.keys:
            self.keys.append(key)
            stage(*(inputs if harmless is None else harmless))
        return stage(*inputs)


def test_filling_a_bucket_changes_nothing() -> None:
    """The stages that are captured on CUDA: three objects in a bucket of four, warmed up without a trace."""
    segmenter, (frames, _) = make(NANO), moving_squares(12, 64, 1)
    three = [p for p in prompts() if p.embedding is None]
    fused = FusedSam2(segmenter, FLOAT32)
    plain = list(ours(fused, frames, three))
    direct = _Direct()
    object.__setattr__(fused, "_graphs", direct)
    filled = list(ours(fused, frames, three))
    for one, other in zip(plain, filled, strict=True):
        assert float((one - other).abs().max()) <= 1e-4
    assert {key[0] for key in direct.keys if isinstance(key, tuple)} == {"track", "remember"}
    assert {key[1] for key in direct.keys if isinstance(key, tuple)} == {4}


def test_buckets() -> None:
    assert [bucket(n) for n in (1, 2, 3, 5, 16, 17, 40)] == [1, 2, 4, 8, 16, 32, 48]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bfloat16_agrees(weights: torch.dtype) -> None:
    segmenter, (frames, _) = make(NANO), moving_squares(12, 64, 1)
    exact = [
        masks[:, 0] > 0 for masks in ours(FusedSam2(segmenter, FLOAT32), frames, prompts()[:2])
    ]
    fused = FusedSam2(segmenter.to(weights), BFLOAT16)
    near = [masks[:, 0] > 0 for masks in ours(fused, frames, prompts()[:2])]
    assert fused.dtype == torch.float32, "sums stay in float32 whatever the weights are stored in"
    assert agreement(near, exact)[0] > 0.95


@pytest.mark.parametrize(("slow", "pays"), [(torch.bfloat16, False), (torch.float32, True)])
def test_units_for_bfloat16_are_believed_if_they_are_quick(
    monkeypatch: pytest.MonkeyPatch, slow: torch.dtype, pays: bool
) -> None:
    monkeypatch.setattr(device.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch, "mm", lambda one, _: time.sleep(0.01 if one.dtype == slow else 0))
    device._pays_on_cpu.cache_clear()
    assert device.has_bfloat16_units(torch.device("cpu")) is pays
    device._pays_on_cpu.cache_clear()


def test_auto_takes_bfloat16_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, large = torch.device("cpu"), replace(NANO, hidden_dim=256)

    def picked(name: str, device: torch.device, config: SegmenterConfig) -> str:
        return registry.pick_runtime(name, device, config).profile.arithmetic

    monkeypatch.setattr(profile, "has_bfloat16_units", lambda device: True)
    assert picked("auto", cpu, large) == "bfloat16"
    assert picked("auto", cpu, NANO) == "float32"
    cuda = registry.pick_runtime("auto", torch.device("cuda"), large)
    assert cuda.profile.graphs
    assert cuda.profile.arithmetic == "bfloat16"
    assert picked("auto", torch.device("cuda"), NANO) == "float32", (
        "masks of a few cells pay for it"
    )
    monkeypatch.setattr(profile, "has_bfloat16_units", lambda device: False)
    assert picked("auto", cpu, large) == "float32"
    assert picked("auto", torch.device("cuda"), large) == "float32", "before Ampere"
    assert picked("bfloat16", cpu, NANO) == "bfloat16"
    assert not registry.pick_runtime(
        "auto", torch.device("cuda"), large, graphs=False
    ).profile.graphs
    assert not registry.pick_runtime("auto", cpu, large).profile.graphs


def test_what_a_device_is_good_at_can_be_chosen() -> None:
    """The ways of a GPU on a CPU: padded memories, one batch, PyTorch's fused attention, plain products."""
    segmenter, (frames, _) = make(NANO), moving_squares(8, 64, 1)
    own = list(ours(FusedSam2(segmenter, FLOAT32, traits=CPU), frames, prompts()))
    other = list(ours(FusedSam2(segmenter, FLOAT32, traits=CUDA), frames, prompts()))
    for one, two in zip(own, other, strict=True):
        assert float((one - two).abs().max()) <= 1e-4


def test_memories_are_lent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next clip's tracker gets the same tables, empty: what was captured with them stays good."""
    fused, (frames, _) = FusedSam2(make(NANO), FLOAT32), moving_squares(6, 64, 1)
    tables, seen = set(), []
    for count in (3, 4, 3):
        tracker = OnlineTracker(fused, TrackerConfig(max_objects=count))
        tables.add(tracker._bank._spatial.data_ptr())
        tracker.add("a", prompts()[1])
        with torch.inference_mode():
            steps = [tracker.step(fused.encode_image(frame[None])) for frame in frames]
        seen.append(torch.cat([step["a"].logits for step in steps]))
        del tracker
    assert len(tables) == 1
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    one, two = (OnlineTracker(fused, TrackerConfig(max_objects=4)) for _ in range(2))
    assert one._bank is not two._bank, "never to two at once"


def test_any_resolution() -> None:
    """Computing at another size is what a model built for that size does."""
    segmenter = make(NANO)
    wanted = Sam2(replace(NANO, image_size=96)).eval()
    wanted.load_state_dict(segmenter.state_dict())
    frames, _ = moving_squares(8, 96, 1)
    native = ours(FusedSam2(wanted, FLOAT32), frames, prompts()[:2])
    other = ours(FusedSam2(segmenter, FLOAT32, image_size=96), frames, prompts()[:2])
    for one, two in zip(native, other, strict=True):
        assert torch.equal(one, two)
    assert segmenter.sam2_model.sam_prompt_encoder.input_image_size == (64, 64), "left as it was"


def test_encoders_are_compared_tensor_by_tensor() -> None:
    one, other = make(NANO), make(NANO)
    other.sam2_model.sam_mask_decoder.iou_token.weight.data.add_(1)
    assert same_encoder(one, other)
    other.sam2_model.image_encoder.neck.convs[0].conv.bias.data.add_(1e-3)
    assert not same_encoder(one, other)


def test_products_are_of_matrices_without_gaps_between_rows() -> None:
    """oneDNN takes a loop a hundred times slower for a slice of longer rows, such as keys cut from a joint product."""
    joint = torch.randn(6, 12)
    seen: list[Tensor] = []

    def product(x: Tensor, other: Tensor, *rest: object) -> Tensor:
        seen.extend((x, other))
        return x @ other.T

    own = kernels.Kernels(torch.float32, CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops.mkldnn, "_linear_pointwise", product, raising=False)
        patch.setattr(kernels, "onednn_pays", lambda dtype: True)
        query, key, value = joint.chunk(3, dim=-1)
        out = own.attend_one(query, key, value)
    assert seen
    assert all(m.is_contiguous() or m.T.is_contiguous() for m in seen)
    assert torch.allclose(out, (query @ key.T).softmax(-1) @ value, atol=1e-6)
