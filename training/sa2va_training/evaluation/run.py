# SPDX-License-Identifier: Apache-2.0
"""Goes through a dataset, one line of JSON for each question, so that a stopped run goes on where it was.

Processes that share a folder write `records-IofN.jsonl` each; all are read, so that a run goes on with another number.
The folder of a run: `records.jsonl` (first line: what was measured), `cells/` (pictures of the sheet), and where
wanted `Annotations/<video>/<expression>/<frame>.png`, the layout that the benchmarks' servers take. At the end
`results.json` and `qualitative.png`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import heapq
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.file_names import inside
from sa2va_model.io.folder_lock import FolderLock
from sa2va_training.data.sample import Dataset, Sample
from sa2va_training.evaluation.facts import score_of
from sa2va_training.evaluation.predictor import Predictor
from sa2va_training.evaluation.scoring import Scored, score_sample
from sa2va_training.evaluation.sheet import draw_cell, write_sheet

Json = dict[str, Any]
RECORDS, SHEET, CELLS, LOOKS = "records.jsonl", "qualitative.png", "cells", "looks"
SHOWN = 16  # cells of the sheet, about
_SLOTS = 8  # kept of each kind, spread over the dataset
KEPT, WORST = 200, 24
"""Pictures of questions that are kept for pages: about so many from all over, and at least so many of the worst."""
_ORDER = ("refer", "track", "grounded", "caption", "answer")


@dataclass(frozen=True)
class EvaluationRun:
    """One dataset and one model.

    Attributes:
        folder: where everything is kept.
        head: what makes records comparable: model, dataset, options. A folder with another head is refused.
        keep_masks, live: see `score_sample`.
        export: write predicted masks of clips as PNG files.
        shard: (i, n): this process measures every n-th sample, beginning with the i-th; others share the folder.
    """

    dataset: Dataset
    folder: Path
    head: Json
    keep_masks: bool = False
    live: float = 0.0
    export: bool = False
    shard: tuple[int, int] = (0, 1)
    _worst: list[float] = field(default_factory=list)

    @property
    def records_file(self) -> Path:
        """The record of every question of this process."""
        number, count = self.shard
        return self.folder / (RECORDS if count == 1 else f"records-{number}of{count}.jsonl")

    @property
    def share(self) -> range:
        """The samples that this process measures."""
        return range(self.shard[0], len(self.dataset), self.shard[1])

    def lock(self) -> FolderLock:
        """Held while this share is measured: two processes with one file of records would count twice."""
        return FolderLock(self.folder, f".{self.records_file.stem}.lock")

    def start(self, *, afresh: bool = False) -> set[str]:
        """Open the folder; returns the ids of the samples that are done, by whichever process.

        Args:
            afresh: forget what was measured before; each of several processes forgets its own share.

        Raises:
            InputError: the folder holds another run, or cannot be written.
        """
        head = json.loads(json.dumps(self.head))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            theirs = [n for n in (SHEET, CELLS, "results.json") if (self.folder / n).exists()]
            if theirs and not any(map(_is_ours, self.folder.glob("records*.jsonl"))):
                raise InputError(
                    f"{self.folder}: holds {theirs[0]} and no earlier run, expected a new or empty folder"
                )
            if self.records_file.exists() and not _is_ours(self.records_file):
                raise InputError(
                    f"{self.records_file}: is of no run, expected a new or empty folder"
                )
            with FolderLock(self.folder, f".{self.records_file.stem}.lock"):
                pass  # nobody measures this share now
            for name in (CELLS, LOOKS):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            if afresh:
                self._forget()
            if afresh or not self.records_file.exists():
                self.records_file.write_text(json.dumps({"head": head}) + "\n", encoding="utf-8")
            if afresh:
                return set()
        except OSError as error:
            raise InputError(
                f"{self.folder}: {error.strerror}, expected a folder that can be written"
            ) from error
        whole = _whole_lines(self.records_file)
        found = whole[0].get("head") if whole else None
        if found != head:
            differs = [
                key for key in {**head, **(found or {})} if (found or {}).get(key) != head.get(key)
            ]
            raise InputError(
                f"{self.records_file}: is of another run (other {', '.join(sorted(differs))}), "
                "expected an empty folder (-o), or --restart to measure again"
            )
        return {
            line["done"] for lines in self._alike().values() for line in lines if "done" in line
        }

    def left(self, done: set[str]) -> int:
        """How many samples of this share are not done."""
        return (
            sum(self.dataset[index].id not in done for index in self.share)
            if done
            else len(self.share)
        )

    def _forget(self) -> None:
        """Pictures, and records of runs with another number of processes; others may be at work in the folder."""
        theirs = f"of{self.shard[1]}.jsonl"
        records = [p for p in self.folder.glob("records*.jsonl") if not p.name.endswith(theirs)]
        pictures = [p for name in (CELLS, LOOKS) for p in (self.folder / name).iterdir()]
        for path in (*records, *pictures):
            path.unlink(missing_ok=True)

    def _alike(self) -> dict[Path, list[Json]]:
        """The lines of all processes' files that are of this run, without the heads."""
        head, found = json.loads(json.dumps(self.head)), {}
        for path in sorted(self.folder.glob("records*.jsonl")):
            lines = _whole_lines(path, repair=path == self.records_file)
            if lines and lines[0].get("head") == head:
                found[path] = lines[1:]
        return found

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Held from reading all records to writing what they say: whoever ends last writes last, and knows all."""
        with (self.folder / ".report.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def go(
        self, predictor: Predictor | Callable[[Sample], Predictor], done: set[str]
    ) -> Iterator[Sample]:
        """Measure what is not done yet; yields each sample after it is measured and kept.

        Args:
            predictor: of all samples, or what gives that of each.
        """
        with self.lock(), self.records_file.open("a", encoding="utf-8") as file:
            for index in self.share:
                sample = self.dataset[index]
                if sample.id in done:
                    continue
                asked = predictor(sample) if callable(predictor) else predictor
                scored = list(
                    score_sample(sample, asked, keep_masks=self.keep_masks, live=self.live)
                )
                if self.export:
                    for item in scored:
                        self._export(sample, item)
                self._draw(index, scored)
                self._keep(index, scored)
                lines = [item.record for item in scored]
                # a sample's lines count only together with the mark after them
                end = {"done": sample.id, "at": index}
                text = "".join(json.dumps(line) + "\n" for line in [*lines, end])
                file.write(text)
                file.flush()
                yield sample

    def _draw(self, index: int, scored: list[Scored]) -> None:
        """Keep pictures of each kind of question, from all parts of the dataset."""
        slot = index * _SLOTS // len(self.dataset)
        for item in scored:
            task, kind = item.record["task"], str(item.record["kind"])
            name = f"{_ORDER.index(task)}-{quote(kind, safe='')}-{slot}.png"
            path = self.folder / CELLS / name
            if not path.exists():
                _write_png(path, draw_cell(item.look)[:, :, ::-1])

    def _keep(self, index: int, scored: list[Scored]) -> None:
        """Keep pictures for pages: of some questions from everywhere, and of those that went worst so far."""
        spread = index % max(1, len(self.dataset) // KEPT) == 0
        for item in scored:
            score = score_of(item.record)
            among = score is not None and (len(self._worst) < WORST or score < -self._worst[0])
            if among and score is not None:
                (heapq.heappush if len(self._worst) < WORST else heapq.heapreplace)(
                    self._worst, -score
                )
            if spread or among:
                pixels = draw_cell(item.look)[:, :, ::-1]
                cv2.imwrite(str(self.folder / look_file(item.record)), np.ascontiguousarray(pixels))

    def _cells(self) -> list[np.ndarray]:
        """About `SHOWN` of the pictures, as many of each kind."""
        kinds: dict[str, list[Path]] = {}
        for path in sorted((self.folder / CELLS).glob("*.png")):
            kinds.setdefault(path.stem.rpartition("-")[0], []).append(path)
        each = max(1, SHOWN // max(len(kinds), 1))
        cells = []
        for number, paths in enumerate(kinds.values()):
            spread = set(np.linspace(0, len(paths) - 1, each).astype(int).tolist())
            for i in sorted(spread) if each > 1 else [number % len(paths)]:
                picture = cv2.imread(str(paths[i]), cv2.IMREAD_COLOR)
                if picture is not None:
                    cells.append(picture[:, :, ::-1])
        return cells

    def _export(self, sample: Sample, scored: Scored) -> None:
        if scored.masks is None:
            return
        video, _, expression = scored.record["id"].rpartition("|")
        folder = inside(
            self.folder / "Annotations", f"{video}/{expression}", "video and expression"
        )
        folder.mkdir(parents=True, exist_ok=True)
        for picture, mask in zip(sample.frames, scored.masks, strict=True):
            name = f"{Path(picture.name).stem}.png"
            _write_png(inside(folder, name, "frame"), mask.astype(np.uint8) * 255)

    def records(self) -> tuple[list[Json], int]:
        """The records of all finished samples, of all processes, in the dataset's order, and the number of samples."""
        found: dict[str, tuple[int, list[Json]]] = {}
        for lines in self._alike().values():
            pending: list[Json] = []
            for line in lines:
                if "done" not in line:
                    pending.append(line)
                    continue
                found.setdefault(line["done"], (line.get("at", 0), pending))  # two may have done it
                pending = []
        ordered = sorted(found.values(), key=lambda one: one[0])
        return [record for _, records in ordered for record in records], len(found)

    def finish(self) -> None:
        """Draw the sheet, and pack exported masks for upload."""
        write_sheet(self._cells(), self.folder / SHEET)
        masks = self.folder / "Annotations"
        if self.export and masks.is_dir():
            with zipfile.ZipFile(
                self.folder / "Annotations.zip", "w", zipfile.ZIP_STORED
            ) as packed:
                for path in sorted(masks.rglob("*.png")):
                    packed.write(path, path.relative_to(self.folder).as_posix())


