# SPDX-License-Identifier: Apache-2.0
"""`sa2va track`: a video, an image folder or a rosbag2 through the live tracker, frame by frame."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_cli.backend import add_backend, chosen_profile
from sa2va_cli.inputs import CollectPrompt, PromptArgument, open_input, positive, seconds
from sa2va_cli.models import add_adapter, open_model
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from sa2va_cli.truth import Truth
    from sa2va_model.io.frames import Frame, FrameSource
    from sa2va_model.tracking.live import LiveTracker
    from sa2va_model.tracks import FrameResult
    from sa2va_serve.client.robot import RemoteModel

NAME = "track"
HELP = (
    "Follow objects through a video file, an image folder or a rosbag2 (sqlite3 or mcap), frame by frame, as the "
    "ROS 2 node does. Each -e, --box, --point, --mask or --object is one object."
)
EXAMPLES = """examples:
  sa2va track table.mp4 -e "the blue mug" -o out/table
  sa2va track table.mp4 -e "the blue mug" -e "the can that moves" --gt masks/ -o out/two
  sa2va track frames/ --box 120,80,260,240 -o out/box
  sa2va track table.mp4 -e "the blue mug" -o out/onnx --backend onnx --onnx tiny_onnx
  sa2va track table.mp4 --example photo.png --box 120,80,260,240 -o out/like_that_one --save-objects
  sa2va track other.mp4 --object out/like_that_one/objects/photo.object -o out/again
  sa2va track recording/ --topic /camera/image_raw --point "320,200;340,260,0" -o out/bag

writes to OUT: masks/<track>/<frame>.png (0/255), overlay.mp4, tracks.json, events.json, summary.json;
a frame on which a track does not exist has no mask file. For a bag also bag/ with the topics /sa2va/tracks,
/sa2va/mask and /sa2va/events."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va track`."""
    add_adapter(parser)
    parser.add_argument("input", metavar="INPUT", help="video file, image folder or rosbag2")
    parser.add_argument(
        "-e", "--expression", action=CollectPrompt, metavar="TEXT", help="words that name an object"
    )
    parser.add_argument(
        "--box", action=CollectPrompt, metavar="x0,y0,x1,y1", help="a box around an object, pixels"
    )
    parser.add_argument(
        "--point",
        action=CollectPrompt,
        metavar="x,y",
        help="a click on an object, pixels; x,y;x,y,0 adds clicks on (1) and beside (0) it",
    )
    parser.add_argument(
        "--mask",
        action=CollectPrompt,
        metavar="FILE",
        help="a picture that is not black where the object is",
    )
    parser.add_argument(
        "--example",
        action=CollectPrompt,
        metavar="PICTURE",
        help="another picture: the --box, --point or --mask behind it is on that one, and what it shows is looked for",
    )
    parser.add_argument(
        "--object", action=CollectPrompt, metavar="FILE", help="an object that --save-objects saved"
    )
    parser.add_argument(
        "--save-objects",
        action="store_true",
        help="write objects/<track>.object for each track that was seen, for --object",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="folder for the results"
    )
    parser.add_argument("--topic", metavar="T", help="image topic of a bag that has several")
    parser.add_argument(
        "--gt", metavar="DIR", help="true masks, PNG named by frame number: adds J, F and J&F"
    )
    parser.add_argument("--frames", type=positive, metavar="N", help="stop after N frames")
    parser.add_argument(
        "--size", type=positive, metavar="N", help="scale frames so that no side exceeds N pixels"
    )
    parser.add_argument(
        "--fps",
        type=positive,
        default=30,
        metavar="N",
        help="rate of an image folder (default: 30)",
    )
    parser.add_argument(
        "--retry",
        type=seconds,
        default=2.0,
        metavar="S",
        help="look again every S seconds for what was not found; 0 = never (default: 2)",
    )
    parser.add_argument(
        "--propagation",
        default="sa2va",
        metavar="P",
        help="who follows what was found: sa2va = the model's own SAM-2 (default); handover = the one of --sam2",
    )
    parser.add_argument(
        "--sam2",
        default="",
        metavar="FILE.pt",
        help="a published SAM-2, SAM 3 or EdgeTAM for handover",
    )
    parser.add_argument(
        "--resolution",
        type=int,
        default=0,
        metavar="S",
        help="side of the square in which objects are followed: 1024, 512, 256 (default: the model's own)",
    )
    parser.add_argument(
        "--profile",
        default="auto",
        metavar="P",
        help="arithmetic of tracking: auto (default), reference, float32 or bfloat16",
    )
    parser.add_argument(
        "--grounder",
        default="local",
        metavar="G",
        help="who understands the words: local (default), or grpc://host:port of sa2va serve, with SAM-2 alone here",
    )
    parser.add_argument(
        "--grounder-token",
        default="",
        metavar="FILE",
        help="file whose first line is the token for the server",
    )
    parser.add_argument(
        "--grounder-ca",
        default="",
        metavar="PEM",
        help="authority that vouches for the server (grpcs://)",
    )
    parser.add_argument(
        "--keyframe-encoding",
        default="png",
        choices=("png", "jpeg"),
        help="how frames go to the server: png = exact (default), jpeg = a tenth of the bytes",
    )
    add_backend(parser)
    parser.set_defaults(prompts=[])


