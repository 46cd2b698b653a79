# SPDX-License-Identifier: Apache-2.0
"""Every task of the paper's Table 1 through its own method, on nano models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.registry import nano_names
from sa2va_model.regions import Region
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation import clip as clips
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import nano_model

CAPTION = "<p> A red mug </p> [SEG] stands on <p> the table </p> [SEG]."


def picture(seed: int = 0, height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Script:
    """In place of the output layer: writes one text, whatever the states are."""

    def __init__(self, model: Sa2VA, text: str) -> None:
        end = model.mllm.template.stop_words[0]
        self._ids = model.mllm.tokenizer.encode(text + end, add_special_tokens=False)
        self._size = len(model.mllm.tokenizer)
        self._written = 0

    def __call__(self, states: Tensor) -> Tensor:
        logits = torch.zeros(len(states), self._size)
        for row in logits:
            row[self._ids[self._written]] = 1.0
            self._written = (self._written + 1) % len(self._ids)
        return logits


@pytest.fixture
def model() -> Sa2VA:
    return nano_model()


@pytest.fixture
def write(model: Sa2VA) -> Callable[[str], None]:
    """Has the model write a text, in answer to every question from now on."""

    def script(text: str) -> None:
        model.mllm.generator._head = Script(model, text)
        model.config = replace(model.config, max_new_tokens=400)

    return script


@pytest.fixture
def sent(model: Sa2VA, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every prompt that was sent, as text."""
    texts: list[str] = []
    original = model.mllm.prompt_ids

    def spy(user: str, history: str = "") -> list[int]:
        ids = original(user, history)
        texts.append(model.mllm.tokenizer.decode(ids))
        return ids

    monkeypatch.setattr(model.mllm, "prompt_ids", spy)
    return texts


@pytest.fixture
def looks(model: Sa2VA) -> Iterator[list[int]]:
    """How often the vision model ran."""
    calls: list[int] = []
    hook = model.mllm.vision_model.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def test_image_chat(model: Sa2VA, write) -> None:
    write("A mug.")
    answer = model.chat_image(picture(), "What is it?")
    assert (answer.text, answer.found, answer.phrases) == ("A mug.", False, ())
    assert answer.masks.shape == (0, 1, 30, 40)
    assert answer.embeddings.numel() == 0
    assert answer.scores.size == 0


def test_chat_without_an_image(model: Sa2VA, write, sent) -> None:
    write("Hello.")
    answer = model.ask([], "Hi")
    assert (answer.text, answer.masks.size, answer.keyframes) == ("Hello.", 0, ())
    assert prompts.IMAGE_TOKEN not in sent[0]


def test_video_chat_and_caption(model: Sa2VA, write, sent) -> None:
    write("It falls.")
    frames = [picture(i) for i in range(4)]
    choice = KeyframeChoice("uniform", 3)
    assert model.chat_video(frames, "What happens?", keyframes=choice).keyframes == (0, 1, 3)
    answer = model.caption_video(frames)
    assert answer.text == "It falls."
    assert "Please describe the video" in sent[-1]
    per_frame = model.mllm.tokens_per_tile
    assert sent[0].count(prompts.IMAGE_TOKEN) == 3 * per_frame
    assert sent[0].count(prompts.IMAGE_END + "\n" + prompts.IMAGE_START) == 2


def test_grounded_caption(model: Sa2VA, write) -> None:
    write(CAPTION)
    answer = model.caption_grounded(picture())
    assert answer.text == "A red mug stands on the table."
    assert [answer.text[p.begin : p.end] for p in answer.phrases] == ["A red mug", "the table"]
    assert [t.phrase.text for t in answer.targets if t.phrase] == ["A red mug", "the table"]
    assert answer.masks.shape == (2, 1, 30, 40)
    assert answer.embeddings.shape == (2, model.config.sam2.hidden_dim)
    assert answer.scores.shape == (2, 1)
    for k, target in enumerate(answer.targets):
        assert np.array_equal(target.masks[0], answer.masks[k, 0])
        box = target.boxes[0]
        if box is not None:
            x0, y0, x1, y1 = box
            assert target.masks[0][y0:y1, x0:x1].sum() == target.masks[0].sum()


