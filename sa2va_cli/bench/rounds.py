# SPDX-License-Identifier: Apache-2.0
"""Flows timed in turns, so that whatever else the machine does disturbs all of them alike."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers

from sa2va_cli.bench.flows import FlowResult, official, ours
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.clip import decode_embeddings


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures belong to."""
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif platform.system() == "Linux":
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        name = models[0] if models else name
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


class Rounds:
    """All flows on one model, the same frames and sentences.

    Args:
        expressions: four at least; all are found on the frames.
        clock: "wall" or "cpu".
        masks: otherwise both flows stop at the [SEG] embedding.
    """

    def __init__(
        self,
        model: Sa2VA,
        frames: list[np.ndarray],
        expressions: Sequence[str],
        *,
        clock: str,
        masks: bool = True,
    ) -> None:
        self._masks = masks
        self._model, self._frames, self._said = model, frames, list(expressions[:4])
        self._choice = KeyframeChoice("first", len(frames))
        self._now = time.perf_counter if clock == "wall" else time.process_time
        self._outcomes: dict[str, list[FlowResult]] = {}

    def measure(self, repeats: int, budget: float) -> dict[str, Any]:
        """Seconds of every flow: median, least and number of rounds; and of the stages of ours.

        One round before those that count, unless it alone takes the budget.
        """
        begin, rounds = time.perf_counter(), [self._round()]
        while len(rounds) <= repeats and time.perf_counter() - begin < budget:
            rounds.append(self._round())
        if len(rounds) > 1:
            del rounds[0]
        values: dict[str, Any] = {}
        for key in rounds[0]:
            times = [one[key] for one in rounds]
            values[key] = {"median": median(times), "least": min(times), "rounds": len(times)}
        stages = {key: value for key, value in values.items() if key.startswith("stage ")}
        for key in stages:
            del values[key]
        values["stages"] = {k.removeprefix("stage "): v["median"] for k, v in stages.items()}
        return values

    def _round(self) -> dict[str, float]:
        model, said = self._model, self._said
        times: dict[str, float] = {}
        times["official"] = self._time("official", lambda: [self._theirs(said[0])])
        model.forget()
        times["first_cold"] = self._time("first_cold", lambda: self._ours(said[:1]))
        self._ours(said)  # the model's own way to answer is known from now on
        model.forget_frames()
        times["first"] = self._time("first", lambda: self._ours(said[:1]))
        times["second"] = self._time("second", lambda: self._ours(said[1:2]))
        times["two"] = self._time("two", lambda: self._ours(said[2:3]) + self._ours(said[3:4]))
        times["four"] = self._time("four", lambda: self._ours(said))
        model.forget_frames()
        times["four_new"] = self._time("four_new", lambda: self._ours(said))
        return times | self._stages()

    def _theirs(self, expression: str) -> FlowResult:
        return official(self._model, self._frames, expression, masks=self._masks)

    def _ours(self, expressions: Sequence[str]) -> list[FlowResult]:
        return ours(self._model, self._frames, expressions, masks=self._masks)

    @torch.inference_mode()
    def _stages(self) -> dict[str, float]:
        """The parts of ours."""
        model, frames, said = self._model, self._frames, self._said
        embeddings = model.ground(frames, said[0], keyframes=self._choice).embeddings
        parts: dict[str, Callable[[], Any]] = {
            "vision model, all frames": lambda: model.mllm.look(frames, clip=len(frames) > 1),
            "language model, another sentence": lambda: model.ground(
                frames, said[1], keyframes=self._choice
            ),
        }
        if self._masks:
            features = model.encode_image(frames[0])
            parts["SAM-2, encode one frame"] = lambda: model.encode_image(frames[0])
            parts["SAM-2, decode one mask"] = lambda: decode_embeddings(
                model.segmenter, features, embeddings, frames[0]
            )
        return {f"stage {name}": self._seconds(call) for name, call in parts.items()}

    def _time(self, key: str, call: Callable[[], list[FlowResult]]) -> float:
        found: list[list[FlowResult]] = []
        spent = self._seconds(lambda: found.append(call()))
        self._outcomes[key] = found[0]
        return spent

    def _seconds(self, call: Callable[[], Any]) -> float:
        self._finish()
        start = self._now()
        call()
        self._finish()
        return self._now() - start

    def _finish(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)

    def facts(self) -> dict[str, Any]:
        """What was measured."""
        model = self._model
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "dtype": str(model.mllm.dtype).removeprefix("torch."),
            "frames": len(self._frames),
            "visual_tokens": int(
                sum(model.mllm.look(self._frames, clip=len(self._frames) > 1).counts)
            ),
            "expressions": self._said,
            "sam2": getattr(getattr(model.segmenter, "profile", None), "arithmetic", "reference"),
        }

    def compare(self, times: dict[str, Any]) -> dict[str, Any]:
        """Whether both flows found the same, and the ratios that matter."""
        [theirs], [mine] = self._outcomes["official"], self._outcomes["first"]
        middle = {key: value["median"] for key, value in times.items() if key != "stages"}
        return {
            "answer": self._model.mllm.tokenizer.decode(list(mine.ids)),
            "same_tokens": theirs.ids == mine.ids,
            "masks": list(mine.masks.shape),
            "pixels_that_differ": _differing(theirs.masks, mine.masks),
            "embeddings_differ_by": _distance(theirs.embeddings, mine.embeddings),
            "forwards": mine.forwards,
            "official_forwards": theirs.forwards,
            "official_over_first": middle["official"] / middle["first"],
            "first_over_second": middle["first"] / middle["second"],
            "four_over_two": middle["four"] / middle["two"],
            "four_new_over_two_new": middle["four_new"] / (2 * middle["first"]),
            "four_new_over_first_and_second": middle["four_new"]
            / (middle["first"] + middle["second"]),
        }


def _differing(one: np.ndarray, other: np.ndarray) -> float:
    """Share of pixels; 1 if there are not as many masks."""
    if one.shape != other.shape:
        return 1.0
    return float(np.mean(one != other)) if one.size else 0.0


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference, as a share of the largest number; 1 if there are not as many."""
    if one.shape != other.shape:
        return 1.0
    largest = float((one - other).abs().max()) if one.numel() else 0.0
    return largest / max(float(one.abs().max()), 1e-9) if one.numel() else 0.0
