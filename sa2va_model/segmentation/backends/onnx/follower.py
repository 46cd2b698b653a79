# SPDX-License-Identifier: Apache-2.0
"""A follower for robots on which PyTorch does not fit: clicks and boxes in, masks out, by exported graphs alone.

Needs NumPy, Pillow, OpenCV and ONNX Runtime. SAM-2's own behaviour with the simplest memory gate; states, events and
sentences are the live tracker's, which needs PyTorch.

Letters: N objects, M memory slots, C hidden channels, D memory channels, S image size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sa2va_model.errors import InputError
from sa2va_model.io.guided_filter import guided_masks
from sa2va_model.segmentation.backends.onnx.manifest import SegmenterEntry, read_manifest
from sa2va_model.segmentation.backends.onnx.providers import ProviderOptions, open_session
from sa2va_model.segmentation.backends.onnx.shapes import limits_of, profile_of

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)
UNREAD = np.float32(-30000.0)
UNSEEN = np.float32(-1024.0)
"""Mask logits of an object that is not there, as in SAM-2."""
FOREGROUND, BACKGROUND = 1, 0


@dataclass(frozen=True)
class Followed:
    """What one image shows of one object.

    Attributes:
        mask: bool [H, W].
        quality: predicted IoU, 0..1.
        visible: the object is there.
    """

    mask: np.ndarray
    quality: float
    visible: bool


@dataclass
class _Memory:
    """Of one object: (values, time) of each kept frame, oldest first."""

    recent: deque[tuple[np.ndarray, int]]
    recent_pointers: deque[tuple[np.ndarray, int]]
    prompted: list[tuple[np.ndarray, np.ndarray, int]] = field(default_factory=list)
    now: int = 0


class OnnxFollower:
    """Follows clicked objects from image to image.

    Args:
        folder: written by `sa2va export`, of one SAM-2.
        image_size: which of the exported sizes; None = the smallest.
        min_quality: predicted IoU below which a frame is not remembered; 0 = every frame is, as in SAM-2.
        max_conditioning: prompted frames that are kept of an object; the first one always is.

    Raises:
        InputError: as `read_manifest` and `open_session`.
    """

    def __init__(
        self,
        folder: str | Path,
        image_size: int | None = None,
        options: ProviderOptions | None = None,
        *,
        min_quality: float = 0.0,
        max_conditioning: int = 8,
    ) -> None:
        path = Path(folder)
        entry = _choose(path, image_size)
        self._config = config = entry.config
        self.image_size = entry.image_size
        self._least, self._most = min_quality, max_conditioning
        limits = limits_of(config, max_conditioning)
        given = options or ProviderOptions()
        self._graphs = {
            name: open_session(path / graph.file, given, profile_of(graph, limits))
            for name, graph in entry.graphs.items()
        }
        with np.load(path / entry.constants) as stored:
            self._constants = {name: stored[name] for name in stored.files}
        self._objects: dict[str, _Memory] = {}
        self._prompts: dict[str, np.ndarray] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """The objects, oldest first."""
        return tuple(dict.fromkeys((*self._objects, *self._prompts)))

    def add(
        self,
        object_id: str,
        *,
        box: tuple[float, float, float, float] | None = None,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        size: tuple[int, int],
    ) -> None:
        """Adds an object, or corrects one, on the next image.

        Args:
            box: x0, y0, x1, y1 in pixels of the image.
            points: [P, 2] pixels, with labels [P]: 1 on the object (default), 0 beside it.
            size: height and width of the image.

        Raises:
            InputError: neither or both are given, or not as many labels as points.
        """
        if (box is None) == (points is None):
            raise InputError(f"object {object_id!r}: expected a box or points, and not both")
        if box is not None:
            where, kind = np.array(box, np.float32).reshape(2, 2), np.array([2, 3])
        else:
            where = np.asarray(points, np.float32).reshape(-1, 2)
            kind = np.full(len(where), FOREGROUND) if labels is None else np.asarray(labels)
        if len(kind) != len(where) or not len(where):
            raise InputError(
                f"object {object_id!r}: {len(kind)} labels for {len(where)} points; expected as many, one or more"
            )
        fractions = where / np.array(size[::-1], np.float32)
        self._prompts[object_id] = np.concatenate([fractions, kind[:, None]], 1).astype(np.float32)

    def remove(self, object_id: str) -> None:
        """Forgets an object. Unknown ids are ignored."""
        self._objects.pop(object_id, None)
        self._prompts.pop(object_id, None)

    def step(self, image: np.ndarray) -> dict[str, Followed]:
        """One image, uint8 [H, W, 3]; what it shows of each object."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"image: {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3]")
        features = self._run("image", {"pixels": self._pixels(image)})
        out: dict[str, Followed] = {}
        prompts, self._prompts = self._prompts, {}
        for name, prompt in prompts.items():
            out[name] = self._prompted(name, prompt, features, image)
        tracked = [name for name in self._objects if name not in prompts]
        if tracked:
            out.update(self._tracked(tracked, features, image))
        return {name: out[name] for name in self._objects if name in out}

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        size = self.image_size
        small = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
        mean, std = MEAN, STD
        if self._config["rounded_normalisation"]:
            mean, std = bfloat16(MEAN), bfloat16(STD)
        if self._config["half_normalisation"]:
            mean = std = np.full(3, 0.5, np.float32)
        pixels = (np.asarray(small, np.float32) / 255 - mean) / std
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])

    def _prompted(
        self, name: str, prompt: np.ndarray, features: _Tensors, image: np.ndarray
    ) -> Followed:
        plain = features["top"] + self._constants["no_memory"][:, None, None]
        clicks = len(prompt)
        sparse = np.concatenate([self._clicks(prompt), self._constants["no_click"][None]])
        answer = self._decode(features, plain, sparse, self._config["multimask"] and clicks <= 1)
        memory = self._objects.get(name)
        if memory is None:
            recent = self._config["memory_frames"] - 1, self._config["max_pointers"] - 1
            memory = _Memory(deque(maxlen=recent[0]), deque(maxlen=recent[1]))
            self._objects[name] = memory
        spatial = self._remember(features, answer, hard=self._config["binarize_prompted"])[0]
        if len(memory.prompted) >= self._most:
            memory.prompted.pop(min(1, self._most - 1))
        memory.prompted.append((spatial, answer.pointers[0], memory.now))
        memory.now += 1
        return self._shown(answer, 0, image)

    def _tracked(
        self, names: list[str], features: _Tensors, image: np.ndarray
    ) -> dict[str, Followed]:
        conditioned = self._attend([self._objects[name] for name in names], features["top"])
        nothing = np.repeat(self._constants["no_click"][None], 2, 0)
        answer = self._decode(features, conditioned, nothing, self._config["multimask"])
        kept = [row for row in range(len(names)) if self._admitted(answer, row)]
        if kept:
            spatial = self._remember(features, answer.rows(kept))
            for place, row in enumerate(kept):
                memory = self._objects[names[row]]
                memory.recent.append((spatial[place], memory.now))
                memory.recent_pointers.append((answer.pointers[row], memory.now))
                memory.now += 1
        return {name: self._shown(answer, row, image) for row, name in enumerate(names)}

    def _admitted(self, answer: _Answer, row: int) -> bool:
        if not self._least:
            return True
        seen = answer.scores[row, 0] > 0 or not self._config["object_score_gate"]
        good = answer.qualities[row] >= self._least
        return bool(seen and good and (answer.logits[row] > 0).any())

    def _attend(self, memories: list[_Memory], top: np.ndarray) -> np.ndarray:
        """Image features conditioned on each object's memory, [N, C, h, w]."""
        oldest, wide = self._config["memory_frames"] - 1, self._config["max_pointers"] - 1
        slots, pointers = [], []
        for memory in memories:
            now, attended = memory.now, self._config["attended_prompts"] or self._most
            first, rest = memory.prompted[-attended:], memory.prompted[:-attended]
            # Prompted frames beyond the newest count as recent ones.
            passing = [(s, now - t - 1) for s, _, t in rest if now - t <= oldest]
            passing += [(s, now - t - 1) for s, t in memory.recent if now - t <= oldest]
            slots.append([(s, oldest) for s, _, _ in first] + passing)
            known = [(p, now - t) for _, p, t in first]
            known += [(p, now - t) for _, p, t in rest if now - t <= wide]
            known += [(p, now - t) for p, t in memory.recent_pointers if now - t <= wide]
            pointers.append(known)
        values, code, slot_bias = _stack(slots)
        pointer, age, pointer_bias = _stack(pointers)
        given = {
            "top": top,
            "memory": values,
            "code": code.astype(np.int64),
            "slot_bias": slot_bias,
            "pointers": pointer,
            "age": (age / wide).astype(np.float32),
            "pointer_bias": pointer_bias,
        }
        return self._run("memory_attention", given)["conditioned"]

    def _decode(
        self, features: _Tensors, conditioned: np.ndarray, sparse: np.ndarray, multimask: bool
    ) -> _Answer:
        constants, count = self._constants, len(conditioned)
        tokens = np.concatenate([constants["decoder_tokens"], sparse])
        given = {
            "conditioned": conditioned + constants["no_mask"][:, None, None],
            "fine": features["fine"],
            "middle": features["middle"],
            "tokens": np.repeat(tokens[None], count, 0),
        }
        out = self._run("decoder", given)
        masks, ious, pointers = out["masks"], out["ious"], out["pointers"]
        rows = np.arange(count)
        best = 1 + ious[:, 1:].argmax(1) if multimask else np.zeros(count, np.int64)
        taken = best
        if not multimask and self._config["stability_fallback"]:
            taken = np.where(_stable(masks[:, 0]), 0, 1 + ious[:, 1:].argmax(1))
        logits, seen = masks[rows, taken], out["scores"] > 0
        if self._config["object_score_gate"]:
            logits = np.where(seen[:, :, None], logits, UNSEEN)
        pointer = np.where(seen, pointers[rows, best], constants["no_pointer"])
        return _Answer(logits, ious[rows, taken], pointer, out["scores"])

    def _remember(self, features: _Tensors, answer: _Answer, *, hard: bool = False) -> np.ndarray:
        given = {
            "top": features["top"],
            "logits": np.ascontiguousarray(answer.logits[:, None]),
            "hidden": (answer.scores <= 0).astype(np.float32),
            "hard": np.array([hard], np.float32),
        }
        # SAM-2 keeps spatial memories in bfloat16.
        return bfloat16(self._run("memory_encoder", given)["memory"])

    def _clicks(self, prompt: np.ndarray) -> np.ndarray:
        """Fractions and labels [P, 3] to tokens [P, C], as SAM-2's prompt encoder."""
        size, constants = self.image_size, self._constants
        where = (prompt[:, :2] * size + 0.5) / size
        turns = 2 * np.pi * ((2 * where - 1) @ constants["click_matrix"])
        codes = np.concatenate([np.sin(turns), np.cos(turns)], 1)
        found: np.ndarray = codes + constants["click_labels"][prompt[:, 2].astype(int)]
        return found.astype(np.float32)

    def _shown(self, answer: _Answer, row: int, image: np.ndarray) -> Followed:
        if radius := self._config.get("guided_radius", 0):  # not in graphs of earlier versions
            mask = guided_masks(answer.logits[row : row + 1], image, radius)[0]
        else:
            square = cv2.resize(answer.logits[row], (self.image_size,) * 2)
            mask = cv2.resize(square, image.shape[1::-1]) > 0
        return Followed(mask, float(answer.qualities[row]), bool(answer.scores[row, 0] > 0))

    def _run(self, graph: str, given: Mapping[str, np.ndarray]) -> _Tensors:
        session = self._graphs[graph]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(given)), strict=True))


