# SPDX-License-Identifier: Apache-2.0
"""`sa2va data`: from a recording to a dataset: frames of a bag, masks on all of them, scenes, a check, a look."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_cli.data import drafts
from sa2va_cli.inputs import positive, seed, side
from sa2va_cli.models import add_adapter, open_model
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from sa2va_model.io.frames import FrameSource
    from sa2va_training.data.check import Findings
    from sa2va_training.data.propagate import BoxPrompt

NAME = "data"
HELP = "Make, complete and check a dataset folder (docs/datasets.md)."
EXAMPLES = """examples:
  sa2va data from-bag kitchen.mcap -o my_folder --topic /camera/image --fps 2
      then draw label images for a few frames: my_folder/masks/kitchen/00000.png, pixel value = number of the object
  sa2va data propagate my_folder --name 1="the blue mug" --name 2="the red block"
  sa2va data propagate my_folder --box 1=0:120,80,200,170 --name 1="the blue mug"     a box instead of a drawing
  sa2va data label my_folder -e "the blue mug" -e "the red block"       drafts by the model, the doubtful ones listed
  sa2va data harvest my_folder run.mcap        what a robot's tracks saw on the images of that recording
  sa2va data import roboflow_export -o my_folder            COCO, YOLO-seg, labelme, VOC, DAVIS, index PNG
  sa2va data import so101_pick -o my_folder --camera top    episodes of a LeRobotDataset v3
  sa2va data from-bag run.mcap -o pick --layout lerobot --fps 10 --task "pick the mug"        and the way there
  sa2va data export my_folder -o instances.json             as COCO
  sa2va data synth -o rehearsal --kind sim --count 200
  sa2va data check my_folder
  sa2va data look my_folder                 a page of pictures: what is marked, what is asked
  sa2va data ACTION --help     all options of an action"""
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va data`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    bag = actions.add_parser("from-bag", help="frames of a rosbag2, a video or a folder as clips")
    bag.add_argument("input", metavar="INPUT", help="rosbag2, video file or image folder")
    bag.add_argument("-o", "--output", metavar="FOLDER", required=True, help="dataset folder")
    bag.add_argument("--topic", metavar="T", help="image topic of a bag that has several")
    bag.add_argument(
        "--fps", type=float, metavar="N", help="frames per second to keep (default: all)"
    )
    bag.add_argument(
        "--name", metavar="NAME", help="what to call the clip (default: the input's name)"
    )
    bag.add_argument(
        "--stills", action="store_true", help="frames as single pictures instead of a clip"
    )
    bag.add_argument(
        "--layout",
        default="simple",
        metavar="L",
        help="simple (default), or lerobot: one episode of a new LeRobotDataset v3 (needs --fps)",
    )
    bag.add_argument("--task", default="", metavar="WORDS", help="of a LeRobot episode")
    bag.add_argument("--limit", type=positive, metavar="N", help="stop after N frames")
    bag.add_argument(
        "--truth",
        default="",
        metavar="T",
        help="topic with label images of a bag (default: one called truth, where there is one)",
    )
    carry = actions.add_parser("propagate", help="a few annotated frames become all frames")
    add_adapter(carry)
    carry.add_argument("folder", metavar="FOLDER", help="dataset folder")
    carry.add_argument("--clip", action="append", default=[], metavar="NAME", help="only this clip")
    carry.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="LABEL=WORDS",
        help="what an object is called",
    )
    carry.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="LABEL=FRAME:x0,y0,x1,y1",
        help="annotate an object with a box in pixels",
    )
    drafted, harvested = drafts.add_label(actions), drafts.add_harvest(actions)
    taken = actions.add_parser("import", help="a folder of another tool: COCO, YOLO, labelme, …")
    taken.add_argument("source", metavar="SOURCE", help="folder with pictures and annotations")
    taken.add_argument("-o", "--output", metavar="FOLDER", required=True, help="new dataset folder")
    taken.add_argument(
        "--format",
        metavar="F",
        help="coco, yolo, labelme, voc, davis, index or lerobot (default: by its files)",
    )
    taken.add_argument(
        "--camera", action="append", default=[], metavar="NAME", help="only this camera (lerobot)"
    )
    taken.add_argument(
        "--every", type=positive, default=1, metavar="N", help="every N-th frame (lerobot)"
    )
    taken.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="LABEL=WORDS",
        help="what an object of label images is called",
    )
    given = actions.add_parser("export", help="a dataset folder as a COCO file, or as Ref-SAV")
    given.add_argument("folder", metavar="FOLDER", help="dataset folder")
    given.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="instances.json; a folder for ref_sav"
    )
    given.add_argument(
        "--format", default="coco", metavar="F", help="coco (default), ref_sav or shards"
    )
    given.add_argument(
        "--per", type=positive, default=1000, metavar="N", help="records of a tar file (shards)"
    )
    scenes = actions.add_parser("synth", help="simulated scenes with masks and expressions")
    scenes.add_argument("-o", "--output", metavar="FOLDER", required=True, help="dataset folder")
    scenes.add_argument(
        "--kind",
        default="sim",
        metavar="KIND",
        help="sim, flat, things (make realistic), each also as -clips; things-unseen; crowd; garden",
    )
    scenes.add_argument("--count", type=positive, default=100, metavar="N", help="scenes")
    scenes.add_argument("--first", type=seed, default=5_000_000, metavar="SEED", help="first seed")
    scenes.add_argument("--size", type=side, default=320, metavar="N", help="side in pixels")
    scenes.add_argument("--split", default="train", metavar="SPLIT", help="train, val or test")
    scenes.add_argument(
        "--asked",
        metavar="LIST",
        default="expressions,questions,captions",
        help="what is written about them (default: expressions,questions,captions)",
    )
    checked = actions.add_parser("check", help="read everything once and say what is wrong")
    checked.add_argument(
        "--statistics",
        action="store_true",
        help="also count and measure: the paper's Tables 3 and 4",
    )
    looked = actions.add_parser(
        "look", help="pictures and a page: what is marked and what is asked"
    )
    looked.add_argument("-o", "--output", metavar="FOLDER", help="where to (default: DATASET/look)")
    looked.add_argument("--count", type=positive, default=40, metavar="N", help="samples to draw")
    for action in (bag, carry, drafted, harvested, taken, given, scenes, checked, looked):
        _add_common(action)
    for action in (checked, looked):
        action.add_argument(
            "dataset", metavar="FOLDER|YAML", help="dataset folder or its YAML file"
        )


def _add_common(parser: argparse.ArgumentParser) -> None:
    """The common options may stand behind the action as well as before it."""
    from sa2va_cli.main import add_common

    known = set(parser._actions)
    add_common(parser)
    for option in set(parser._actions) - known:
        option.default = argparse.SUPPRESS


def run(args: argparse.Namespace) -> int:
    """Do one action; returns the exit status."""
    actions: dict[str, Callable[[argparse.Namespace], tuple[int, dict[str, Any]]]] = {
        "from-bag": _from_bag,
        "propagate": _propagate,
        "label": drafts.label,
        "harvest": drafts.harvest,
        "import": _import,
        "export": _export,
        "synth": _synth,
        "check": _check,
        "look": _look,
    }
    status, record = actions[args.action](args)
    from sa2va_cli.output import write_json

    write_json(args.json, record)
    return status


def _from_bag(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from rich.progress import track

    from sa2va_cli.data.truth import with_truth
    from sa2va_model.io.folder_lock import FolderLock
    from sa2va_training.data.recording import RecordingImport

    if args.fps is not None and not 0 < args.fps < float("inf"):
        raise InputError(f"--fps is {args.fps}, expected a number above 0")
    if args.layout not in ("simple", "lerobot"):
        raise InputError(f"--layout {args.layout}: expected simple or lerobot")
    source, known = with_truth(args.input, args.topic, args.truth)
    if args.layout == "lerobot":
        return _episode(source, args)
    folder, name = Path(args.output), args.name or Path(args.input).stem
    run = RecordingImport(folder, name, source.name, stills=args.stills, known=known)
    frames = track(source, "reading", total=source.frame_count, transient=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FolderLock(folder):
            run.write(frames, fps=args.fps, limit=args.limit)
    finally:
        if run.kept:
            masks = f"draw label images in {folder}/masks/{name}/"
            if known is not None:
                masks = f"with the bag's own label images ({len(known.names)} objects)"
            print(f"{folder}: {run.kept} frames in {run.clips} clip(s); {masks}")
    if skipped := getattr(source, "skipped", 0):
        print(f"{skipped} images could not be used; the first: {source.first_skipped}")  # type: ignore[attr-defined]
    if known is None:
        print(
            f"(00000.png …, pixel value = number of the object), then: sa2va data propagate {folder}"
        )
    record = {"folder": str(folder), "frames": run.kept, "clips": run.clips, "skipped": skipped}
    return 0, record


def _episode(source: FrameSource, args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """A recording as the one episode of a LeRobotDataset."""
    from sa2va_training.data.exchange.lerobot import LeRobotWriter
    from sa2va_training.data.recording import chosen_frames

    if args.fps is None or args.stills:
        raise InputError("--layout lerobot: expected --fps and no --stills")
    kept = chosen_frames(source, args.fps, args.limit)
    with LeRobotWriter(Path(args.output), args.fps) as dataset:
        count = dataset.add_episode(((frame.rgb, frame.stamp) for frame in kept), args.task)
    print(f"{args.output}: LeRobotDataset v3, 1 episode of {count} frames")
    return 0, {"folder": args.output, "frames": count, "episodes": 1}


def _propagate(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from rich.console import Console
    from rich.progress import Progress

    from sa2va_training.data.propagate import propagate_folder

    names = {_label(item, "--name"): _rest(item, "--name") for item in args.name}
    boxes = [_box(item) for item in args.box]
    model = open_model(args)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("propagating", total=None)
        filled = propagate_folder(
            model,
            Path(args.folder),
            clips=args.clip,
            boxes=boxes,
            names=names,
            tick=lambda: bar.advance(task),
        )
    for clip in filled:
        print(
            f"{clip.clip}: {clip.drawn} drawn frames kept, {clip.propagated} masks filled in, "
            f"{clip.open} left open"
        )
        for label, name in clip.objects.items():
            print(f"  object {label}: {name or 'has no name, nothing is asked about it (--name)'}")
    print(f"look at it: sa2va data look {args.folder}")
    return 0, {"clips": [vars(clip) for clip in filled]}


def _label(item: str, option: str) -> int:
    text = item.partition("=")[0]
    if not text.isdigit() or not 0 < int(text) < 65536 or "=" not in item:
        raise InputError(f"{option} {item!r}: expected LABEL=…, LABEL a whole number from 1")
    return int(text)


def _rest(item: str, option: str) -> str:
    text = item.partition("=")[2].strip()
    if not text:
        raise InputError(f"{option} {item!r}: nothing after =, expected words")
    return text


def _box(item: str) -> BoxPrompt:
    from sa2va_training.data.propagate import BoxPrompt

    frame, _, numbers = _rest(item, "--box").partition(":")
    try:
        x0, y0, x1, y1 = (float(part) for part in numbers.split(","))
        number = int(frame)
    except ValueError:
        raise InputError(f"--box {item!r}: expected LABEL=FRAME:x0,y0,x1,y1") from None
    if not (x0 < x1 and y0 < y1):
        raise InputError(f"--box {item!r}: expected x0 < x1 and y0 < y1")
    return BoxPrompt(_label(item, "--box"), number, (x0, y0, x1, y1))


def _import(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from sa2va_training.data.exchange.formats import FORMATS, LEROBOT, named, recognise
    from sa2va_training.data.exchange.imported import write_folder

    source = Path(args.source).expanduser()
    kind = args.format or recognise(source)
    if kind == LEROBOT:
        return _import_lerobot(source, args)
    if kind not in FORMATS:
        raise InputError(f"--format {kind}: expected one of {', '.join(FORMATS)} or {LEROBOT}")
    names = {_label(item, "--name"): _rest(item, "--name") for item in args.name}
    written = write_folder(named(FORMATS[kind](source), names), Path(args.output))
    print(
        f"{args.output}: {written.records} records of {kind}, {written.pictures} pictures, {written.objects} objects"
    )
    for name, count in written.names.most_common(12):
        print(f"  {name or 'without a name (--name LABEL=WORDS)'}: {count}")
    for what, count in written.left.items():
        print(f"left out: {what}, {count} times", file=sys.stderr)
    print(f"look at it: sa2va data look {args.output}")
    return 0, {
        "folder": args.output,
        "format": kind,
        "records": written.records,
        "objects": written.objects,
        "left_out": dict(written.left),
    }


def _import_lerobot(source: Path, args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from sa2va_training.data.exchange.lerobot import read_lerobot

    taken = read_lerobot(source, Path(args.output), cameras=args.camera, every=args.every)
    print(
        f"{args.output}: {taken.clips} clips of {taken.episodes} episodes, {taken.frames} frames; "
        f"nothing is marked yet: sa2va data label {args.output} -e WORDS, or draw and propagate"
    )
    return 0, {"folder": args.output, "format": "lerobot", **vars(taken)}


def _export(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from sa2va_training.data.exchange.coco import write_coco
    from sa2va_training.data.readers.simple import SimpleFolder

    if args.format not in ("coco", "ref_sav", "shards"):
        raise InputError(f"--format {args.format}: expected coco, ref_sav or shards")
    if args.format == "shards":
        from sa2va_training.data.readers.shards import folder_records, write_shards

        folder = SimpleFolder(Path(args.folder))
        count = write_shards(folder_records(folder), Path(args.output), per=args.per)
        print(f"{args.output}: {count} tar files with indexes")
        return 0, {"folder": args.output, "files": count}
    if args.format == "ref_sav":
        from sa2va_training.annotate.ref_sav import write_ref_sav

        made = write_ref_sav(Path(args.folder), Path(args.output))
        print(f"{args.output}: Ref-SAV.json, {made.videos} videos, {made.objects} objects")
        if made.left:
            print(f"left out: {made.left} objects that some frame leaves open", file=sys.stderr)
        return 0, {"folder": args.output, **vars(made)}
    counts = write_coco(SimpleFolder(Path(args.folder)), Path(args.output))
    print(f"{args.output}: {', '.join(f'{n} {what}' for what, n in counts.items())}")
    return 0, {"file": args.output, **counts}


def _synth(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from rich.progress import track

    from sa2va_training.data.synth import write_scenes

    if args.split not in ("train", "val", "test"):
        raise InputError(f"--split is {args.split!r}, expected train, val or test")
    seeds = range(args.first, args.first + args.count)
    shown = track(seeds, "rendering", transient=True)
    asked = [name.strip() for name in args.asked.split(",") if name.strip()]
    told = {"size": args.size, "split": args.split, "asked": asked}
    count = write_scenes(Path(args.output), args.kind, shown, **told)
    print(f"{args.output}: {count} scenes of kind {args.kind} added")
    return 0, {"folder": args.output, "scenes": count}


def _look(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from sa2va_training.data.look import look
    from sa2va_training.data.sources import open_sources

    (source,) = open_sources(args.dataset, held_out=0.0, stills=False)
    folder = Path(args.output) if args.output else source.root / "look"
    count = look(source.train, folder, count=args.count)
    print(f"{folder}: index.html and sheet.png, {count} samples")
    return 0, {"folder": str(folder), "samples": count}


def _check(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from rich.console import Console
    from rich.progress import Progress

    from sa2va_training.data.check import check
    from sa2va_training.data.sources import open_sources

    (source,) = open_sources(args.dataset, held_out=0.0, stills=False)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=len(source.train))
        found = check(source.train, tick=lambda: bar.advance(task))
    _print_findings(args.dataset, found)
    record = {
        **{k: v for k, v in vars(found).items() if isinstance(v, int)},
        "problems": found.problems,
        "remarks": found.remarks,
    }
    if args.statistics and not found.problems:
        from sa2va_training.evaluation.statistics import statistics

        rows = statistics(source.train).rows()
        record["statistics"] = rows
        for name, value in rows.items():
            print(f"  {name}: {value:g}")
    return (2 if found.problems else 0), record


def _print_findings(name: str, found: Findings) -> None:
    print(
        f"{name}: {found.samples} samples, {found.pictures} pictures, {found.expressions} expressions "
        f"({found.absent} about nothing that is there), {found.conversations} conversations"
    )
    for title, counted in (("sizes", found.sizes), ("kinds", found.kinds), ("named", found.names)):
        if counted:
            print(f"  {title}: {', '.join(f'{k} ({v})' for k, v in counted.most_common(12))}")
    for title, lines, file in (
        ("remark", found.remarks, sys.stdout),
        ("problem", found.problems, sys.stderr),
    ):
        for line in lines[:_SHOWN]:
            print(f"{title}: {line}", file=file)
        if len(lines) > _SHOWN:
            print(f"… and {len(lines) - _SHOWN} more {title}s", file=file)
    if not found.problems:
        print("no problem found")