def look_file(record: Json) -> str:
    """Where the picture of a question is kept, in the folder of its run."""
    name = hashlib.sha256(f"{record['task']}|{record['id']}".encode()).hexdigest()[:16]
    return f"{LOOKS}/{name}.jpg"


def _is_ours(path: Path) -> bool:
    """Whether a file of records was written by a run."""
    with path.open("rb") as file:
        return file.read(8) in (b'{"head":', b"")


def _whole_lines(path: Path, *, repair: bool = True) -> list[Json]:
    """The lines that are complete. With `repair`, a line cut off by a kill (and its sample) leaves the file."""
    data = path.read_bytes()
    out: list[Json] = []
    kept = last = 0
    for line in data.splitlines(keepends=True):
        try:
            value = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(value, dict):
            break
        last += len(line)
        out.append(value)
        if "done" in value or "head" in value:
            kept = last
    while out and "done" not in out[-1] and "head" not in out[-1]:
        out.pop()
    if repair and kept < len(data):
        with path.open("r+b") as file:
            file.truncate(kept)
    return out


def _write_png(path: Path, pixels: np.ndarray) -> None:
    ok, data = cv2.imencode(".png", np.ascontiguousarray(pixels), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise RuntimeError(f"{path}: OpenCV cannot encode {pixels.shape} {pixels.dtype}")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}, expected a file that can be written"
        ) from error
