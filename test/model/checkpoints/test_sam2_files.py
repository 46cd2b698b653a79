# SPDX-License-Identifier: Apache-2.0
"""Published SAM-2 files: recognised by shape, loaded as they are, and equal to the `sam2` package's own model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.sam2_video_predictor import SAM2VideoPredictor

from sa2va_cli.bench.sam2_predictor import propagate
from sa2va_cli.bench.tracker_race import moving_squares, ours
from sa2va_model.checkpoints.files.sam2_files import SIZES, load_stock, recognise, stock_config
from sa2va_model.checkpoints.meta_init import unallocated
from sa2va_model.errors import InputError
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.types import Prompt

FILES = {"tiny": "t", "small": "s", "base+": "b+", "large": "l"}
SIDE = 128


def package_model(size: str, generation: str) -> SAM2VideoPredictor:
    """The package's own video predictor from the package's own configuration file, with random weights."""
    folder, dot = ("sam2.1", "sam2.1_hiera") if generation == "2.1" else ("sam2", "sam2_hiera")
    assert GlobalHydra.instance().is_initialized(), "the sam2 package does this when imported"
    overrides = [
        "++model._target_=sam2.sam2_video_predictor.SAM2VideoPredictor",
        "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
        "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
        "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
        "++model.binarize_mask_from_pts_for_mem_enc=true",
        f"++model.image_size={SIDE}",
    ]
    config = compose(f"configs/{folder}/{dot}_{FILES[size]}.yaml", overrides=overrides)
    OmegaConf.resolve(config)
    model: SAM2VideoPredictor = instantiate(config.model, _recursive_=True)
    return model.eval()


@pytest.fixture(scope="module", params=["2.0", "2.1"])
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, SAM2VideoPredictor, Path]]:
    """(generation, the package's tiny model with random weights, its file)."""
    torch.manual_seed(4)
    model = package_model("tiny", request.param)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(1.0)
    for network in model.sam_mask_decoder.output_hypernetworks_mlps:
        network.layers[-1].weight.data.mul_(20)
    file = tmp_path_factory.mktemp("stock") / "sam2_hiera_tiny.pt"
    torch.save({"model": model.state_dict()}, file)
    yield request.param, model, file
    file.unlink()


@pytest.mark.parametrize("generation", ["2.0", "2.1"])
@pytest.mark.parametrize("size", list(SIZES))
def test_every_published_size_is_recognised(size: str, generation: str) -> None:
    with unallocated():
        tensors = package_model(size, generation).state_dict()
    assert recognise(tensors) == stock_config(size, generation=generation)


def test_a_published_file_tracks_as_the_package_does(
    published: tuple[str, SAM2VideoPredictor, Path],
) -> None:
    _, model, file = published
    segmenter = load_stock(file, image_size=SIDE)
    frames, boxes = moving_squares(18, SIDE, 1)
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[20:60, 30:70] = True
    prompts = [boxes[0], Prompt(mask=mask)]
    model.fill_hole_area = 0
    theirs = torch.stack(list(propagate(model, frames, prompts)))
    assert float(theirs[2:].std()) > 0.05, "the random model must give masks that vary"
    exact = torch.stack(list(ours(segmenter, frames, prompts)))
    assert float((exact - theirs).abs().max()) <= 1e-4
    rewritten = torch.stack(list(ours(FusedSam2(segmenter), frames, prompts)))
    assert float((rewritten - theirs).abs().max()) <= 1e-4


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    text, other, bare = tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "c.pt"
    text.write_text("hello")
    torch.save({"model": {"weight": torch.zeros(1)}}, other)
    torch.save({"weight": torch.zeros(1)}, bare)
    cases = (
        (tmp_path / "none.pt", "no such file"),
        (text, "not readable as weights"),
        (other, "has no Hiera image encoder"),
        (bare, "no state dict named 'model'"),
    )
    for path, words in cases:
        with pytest.raises(InputError, match=words):
            load_stock(path)


def test_files_that_do_not_fit_are_told(
    published: tuple[str, SAM2VideoPredictor, Path], tmp_path: Path
) -> None:
    _, model, _ = published
    tensors = dict(model.state_dict())
    file = tmp_path / "x.pt"
    for change, words in (
        ({"no_mem_embed": None}, "'no_mem_embed' is missing"),
        ({"stranger": torch.zeros(1)}, "'stranger' has no place"),
        ({"no_mem_embed": torch.zeros(1, 1, 8)}, r"has shape \[1, 1, 8\]; expected \[1, 1, 256\]"),
        (
            {"image_encoder.trunk.blocks.0.attn.proj.weight": torch.zeros(64, 64)},
            "expected SAM-2's tiny",
        ),
    ):
        changed = {k: v for k, v in (tensors | change).items() if v is not None}
        torch.save({"model": changed}, file)
        with pytest.raises(InputError, match=words):
            load_stock(file)
        file.unlink()


class Payload:
    """Runs when a careless reader unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("ran"),))


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload()}, tmp_path / "a.pt")
    with pytest.raises(
        InputError, match=r"not readable as weights \(no archive of tensors alone\)$"
    ):
        load_stock(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