def run(args: argparse.Namespace) -> int:
    """Track; returns the exit status."""
    if args.example:
        raise InputError(f"--example {args.example}: expected --box, --point or --mask behind it")
    if not args.prompts:
        raise InputError("nothing to track, expected at least one -e, --box, --point or --object")
    from sa2va_cli.track.outputs import check_folder, clear_folder
    from sa2va_model.io.folder_lock import FolderLock

    source = open_input(args.input, topic=args.topic, fps=args.fps)
    truth = _open_truth(args.gt)
    frames = iter(source)
    try:
        first = next(frames)  # what is wrong with the input shows before a model is loaded
    except StopIteration:
        raise InputError(f"{source.name}: holds no frame, expected at least one") from None
    for prompt in args.prompts:
        prompt.check_inside(*first.rgb.shape[:2])
    with FolderLock(check_folder(args.output)):
        job = TrackJob(args, source, _tracker(args), truth)
        clear_folder(check_folder(args.output))
        summary = job.run(chain([first], frames))
    _print(summary, args.output)
    return 1 if any("failed" in track for track in summary["tracks"]) else 0


def _open_truth(folder: str | None) -> Truth | None:
    if folder is None:
        return None
    from sa2va_cli.truth import Truth

    return Truth(folder)


def _tracker(args: argparse.Namespace) -> LiveTracker:
    from sa2va_model.tracking.config import LiveConfig, PropagationConfig
    from sa2va_model.tracking.live import LiveTracker

    profile = chosen_profile(args)
    follow = PropagationConfig(args.propagation, args.sam2, args.resolution, args.profile)
    objects = max(len(args.prompts), LiveConfig().max_objects)
    config = LiveConfig(max_objects=objects, propagation=follow)
    remote = _remote(args)
    model = open_model(args) if remote is None else remote.half
    if args.backend != "torch":
        model.use_profile(profile)
    if remote is None:
        return LiveTracker(model, config)
    return LiveTracker(remote.half, config, grounding=remote.grounding(background=False))


def _remote(args: argparse.Namespace) -> RemoteModel | None:
    """SAM-2 on board and the link to a server, where `--grounder` names one."""
    from sa2va_serve.client.config import RemoteConfig, parse_grounder

    found = parse_grounder(args.grounder)
    if found is None:
        return None
    from sa2va_serve.needs import need

    need("grpc", "remote")
    from sa2va_model.checkpoints.load import suit_threads
    from sa2va_serve.client.robot import RemoteModel

    address, tls = found
    config = RemoteConfig(
        address,
        tls=tls,
        authority=args.grounder_ca,
        token=args.grounder_token,
        encoding=args.keyframe_encoding,
        deadline=60.0,
    )
    remote = RemoteModel.open(args.model, config, device=args.device, adapter=args.adapter or "")
    suit_threads(remote.half)
    return remote