def test_several_turns(model: Sa2VA, write, sent, looks) -> None:
    """Later questions hold the turns before them, the image once, in the first; nothing is seen or read again."""
    image = picture()
    write("Sure, [SEG].")
    first = model.chat_image(image, "Where is {the} mug?")
    write("On the table.")
    second = model.chat_image(image, "And where is that?", history=[first.turn])
    assert first.turn.answer == "Sure, [SEG]."
    assert (second.text, second.found) == ("On the table.", False), "old [SEG]s are not answered"
    third = model.chat_image(image, "Sure?", history=[first.turn, second.turn])
    block = prompts.image_block(model.mllm.tokens_per_tile)
    user = model.mllm.template.instruction
    assert sent[2] == (
        user.format(input=f"{block}\nWhere is {{the}} mug?")
        + "Sure, [SEG].<|im_end|>\n"
        + user.format(input="And where is that?")
        + "On the table.<|im_end|>\n"
        + user.format(input="Sure?")
    )
    assert third.text == "On the table."
    assert len(looks) == 1


def test_referring_segmentation(model: Sa2VA) -> None:
    seen = model.segment(picture(), "the red mug")
    assert seen.found
    assert seen.masks.shape == (1, 30, 40)
    assert seen.scores.shape == (1,)
    assert seen.embeddings is not None
    assert seen.embeddings.shape == (1, model.config.sam2.hidden_dim)
    assert len(seen.boxes) == 1


def test_nothing_to_point_at_is_a_result() -> None:
    blind = nano_model(answers=False)
    seen = blind.segment(picture(), "the red mug")
    assert (seen.found, seen.masks.shape, seen.boxes) == (False, (0, 30, 40), ())
    clip = blind.segment_video([picture(), picture(1)], "the red mug")
    assert (clip.found, clip.masks.shape, clip.targets) == (False, (0, 2, 30, 40), ())


