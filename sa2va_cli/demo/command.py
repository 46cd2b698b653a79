# SPDX-License-Identifier: Apache-2.0
"""`sa2va demo`: the whole chain over real ROS 2, measured against the simulator's truth.

Camera and tracker run as processes of their own; this one is the user: it sends commands, records
what was published, and says how well it went. Needs ROS 2 (`make demo` sets it up); importing this
module does not.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_cli.demo.ros_processes import keep_to_ourselves, need_ros, node, wait_for
from sa2va_cli.demo.score import Act, Row, score
from sa2va_cli.output import write_json
from sa2va_model.errors import InputError
from sa2va_model.tracks import EventKind

if TYPE_CHECKING:
    from sa2va_ros.bags.recorder import Recorder
    from sa2va_sim.scripted import DemoScene

NAME = "demo"
HELP = "Track objects of a simulated camera through the ROS 2 node, and measure it."
EXAMPLES = """examples:
  sa2va demo -o out            writes out/demo.mp4, out/demo.png, out/demo.json, out/bag/
  sa2va demo --onnx tiny_onnx   the tracker on graphs of sa2va export
  make demo                    the same, with everything it needs set up first"""
NAMESPACE = "/sa2va"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("-o", "--output", default="out", metavar="DIR", help="where results go")
    parser.add_argument(
        "--scene",
        choices=("demo", "kitchen"),
        default="demo",
        help="what stands on the table; kitchen: ordinary things (make realistic)",
    )
    parser.add_argument(
        "--onnx", metavar="DIR", help="the tracker runs these exported graphs (backend onnx)"
    )
    parser.add_argument(
        "--rate", type=float, default=10.0, metavar="HZ", help="images per second of the camera"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 if every command came out as it should."""
    need_ros()
    if args.model and not Path(args.model).is_dir():
        raise InputError(f"--model {args.model}: no such folder; expected a checkpoint folder")
    if not 0.1 <= args.rate <= 60:
        raise InputError(f"--rate {args.rate:g}: expected 0.1 to 60 images per second")
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    bag = folder / "bag"
    if bag.exists():
        if bag.is_symlink() or not any(bag.glob("*.mcap")):
            raise InputError(
                f"{bag}: is in the way and no bag of an earlier demo; expected no such path"
            )
        shutil.rmtree(bag)
    keep_to_ourselves()
    rows, summary = _perform(args, folder, bag)
    _print_table(rows, summary)
    result = {"commands": [asdict(row) for row in rows], "summary": summary}
    write_json(folder / "demo.json", result)
    write_json(args.json, result)
    bad = [row for row in rows if row.problem]
    for row in bad:
        print(f"sa2va demo: '{row.command}': {row.problem}", file=sys.stderr)
    pictures = f"video {folder / 'demo.mp4'}   storyboard {folder / 'demo.png'}"
    print(f"{pictures}   recording {bag}   figures {folder / 'demo.json'}")
    return 1 if bad else 0


# --- the performance -----------------------------------------------------------------------------


def _perform(
    args: argparse.Namespace, folder: Path, bag: Path
) -> tuple[list[Row], dict[str, float]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from sa2va_cli.demo.pictures import Performance, write_storyboard, write_video
    from sa2va_ros.bags.recorder import Recorder
    from sa2va_ros.msg import TrackerStatus

    acts, seconds = script(_scene(args.scene))
    onnx = str(Path(args.onnx).resolve()) if args.onnx else ""
    graphs = {"backend": "onnx", "onnx": onnx} if onnx else {}
    logs = {name: folder / f"{name}.log" for name in ("tracker_node", "sim_camera")}
    with ExitStack() as stack:
        bar = stack.enter_context(
            Progress(
                TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), transient=True
            )
        )
        task = bar.add_task("starting the tracker", total=None)
        recorder = stack.enter_context(Recorder(bag, NAMESPACE))
        tracker = stack.enter_context(
            node(
                "tracker_node",
                logs["tracker_node"],
                model=args.model or "",
                device=args.device,
                **graphs,
            )
        )
        wait_for(
            lambda: (
                recorder.status is not None
                and recorder.status.state == TrackerStatus.ACTIVE
                and recorder.listeners()
            ),
            tracker,
            logs["tracker_node"],
            "tracker_node",
        )
        bar.update(task, description="starting the camera")
        camera = stack.enter_context(
            node("sim_camera", logs["sim_camera"], scene=args.scene, rate=float(args.rate))
        )
        wait_for(
            lambda: recorder.complete_shots() and recorder.names,
            camera,
            logs["sim_camera"],
            "sim_camera",
        )
        bar.update(task, description="running", total=seconds)
        _play(
            acts, seconds, recorder, (tracker, camera), lambda now: bar.update(task, completed=now)
        )
        status = recorder.status
    shots = recorder.complete_shots()
    said = [(command.time, command.text) for command in recorder.commands]
    ends = [time for time, _ in said[1:]] + [math.inf]
    rows = [
        score(act, (begin, end), shots, recorder.events)
        for act, (begin, _), end in zip(acts, said, ends, strict=True)
    ]
    performance = Performance(shots, said, recorder.events)
    write_video(folder / "demo.mp4", performance)
    write_storyboard(folder / "demo.png", performance)
    return rows, _summary(rows, shots, status)


