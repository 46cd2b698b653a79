# SPDX-License-Identifier: Apache-2.0
"""What a run tells: one line of JSON a step, TensorBoard, a progress bar, and the loss as a picture.

`metrics.jsonl` is the truth; the rest is drawn from it. After an interruption it is cut back to the checkpoint, so
that it reads like the journal of an uninterrupted run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sa2va_model.errors import InputError

LINES = "metrics.jsonl"


class Journal:
    """The journal of one run, on the main process; on the others it does nothing.

    Args:
        start: steps that are done already; later lines are dropped.
        total: steps of the run; None = not known.
        trackers: names of accelerate's.
    """

    def __init__(
        self,
        run: Path,
        start: int,
        total: int | None,
        *,
        active: bool = True,
        trackers: Sequence[str] = ("tensorboard",),
    ) -> None:
        self._active = active
        if not active:
            return
        self._file = run / LINES
        kept = [row for row in read_journal(run) if row["step"] <= start]
        fresh = self._file.with_suffix(".new")
        fresh.write_text("".join(json_line(row) for row in kept), encoding="utf-8")
        fresh.replace(self._file)
        self._lines = self._file.open("a", encoding="utf-8")
        self._trackers = open_trackers(trackers, run, start)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("training", total=total, completed=start, figures="")
        self._bar.start()

    def step(self, row: Mapping[str, Any]) -> None:
        """Writes the figures of one step (`step` is one of them) at once to disk; what is not finite as null."""
        if not self._active:
            return
        self._lines.write(json_line(row))
        self._lines.flush()
        finite = {k: v for k, v in row.items() if k != "step" and math.isfinite(v)}
        for tracker in self._trackers:
            tracker.log(finite, step=row["step"])
        shown = "  ".join(
            f"{name} {row[name]:.3f}" for name in ("loss", "iou", "seconds") if name in row
        )
        self._bar.update(self._task, completed=row["step"], figures=shown)

    def picture(self, name: str, rgb: np.ndarray | None, step: int) -> None:
        """A picture uint8 [H, W, 3] for those trackers that take pictures; None = there is none."""
        if not self._active or rgb is None:
            return
        for tracker in self._trackers:
            if hasattr(tracker, "log_images"):
                tracker.log_images({name: rgb[None]}, step=step, **_layout(tracker))

    def __enter__(self) -> Journal:
        """Use as `with Journal(...) as journal`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close files and bar, whatever happened."""
        if self._active:
            self._bar.stop()
            for tracker in self._trackers:
                tracker.finish()
            self._lines.close()


def open_trackers(names: Sequence[str], run: Path, start: int) -> list[Any]:
    """accelerate's trackers for a run.

    Raises:
        InputError: one of them is not installed, or cannot be reached.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    found: list[Any] = []
    for name in names:
        try:
            if name == "tensorboard":
                tracker = LOGGER_TYPE_TO_CLASS[name]("tensorboard", run, purge_step=start + 1)
            elif name == "wandb":
                tracker = LOGGER_TYPE_TO_CLASS[name]("sa2va", dir=str(run), name=run.name)
            else:
                tracker = LOGGER_TYPE_TO_CLASS[name]("sa2va", logging_dir=run, run_name=run.name)
            if hasattr(tracker, "start"):
                tracker.start()
        except Exception as error:  # whatever a service raises that is not there
            raise InputError(
                f"trackers: {name} cannot be used ({type(error).__name__}: {error}); expected it to be "
                f"installed (pip install {name}) and reachable"
            ) from error
        found.append(tracker)
    return found


def _layout(tracker: Any) -> dict[str, Any]:
    """TensorBoard has to be told that channels come last."""
    return {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}


def json_line(row: Mapping[str, Any]) -> str:
    """A line of the journal; numbers that are not finite are null, as JSON has none."""
    finite = {
        k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in row.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def read_journal(run: Path) -> list[dict[str, Any]]:
    """The steps of a run in order; a last line that was cut off is left out."""
    file = run / LINES
    if not file.is_file():
        return []
    rows: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def draw_curves(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    names: Sequence[str] = ("loss", "text", "mask", "dice", "iou", "kept"),
) -> None:
    """`loss.png`: every figure in its own strip, raw values pale and a running mean on top."""
    rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
    names = [name for name in names if any(name in row for row in rows)]
    width, height, left, gap = 900, 170, 70, 26
    canvas = np.full((len(names) * height + gap, width, 3), 255, np.uint8)
    for n, name in enumerate(names):
        points = [(row["step"], row[name]) for row in rows if name in row]
        top = n * height + gap
        _strip(canvas, name, np.array(points, float), (left, top, width - 20, top + height - 40))
    cv2.imwrite(str(path), canvas)


def _strip(
    canvas: np.ndarray, name: str, points: np.ndarray, box: tuple[int, int, int, int]
) -> None:
    """One curve with its range; colours are BGR."""
    x0, y0, x1, y1 = box
    font, grey = cv2.FONT_HERSHEY_SIMPLEX, (110, 110, 110)
    low, high = float(points[:, 1].min()), float(points[:, 1].max())
    high = high if high > low else low + 1e-6
    cv2.rectangle(canvas, (x0, y0), (x1, y1), (200, 200, 200), 1)
    steps = points[:, 0]
    span = max(float(steps[-1] - steps[0]), 1.0)

    def place(values: np.ndarray) -> np.ndarray:
        x = x0 + (steps - steps[0]) / span * (x1 - x0)
        y = y1 - (values - low) / (high - low) * (y1 - y0)
        return np.stack([x, y], 1).round().astype(np.int32)[:, None]

    cv2.polylines(canvas, [place(points[:, 1])], False, (230, 205, 170), 1, cv2.LINE_AA)
    reach = max(1, len(points) // 25)
    padded = np.pad(points[:, 1], (reach, reach), mode="edge")
    kernel = np.ones(2 * reach + 1) / (2 * reach + 1)
    smooth = np.convolve(padded, kernel, mode="valid")
    cv2.polylines(canvas, [place(smooth)], False, (160, 70, 10), 2, cv2.LINE_AA)
    cv2.putText(canvas, name, (x0, y0 - 7), font, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    for value, y in ((high, y0 + 10), (low, y1)):
        cv2.putText(canvas, f"{value:.3g}", (6, y), font, 0.42, grey, 1, cv2.LINE_AA)
    cv2.putText(canvas, f"{int(steps[0])}", (x0, y1 + 15), font, 0.4, grey, 1, cv2.LINE_AA)
    cv2.putText(canvas, f"{int(steps[-1])}", (x1 - 40, y1 + 15), font, 0.4, grey, 1, cv2.LINE_AA)