def test_a_sentence_of_which_no_mask_comes_says_so(
    model: Sa2VA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAM-2's object score is negative; "Sure." would be no answer."""
    decode = clips.decode_embeddings

    def unseen(*arguments: object) -> clips.Masks:
        shown = decode(*arguments)  # type: ignore[arg-type]
        return replace(shown, visible=np.zeros_like(shown.visible))

    monkeypatch.setattr(clips, "decode_embeddings", unseen)
    seen = model.segment(picture(), "the red mug")
    assert not seen.found
    assert seen.text == "The words point at something, but no mask comes of it."


def test_many_expressions_are_each_alone(model: Sa2VA, looks) -> None:
    image, words = picture(), ["the mug", "a box", "the mug left of the box"]
    alone = [nano_model().segment(image, w) for w in words]
    together = model.segment_many(image, words)
    assert len(looks) == 1
    for one, other in zip(together, alone, strict=True):
        assert one.text == other.text
        assert np.array_equal(one.masks, other.masks)
        assert np.allclose(one.scores, other.scores, atol=1e-5)
        assert torch.allclose(one.embeddings, other.embeddings, atol=1e-5)
    assert model.segment_many(image, []) == []
    with pytest.raises(InputError, match="expected words"):
        model.segment_many(image, ["the mug", " "])


def test_a_second_expression_costs_one_forward(model: Sa2VA, looks) -> None:
    """The image is seen once by each half of the model, and the language model runs once a sentence."""
    encoded: list[int] = []
    read: list[int] = []
    hooks = [
        model.sam2.sam2_model.image_encoder.register_forward_hook(lambda *_: encoded.append(1)),
        model.mllm.language_model.model.register_forward_hook(lambda *_: read.append(1)),
    ]
    known = (model.mllm.seg_id, next(iter(model.mllm.stop_ids)))
    model._book = type(model._book)([known])
    for n, words in enumerate(["the mug", "a box", "the ball"], 1):
        assert model.segment(picture(), words).found
        assert (len(looks), len(encoded), len(read)) == (1, 1, n)
    model.forget()
    model._book = type(model._book)([known])
    model.segment(picture(), "the mug")
    assert (len(looks), len(encoded)) == (2, 2), "after weights were changed all is seen anew"
    for hook in hooks:
        hook.remove()


def test_without_exactness_a_known_answer_is_taken(model: Sa2VA) -> None:
    """Also by a model that would have written something else."""
    blind = nano_model(answers=False)
    assert not blind.segment(picture(), "the mug").found
    reply = blind.ground([picture()], "the mug", exact=False)
    assert reply.generated.ids in blind.mllm.answers
    assert (reply.found, reply.generated.forwards) == (True, 1)


@pytest.mark.parametrize("family", nano_names())
def test_many_expressions_in_every_family(family: str) -> None:
    """One sequence for three expressions, and the answers of three conversations; then with the images read before."""
    words = ["the mug", "a box", "the mug left of the box"]
    frames = [picture(0, 32, 48), picture(1, 32, 48)]
    choice = KeyframeChoice("latest", 2)
    alone = [
        nano_model(family=family).ground(frames, w, keyframes=choice).embeddings for w in words
    ]
    model = nano_model(family=family)
    for _ in range(2):
        together = model.ground_many(frames, words, keyframes=choice)
        for one, other in zip(together, alone, strict=True):
            assert one.found
            assert torch.allclose(one.embeddings, other, atol=1e-5)


# Visual prompts.


@pytest.mark.parametrize(
    "region",
    [
        Region(mask=np.pad(np.ones((10, 10), bool), ((10, 10), (15, 15)))),
        Region(box=(20.0, 5.0, 30.0, 15.0)),
        Region(points=((25.0, 10.0),)),
        Region(points=((25.0, 10.0), (3.0, 3.0)), labels=(1, 0)),
    ],
    ids=["mask", "box", "point", "points"],
)
def test_regions_speak_to_both_halves(model: Sa2VA, sent, region: Region) -> None:
    image, cells = picture(), model.config.region_size
    answer = model.describe_regions(image, [region])
    area = region.area(image.shape, cells)
    rows, columns = np.arange(cells) * 30 // cells, np.arange(cells) * 40 // cells
    count = int(area[rows][:, columns].sum())
    assert count > 0
    assert f"region1<vp>{prompts.IMAGE_TOKEN * count}</vp>" in sent[0]
    assert "There are 1 part regions in the picture" in sent[0]
    assert len(answer.keyframes) == 1
    seen = model.segment_region(image, region)
    assert seen.masks.shape[1:] == (30, 40)
    if region.mask is not None:
        common = (seen.masks[0] & region.mask).sum() / (seen.masks[0] | region.mask).sum()
        assert common > 0.8, "SAM-2 keeps a mask at a quarter of its resolution"


def test_regions_are_read_behind_the_image_they_are_on(model: Sa2VA, looks) -> None:
    """Other regions of the same image do not have it read again, and do change the answer's states."""
    image = picture()
    texts = "<image>\nWhat is region1?"
    areas = [Region(points=(p,)).area(image.shape, 2) for p in ((5.0, 5.0), (30.0, 20.0))]
    areas[0][15:] = False
    areas[1][:15] = False
    first, second = (model.reply(texts, [image], regions=[area]) for area in areas)
    fresh = nano_model().reply(texts, [image], regions=[areas[1]])
    assert len(looks) == 1
    assert torch.allclose(second.generated.states, fresh.generated.states, atol=1e-5)
    assert not torch.allclose(first.generated.own[-1], second.generated.own[-1], atol=1e-4)


def test_a_click_is_four_tokens_and_a_small_box_too() -> None:
    shape, cells = (480, 640), 16
    for region in (
        Region(points=((320.0, 240.0),)),
        Region(points=((0.0, 0.0),)),
        Region(points=((639.0, 479.0),)),
        Region(box=(100.0, 100.0, 110.0, 105.0)),
    ):
        area = region.area(shape, cells)
        rows, columns = np.arange(cells) * 480 // cells, np.arange(cells) * 640 // cells
        assert int(area[rows][:, columns].sum()) == 4
    full = Region(box=(0.0, 0.0, 640.0, 480.0)).area(shape, cells)
    assert full.all()


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (lambda: Region(), "0 of mask, box and points"),
        (lambda: Region(box=(0, 0, 5, 5), points=((1, 1),)), "2 of mask, box and points"),
        (lambda: Region(points=((1, 1),), labels=(1, 0)), "2 labels for 1 points"),
    ],
)
def test_a_region_is_one_thing(region, message: str) -> None:
    with pytest.raises(InputError, match=message):
        region()


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region(points=((50.0, 10.0),)), "outside the image"),
        (Region(box=(50.0, 0.0, 60.0, 5.0)), "outside the image"),
        (Region(mask=np.ones((3, 3), bool)), "expected the image's 40x30"),
        (Region(mask=np.zeros((30, 40), bool)), "expected at least one pixel"),
    ],
)
def test_a_region_fits_its_image(model: Sa2VA, region: Region, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.describe_regions(picture(), [region])
    with pytest.raises(InputError, match=message):
        model.segment_region(picture(), region)


def test_regions_are_for_images(model: Sa2VA) -> None:
    with pytest.raises(InputError, match="expected a single image"):
        model.ask([picture(), picture(1)], "What is it?", [Region(points=((1.0, 1.0),))])


# Clips.


def clip_of(count: int) -> list[np.ndarray]:
    return [picture(i) for i in range(count)]


def test_video_segmentation_prompts_keyframes_and_tracks_the_rest(model: Sa2VA) -> None:
    frames = clip_of(6)
    choice = KeyframeChoice("first", 2)
    answer = model.segment_video(frames, "the mug", keyframes=choice)
    assert answer.masks.shape == (1, 6, 30, 40)
    assert answer.keyframes == (0, 1)
    tracker = OnlineTracker(model.sam2, TrackerConfig(max_conditioning=2))
    tracker.add("0", Prompt(embedding=answer.targets[0].embedding), frames=2)
    for t, frame in enumerate(frames):
        logits = tracker.step(model.encode_image(frame))["0"].logits
        expected = images.masks_to_image(logits, 64, 30, 40)[0] > 0
        assert np.array_equal(expected.numpy(), answer.masks[0, t])


def test_every_frame_has_a_mask_wherever_keyframes_are(model: Sa2VA) -> None:
    """Latest keyframes are followed backwards: the frame next to them comes first."""
    frames = clip_of(5)
    answer = model.segment_video(frames, "the mug", keyframes=KeyframeChoice("latest", 1))
    assert answer.keyframes == (4,)
    tracker = OnlineTracker(model.sam2)
    tracker.add("0", Prompt(embedding=answer.targets[0].embedding))
    for t in (4, 3, 2, 1, 0):
        logits = tracker.step(model.encode_image(frames[t]))["0"].logits
        expected = images.masks_to_image(logits, 64, 30, 40)[0] > 0
        assert np.array_equal(expected.numpy(), answer.masks[0, t])


def test_keyframes_alone_need_no_memory(model: Sa2VA) -> None:
    frames = clip_of(3)
    answer = model.segment_video(frames, "the mug", keyframes=KeyframeChoice("first", 3))
    through_memory = model.propagate([*frames, frames[0]], answer.embeddings, 3)
    assert np.array_equal(answer.masks, through_memory[:, :3])


def test_frames_may_differ_in_size(model: Sa2VA) -> None:
    """Both halves squash their images; every mask comes in the size of its own frame."""
    frames = [picture(0, 30, 40), picture(1, 60, 20), picture(2, 8, 100)]
    answer = model.segment_video(frames, "the mug", keyframes=KeyframeChoice("first", 2))
    assert [mask.shape for mask in answer.targets[0].masks] == [(30, 40), (60, 20), (8, 100)]
    assert answer.masks.shape == (1, 3, 30, 40)


def test_an_early_answer_and_a_better_one(model: Sa2VA, sent) -> None:
    frames, choice = clip_of(5), KeyframeChoice("refine", 3)
    early, late = model.ground_stages(frames, "the mug", choice)
    tokens = model.mllm.tokens_per_tile
    assert [text.count(prompts.IMAGE_TOKEN) for text in sent] == [tokens, 3 * tokens]
    assert early.found
    assert torch.equal(
        late.embeddings, model.ground(frames, "the mug", keyframes=choice).embeddings
    )
    assert model.segment_video(frames, "the mug", keyframes=choice).keyframes == (0, 2, 4)


@pytest.mark.parametrize("kind", ["first", "refine"])
def test_several_objects_of_a_clip_together(model: Sa2VA, looks, kind: str) -> None:
    frames, words, choice = clip_of(5), ["the mug", "a box"], KeyframeChoice(kind, 2)
    alone = [nano_model().segment_video(frames, w, keyframes=choice) for w in words]
    together = model.segment_video_many(frames, words, keyframes=choice)
    assert len(looks) == len(choice.stages())
    for one, other in zip(together, alone, strict=True):
        assert one.turn == other.turn
        assert one.keyframes == other.keyframes
        assert (
            np.mean(one.masks != other.masks) < 1e-3
        )  # memories are bfloat16: single bits may flip
    assert model.segment_video_many(frames, []) == []


@pytest.mark.parametrize(
    ("kind", "total", "expected"),
    [
        ("first", 9, (0, 1, 2, 3)),
        ("uniform", 9, (0, 2, 5, 8)),
        ("latest", 9, (5, 6, 7, 8)),
        ("refine", 9, (0, 2, 5, 8)),
        ("uniform", 2, (0, 1)),
        ("latest", 1, (0,)),
    ],
)
def test_keyframes_are_chosen(kind: str, total: int, expected: tuple[int, ...]) -> None:
    assert KeyframeChoice(kind, 4).indices(total) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("last",), "expected one of first, uniform, latest, refine"),
        (("first", 0), "expected 1 or more"),
        (("first", 1, 5), "expected a square number"),
    ],
)
def test_a_wrong_choice_is_refused(values, message: str) -> None:
    with pytest.raises(InputError, match=message):
        KeyframeChoice(*values)