class TrackJob:
    """One run: feeds the frames, writes the results, measures."""

    def __init__(
        self,
        args: argparse.Namespace,
        source: FrameSource,
        tracker: LiveTracker,
        truth: Truth | None,
    ) -> None:
        """Prepare; nothing is written yet.

        Args:
            args: the command line.
            source: frames come from here.
            tracker: with nothing to track yet; closed at the end.
            truth: masks to score against.
        """
        from sa2va_cli.measure import Memory, Times

        self._args, self._source, self._tracker, self._truth = args, source, tracker, truth
        self._memory, self._steps, self._grounding = Memory(), Times(), Times()
        self._tracks: dict[str, dict[str, Any]] = {}
        self._size: tuple[int, int] | None = None
        self._retries: dict[
            str, tuple[str, float]
        ] = {}  # track id -> expression, time to look again
        self._frames = self._skipped = 0
        self._seconds = 0.0

    def run(self, frames: Iterator[Frame]) -> dict[str, Any]:
        """Track through all frames; returns what summary.json holds.

        On an error or Ctrl-C everything so far is finished and the summary says why it is not complete.
        """
        from sa2va_cli.output import ReservedJson, write_json
        from sa2va_cli.track.outputs import TrackOutputs

        folder = Path(self._args.output)
        problem: str | None = "interrupted"
        reserved = ReservedJson(folder / "summary.json", self._summary("killed"))
        try:
            with TrackOutputs(folder, self._source) as outputs:
                self._loop(frames, outputs.write)
            if self._args.save_objects:
                self._save_objects(folder / "objects")
            problem = None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            raise
        finally:
            self._tracker.close()
            summary = self._summary(problem)
            try:
                reserved.write(summary)
                write_json(self._args.json, summary)
            except (OSError, InputError):
                if problem is None:  # else the first error is the one that is told
                    raise
        return summary

    def _loop(self, frames: Iterator[Frame], write: Callable[[Frame, FrameResult], None]) -> None:
        from sa2va_cli.output import Progress
        from sa2va_model.io.stamp_order import StampOrder

        total = self._source.frame_count
        if self._args.frames is not None:
            total = min(total or self._args.frames, self._args.frames)
        start, order = time.perf_counter(), StampOrder()
        with Progress(total, f"track {self._source.name}") as progress:
            for original in islice(frames, self._args.frames):
                frame, factor = limit_size(original, self._args.size)
                try:
                    reset = order.check(frame.stamp)
                    order.accept(frame.stamp)
                except InputError as error:
                    self._skip(f"frame {frame.index}: {error}", progress.say)
                    continue
                if reset:
                    self._tracker.reset(reset)
                if reset or not self._frames:
                    self._start(factor)
                result = self._step(frame)
                write(frame, result)
                if self._truth is not None:
                    height, width = original.rgb.shape[:2]
                    self._truth.score(frame.index, result.tracks, height, width)
                self._note(frame, result, progress.say)
                self._seconds = time.perf_counter() - start
                progress.step()

    def _save_objects(self, folder: Path) -> None:
        """Write what was seen of each track as an object's file; one that was never seen well has none."""
        from sa2va_cli.track.outputs import safe_name
        from sa2va_model.tracking.by_example.example import ENDING

        for track_id, entry in self._tracks.items():
            try:
                example = self._tracker.example(track_id)
            except InputError as error:
                entry["not_saved"] = str(error)
                continue
            path = example.write(folder / f"{safe_name(track_id)}{ENDING}")
            entry["object"] = f"{folder.name}/{path.name}"

    def _skip(self, why: str, say: Callable[[str], None]) -> None:
        """A frame that cannot be used, as the node has it: said, counted, and the next one is judged without it."""
        self._skipped += 1
        say(f"{why}; it is skipped")

    def _start(self, factor: float) -> None:
        """Give the tracker what is to be tracked, in the order of the command line."""
        self._retries.clear()
        for prompt in self._args.prompts:
            track_id = begin(self._tracker, prompt.scaled(factor))
            self._tracks.setdefault(track_id, {"prompt": prompt.words, "frames_seen": 0})
        if self._truth is not None and not len(self._steps):
            self._truth.bind(list(self._tracks))

    def _look_again(self, stamp: float) -> None:
        """Ask once more for what was not found: in a file it may well come into view later."""
        for track_id, (expression, due) in list(self._retries.items()):
            if stamp >= due:
                del self._retries[track_id]
                self._tracker.resume(track_id, expression)

    def _step(self, frame: Frame) -> FrameResult:
        self._look_again(frame.stamp)
        start = time.perf_counter()
        result = self._tracker.process(frame)
        milliseconds = (time.perf_counter() - start) * 1000
        grounding = grounding_ms(result)
        if grounding:
            self._grounding.add(grounding)
        self._steps.add(milliseconds - grounding)
        return result

    def _note(self, frame: Frame, result: FrameResult, say: Callable[[str], None]) -> None:
        from sa2va_model.tracks import EventKind

        self._frames += 1
        self._size = (result.height, result.width)
        self._memory.frame(frame.index)
        for event in result.events:
            words = event.expression or self._tracks.get(event.track_id, {}).get("prompt", "")
            if event.kind == EventKind.NOT_FOUND and self._args.retry:
                due = frame.stamp + self._args.retry
                self._retries[event.track_id] = (event.expression, due)
            detail = f" ({event.detail})" if event.detail else ""
            if event.kind == EventKind.FAILED and event.track_id in self._tracks:
                self._tracks[event.track_id]["failed"] = event.detail
            say(
                f"frame {event.frame_index:5d}  {event.kind.name:12s} {event.track_id}  {words}{detail}"
            )
        for track in result.tracks:
            entry = self._tracks.setdefault(track.id, {"prompt": "", "frames_seen": 0})
            entry["frames_seen"] += track.area > 0
            entry["state"] = track.state.name

    def _summary(self, problem: str | None) -> dict[str, Any]:
        height, width = self._size or (None, None)
        summary: dict[str, Any] = {
            "input": self._args.input,
            "topic": getattr(self._source, "topic", None),
            "model": self._args.model or "tiny",
            "grounder": self._args.grounder,
            "device": self._args.device,
            "complete": problem is None,
            "problem": problem,
            "frames": self._frames,
            "skipped": self._skipped + getattr(self._source, "skipped", 0),
            "width": width,
            "height": height,
            "seconds": round(self._seconds, 3),
            "fps": round(self._frames / self._seconds, 2) if self._seconds else None,
            "grounding_ms": self._grounding.median(),
            "step_ms": self._steps.percentiles(),
            **self._memory.report(),
            **gpu_peak(self._args.device),
            "tracks": [{"id": track_id, **entry} for track_id, entry in self._tracks.items()],
        }
        if self._truth is not None:
            summary |= self._truth.report()
        return summary