def _scene(name: str) -> DemoScene:
    if name == "kitchen":
        from sa2va_sim.catalogue.kitchen import kitchen_scene

        return kitchen_scene()
    from sa2va_sim.scripted import demo_scene

    return demo_scene()


def script(scene: DemoScene) -> tuple[list[Act], float]:
    """What the user does in the simulator's demo scene, and how many seconds it takes."""
    absence = scene.absences[0]
    leaver, wanderer = absence.item, scene.wanderer
    second = next(k for k in range(len(scene.expressions)) if k not in (leaver, wanderer))
    words = scene.expressions
    # Objects have the value index + 1 in the truth image. Between commands there is time for a slow
    # machine.
    acts = [
        Act(2.0, words[wanderer], "found", wanderer + 1),
        Act(8.0, f"+ {words[second]}", "found", second + 1),
        Act(absence.leaves - 7.0, f"+ {words[leaver]}", "returns", leaver + 1),
        Act(absence.returned + 6.0, f"+ {scene.absent}", "absent"),
        Act(absence.returned + 12.0, "stop", "stopped"),
    ]
    return acts, absence.returned + 15.0


def _play(
    acts: Sequence[Act],
    seconds: float,
    recorder: Recorder,
    processes: Sequence[subprocess.Popen[bytes]],
    progress: Callable[[float], None],
) -> None:
    """Say each command at its time and tell what happens, until the script is over."""
    began, told, waiting = time.monotonic(), 0, list(acts)
    while (now := time.monotonic() - began) < seconds:
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("a node ended before the demo was over; see its log")
        if waiting and now >= waiting[0].at:
            print(f"{now:5.1f} s  you: {waiting[0].say}")
            recorder.say(waiting.pop(0).say)
        for _, event in recorder.events[told:]:
            told += 1
            name = EventKind(event.type).name.lower().replace("_", " ")
            detail = f" ({event.detail})" if event.detail else ""
            print(f"{now:5.1f} s       {name}: {event.expression or 'all tracks'}{detail}")
        progress(now)
        time.sleep(0.05)


# --- the result ----------------------------------------------------------------------------------


def _summary(rows: Sequence[Row], shots: Sequence[Any], status: Any) -> dict[str, float]:
    ious = [row.iou for row in rows if not math.isnan(row.iou)]
    span = shots[-1].received - shots[0].received if len(shots) > 1 else 0.0
    return {
        "mean_iou": sum(ious) / len(ious) if ious else math.nan,
        "fps": (len(shots) - 1) / span if span else 0.0,
        "images_processed": float(status.processed),
        "images_dropped": float(status.dropped),
        "latency_p95": status.latency_p95,
        "seconds_to_first_mask": status.keyframe_latency,
    }


def _print_table(rows: Sequence[Row], summary: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What became of each command")
    for name, side in (
        ("command", "left"),
        ("outcome", "left"),
        ("IoU", "right"),
        ("first mask", "right"),
        ("images/s", "right"),
        ("verdict", "left"),
    ):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in rows:
        verdict = "[red]wrong[/red]" if row.problem else "[green]ok[/green]"
        table.add_row(
            row.command,
            row.outcome,
            _number(row.iou, ".2f"),
            _number(row.first_mask, ".2f", " s"),
            _number(row.fps, ".1f"),
            verdict,
        )
    table.add_section()
    table.add_row(
        "mean", "", _number(summary["mean_iou"], ".2f"), "", _number(summary["fps"], ".1f"), ""
    )
    console = Console()
    console = console if console.is_terminal else Console(width=110)
    console.print(table)


def _number(value: float, form: str, unit: str = "") -> str:
    return "" if math.isnan(value) else f"{value:{form}}{unit}"