_Tensors = dict[str, Any]


@dataclass(frozen=True)
class _Answer:
    """Of N objects: logits [N, 4h, 4w], qualities [N], pointers [N, C], object scores [N, 1]."""

    logits: np.ndarray
    qualities: np.ndarray
    pointers: np.ndarray
    scores: np.ndarray

    def rows(self, kept: list[int]) -> _Answer:
        """Some of them."""
        return _Answer(*(part[kept] for part in vars(self).values()))


def bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 values rounded to bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def _stack(
    given: list[list[tuple[np.ndarray, int]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slots of N objects, filled up to the most: values [N, M, ...], numbers [N, M], biases [N, M]."""
    most = max(map(len, given))
    shape = given[0][0][0].shape
    values = np.zeros((len(given), most, *shape), np.float32)
    numbers = np.zeros((len(given), most), np.int64)
    bias = np.full((len(given), most), UNREAD, np.float32)
    for row, slots in enumerate(given):
        for place, (value, number) in enumerate(slots):
            values[row, place], numbers[row, place], bias[row, place] = value, number, 0
    return values, numbers, bias


def _stable(logits: np.ndarray) -> np.ndarray:
    """The single answer hardly changes with its threshold (SAM-2's stability score), bool [N]."""
    inner = (logits > 0.05).sum((1, 2))
    outer = (logits > -0.05).sum((1, 2))
    return np.where(outer > 0, inner / np.maximum(outer, 1), 1.0) >= 0.98


def _choose(path: Path, image_size: int | None) -> SegmenterEntry:
    manifest = read_manifest(path)
    if len({entry.fingerprint for entry in manifest.segmenters}) > 1:
        raise InputError(f"{path}: holds graphs of several models; expected those of one")
    if image_size is None:
        return min(manifest.segmenters, key=lambda entry: entry.image_size)
    return manifest.find(path, manifest.segmenters[0].fingerprint, image_size)