def test_fewer_tokens_for_each_frame(model: Sa2VA, sent) -> None:
    frames = clip_of(2)
    assert model.mllm.tokens_per_tile == 4
    reply = model.ground(frames, "the mug", keyframes=KeyframeChoice("first", 2, tokens=1))
    assert sent[0].count(prompts.IMAGE_TOKEN) == 2
    assert reply.found
    with pytest.raises(InputError, match="expected at most 4"):
        model.ground(frames, "the mug", keyframes=KeyframeChoice("first", 2, tokens=9))


# Other ways to compute the same.


def test_rewritten_blocks_see_the_same(model: Sa2VA) -> None:
    """And they follow weights that were changed."""
    frames, words = clip_of(3), ["the mug", "a box"]
    plain = [model.segment_many(frames[0], words), model.segment_video_many(frames, words)]
    names = set(model.state_dict())
    model.use_profile("float32")
    assert model.segmenter is not model.sam2
    assert set(model.state_dict()) == names
    quick = [model.segment_many(frames[0], words), model.segment_video_many(frames, words)]
    for before, after in zip(plain, quick, strict=True):
        for one, other in zip(before, after, strict=True):
            assert np.mean(one.masks != other.masks) < 1e-2
    with torch.no_grad():
        for network in model.sam2.sam2_model.sam_mask_decoder.output_hypernetworks_mlps:
            network.layers[-1].weight.neg_()
            network.layers[-1].bias.neg_()
    model.forget()
    changed = model.segment(frames[0], "the mug")
    model.use_profile("reference")
    expected = model.segment(frames[0], "the mug")
    assert np.mean(changed.masks != expected.masks) < 1e-2
    assert np.mean(changed.masks != quick[0][0].masks) > 0.5
