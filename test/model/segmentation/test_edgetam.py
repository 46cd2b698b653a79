# SPDX-License-Identifier: Apache-2.0
"""EdgeTAM: the published file's names, memory as transformers computes it, and a follower like any other."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.edgetam_video.configuration_edgetam_video import EdgeTamVideoConfig
from transformers.models.edgetam_video.modeling_edgetam_video import EdgeTamVideoMemoryAttention

from sa2va_cli.bench.tracker_race import moving_squares, ours
from sa2va_model.checkpoints.files import sam2_files
from sa2va_model.checkpoints.files.sam2_files import load_stock, recognise, stock_config
from sa2va_model.checkpoints.files.tensor_names import OURS, Names
from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.checkpoints.meta_init import unallocated
from sa2va_model.checkpoints.presets import NANO_SEGMENTERS, byte_tokenizer, nano_config
from sa2va_model.config.segmenter import EdgeTamConfig, SegmenterConfig
from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.kinds import MODULES
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import wake

NANO = NANO_SEGMENTERS["edgetam"]
# Of the official code's model: `sam2.build_sam.build_sam2("configs/edgetam.yaml")`, one name a line, sorted.
OFFICIAL_COUNT, OFFICIAL_NAMES = 982, "d44fd51ff7627728"


def make(config: SegmenterConfig) -> Sam2:
    torch.manual_seed(3)
    segmenter = Sam2(config).eval()
    wake(segmenter)
    for module in segmenter.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.running_mean, module.bias.data):
                assert tensor is not None
                tensor.normal_(0, 0.1)
    return segmenter


def published(segmenter: Sam2) -> dict[str, Tensor]:
    """Its tensors as a published file has them."""
    state = {OURS + name: tensor for name, tensor in segmenter.sam2_model.state_dict().items()}
    official = Names.of_segmenter(segmenter.config).official(state)
    return {name.removeprefix(MODULES): tensor for name, tensor in official.items()}


def test_the_published_file_has_these_names() -> None:
    with unallocated():
        tensors = published(Sam2(EdgeTamConfig()))
    listed = hashlib.sha256("\n".join(sorted(tensors)).encode()).hexdigest()[:16]
    assert (len(tensors), listed) == (OFFICIAL_COUNT, OFFICIAL_NAMES)
    assert tensors["spatial_perceiver.layers.1.self_attn.to_kv.weight"].shape == (128, 64)
    assert recognise(tensors) == stock_config("edgetam") == EdgeTamConfig()


def test_memory_is_read_as_transformers_reads_it() -> None:
    """The sizes that transformers has built in; everything else is nano."""
    config = replace(
        EdgeTamConfig(), image_size=128, trained_size=128, memory_mlp_dim=32, window_latents=16
    )
    segmenter = make(config)
    own = segmenter.sam2_model.memory_attention
    module = EdgeTamVideoMemoryAttention(
        EdgeTamVideoConfig(
            memory_attention_mlp_hidden_size=32,
            memory_attention_rope_feat_sizes=[8, 8],
            memory_attention_rope_k_sizes=[4, 4],
        )
    ).eval()
    renamed = {}
    for name, tensor in own.state_dict().items():
        name = name.replace("out_proj", "o_proj").replace("norm", "layer_norm")
        name = name.replace("linear1", "mlp.up_proj").replace("linear2", "mlp.down_proj")
        renamed[name] = tensor
    module.load_state_dict(renamed)
    top, place = torch.randn(64, 1, 256), torch.randn(64, 1, 256)
    cells, frames, pointers = config.memory_cells, 3, 8
    memory, places = torch.randn(2, frames * cells + pointers, 1, 64)
    with torch.inference_mode():
        theirs = module(top, memory, place, places, pointers, frames)
        ours = own([top], memory, [place], places, num_obj_ptr_tokens=pointers)
    assert float((theirs.reshape(ours.shape) - ours).abs().max()) <= 1e-5


def test_a_file_follows_as_what_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two objects are two runs of one; masks do not change on the way through a file, nor by the rewritten blocks."""
    monkeypatch.setattr(sam2_files, "EDGETAM_SIZES", {"nano": NANO})
    segmenter, file = make(NANO), tmp_path / "edgetam.pt"
    torch.save({"model": published(segmenter)}, file)
    loaded = load_stock(file)
    assert loaded.config == NANO
    frames, boxes = moving_squares(9, 64, 1)
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[12:32, 8:30] = True
    prompts = [boxes[0], Prompt(mask=mask)]
    stored = [torch.stack(list(ours(segmenter, frames, [prompt]))) for prompt in prompts]
    assert float(stored[0][2:].std()) > 0.05, "the random model must give masks that vary"
    together = torch.stack(list(ours(loaded, frames, prompts)))
    weights = segmenter.state_dict()
    assert weights.keys() == loaded.state_dict().keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.state_dict().items())
    # Not to the last bit: which way a product is taken depends on its rows and on the processor.
    torch.testing.assert_close(together, torch.cat(stored, 1), rtol=1e-4, atol=1e-4)
    fused = torch.stack(list(ours(FusedSam2(loaded), frames, prompts)))
    assert float((fused - together).abs().max()) <= 1e-4


def test_another_size_is_told() -> None:
    tensors = published(make(NANO))
    words = r"has stages \(1, 1, 2, 1\) of widths \(8, 16, 24, 32\); expected EdgeTAM's \(2, 2, 14"
    with pytest.raises(InputError, match=words):
        recognise(tensors, "x.pt")
    with pytest.raises(InputError, match="image_size is 320; expected a multiple of 256"):
        stock_config("edgetam", image_size=320)


def test_a_folder_with_edgetam_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    """Batch normalisation's count of batches is no weight; a folder that has it is read all the same."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    model = Sa2VA(replace(nano_config(len(tokenizer)), sam2=NANO), tokenizer).eval()
    save_model(model, tmp_path, dtype=torch.float32)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    assert not any(name.endswith("num_batches_tracked") for name in tensors)
    counted = next(name for name in tensors if name.endswith("running_mean"))
    tensors[counted.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
    save_file(tensors, file)
    again = load_model(tmp_path, device="cpu").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again[name], tensor), name