def begin(tracker: LiveTracker, prompt: PromptArgument) -> str:
    """Hand one prompt to the tracker; returns the track's id."""
    if prompt.expression:
        return tracker.track(prompt.expression)
    if prompt.example is not None:
        return tracker.follow(prompt.example)
    if prompt.box is not None:
        return tracker.prompt(box=prompt.box)
    if prompt.pixels is not None:
        return tracker.prompt(mask=prompt.pixels)
    import numpy as np

    points, labels = np.array(prompt.points, np.float32), np.array(prompt.labels, np.int64)
    return tracker.prompt(points=points, labels=labels)


def grounding_ms(result: FrameResult) -> float:
    """The part of a frame's time that the language model took (it is reported apart from the tracker's)."""
    return sum(value for name, value in result.milliseconds.items() if name.startswith("ground"))


def limit_size(frame: Frame, size: int | None) -> tuple[Frame, float]:
    """The frame scaled down so that no side exceeds `size`, and the factor of that."""
    longest = max(frame.rgb.shape[:2])
    if size is None or longest <= size:
        return frame, 1.0
    import cv2

    factor = size / longest
    shape = (max(1, round(frame.rgb.shape[1] * factor)), max(1, round(frame.rgb.shape[0] * factor)))
    return replace(frame, rgb=cv2.resize(frame.rgb, shape, interpolation=cv2.INTER_AREA)), factor


def gpu_peak(device: str) -> dict[str, float]:
    """Peak GPU memory in MB, where a GPU was used."""
    from sa2va_model.checkpoints.load import pick_device
    from sa2va_model.device import most_bytes

    peak = most_bytes(pick_device(device))
    return {} if peak is None else {"peak_gpu_memory_mb": round(peak / 1e6, 1)}


def _print(summary: dict[str, Any], output: str | Path) -> None:
    """The result in a few lines on stdout."""
    step = summary["step_ms"]
    print(
        f"{summary['frames']} frames, {summary['fps']} frames/s, step {step['p50']} ms (p95 {step['p95']}), "
        f"peak memory {summary['peak_memory_mb']:.0f} MB"
    )
    for track in summary["tracks"]:
        state = f"FAILED: {track['failed']}" if "failed" in track else track.get("state", "PENDING")
        print(f"{track['id']}  {track['prompt']}  {state}, seen on {track['frames_seen']} frames")
    for track_id, scores in summary.get("gt", {}).items():
        if scores["gt_frames"]:
            print(
                f"{track_id}  J&F {scores['J_and_F']:.3f}  J {scores['J']:.3f}  F {scores['F']:.3f}  "
                f"on {scores['gt_frames']} frames"
            )
    print(f"results in {output}")
