# SPDX-License-Identifier: Apache-2.0
"""`sa2va grasp-demo`: a gripper in the simulator picks up what it is told, over ROS only, N times, and is measured.

Four processes: `sim_gantry` (robot and camera), `tracker_node`, `picker` (the consumer) and this one, which only says
the commands and asks the simulator for the truth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_cli.demo.grasp_score import GraspEpisode, judge, summarise
from sa2va_cli.demo.ros_processes import NAMESPACE, keep_to_ourselves, need_ros, node, wait_for_all
from sa2va_cli.output import write_json
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from sa2va_ros.sim.referee import Referee

NAME = "grasp-demo"
HELP = "Let a simulated gripper pick up what it is told, over ROS 2 only, and count successes and failures by cause."
EXAMPLES = """examples:
  sa2va grasp-demo --episodes 50 --seed 0 --json out/grasping.json
  sa2va grasp-demo --truth --episodes 20       the simulator's masks instead of the model: manipulation alone
  sa2va grasp-demo --episodes 3 -o out/grasp   also writes a film and a picture of each end
  ros2 run sa2va_ros grasp_demo --episodes 3   the same command"""
EPISODE_SECONDS = 180.0  # after which an episode is given up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_episode_arguments(parser, episodes=10)
    parser.add_argument(
        "--sentences",
        default="attribute",
        metavar="KINDS",
        help="kinds of sentences, with + between them: attribute, size, position, relation",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="tracks with a lower score are not taken (default: the picker's)",
    )


def add_episode_arguments(parser: argparse.ArgumentParser, *, episodes: int) -> None:
    """What both demos take."""
    parser.add_argument(
        "--episodes", type=int, default=episodes, metavar="N", help=f"how many (default {episodes})"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the first; each further one adds 1"
    )
    parser.add_argument(
        "--truth",
        action="store_true",
        help="masks come from the simulator's truth and not from the model: measures the rest alone",
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="film, pictures and the logs of the processes"
    )


def check_episodes(args: argparse.Namespace) -> None:
    """Raise InputError unless the common options make sense."""
    if not 1 <= args.episodes <= 100_000:
        raise InputError(f"--episodes {args.episodes}: expected 1 or more")
    if not 0 <= args.seed <= 2**31 - 1 - args.episodes:
        raise InputError(f"--seed {args.seed}: expected 0 to {2**31 - 1 - args.episodes}")
    if args.model and not Path(args.model).is_dir():
        raise InputError(f"--model {args.model}: no such folder; expected a checkpoint folder")


def run(args: argparse.Namespace) -> int:
    """Run the episodes; 0 when all were run, however they ended."""
    check_episodes(args)
    from sa2va_ros.sim.gantry import kinds_of

    kinds_of(args.sentences)
    need_ros()
    keep_to_ourselves()
    with ExitStack() as stack:
        folder = Path(args.output or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        episodes = _perform(args, folder, stack)
    summary = summarise(episodes)
    _print_summary(summary, truth=args.truth)
    result = {
        "masks": "truth" if args.truth else "model",
        "sentences": args.sentences,
        "summary": summary,
        "episodes": [asdict(episode) for episode in episodes],
    }
    write_json(args.json, result)
    if args.output:
        write_json(folder / "grasping.json", result)
        print(f"film {folder / 'episodes.mp4'}   figures {folder / 'grasping.json'}")
    return 0


def reliably(*topics: str) -> dict[str, str]:
    """Parameters that make a node ask again for what got lost; large messages do, on a busy machine."""
    return {
        f"qos_overrides.{NAMESPACE}/{topic}.subscription.reliability": "reliable"
        for topic in topics
    }


def tracker(args: argparse.Namespace, log: Path) -> AbstractContextManager[Any]:
    """The tracker's process: the model's, or the one that uses the simulator's masks."""
    if args.truth:
        return node("truth_tracker", log, **reliably("image", "depth"))
    return node(
        "tracker_node",
        log,
        model=args.model or "",
        device=args.device,
        **reliably("image", "depth"),
    )


def _perform(args: argparse.Namespace, folder: Path, stack: ExitStack) -> list[GraspEpisode]:
    from sa2va_cli.demo.episode_video import EpisodeFilm
    from sa2va_ros.sim.referee import Referee

    film = None
    if args.output:
        film = EpisodeFilm(folder)
        stack.callback(film.close)
    referee = stack.enter_context(
        Referee("sim_gantry", "pick", "pick_result", watch=film.add if film else None)
    )
    logs = {name: folder / f"{name}.log" for name in ("tracker", "sim_gantry", "picker")}
    wishes: dict[str, Any] = {} if args.min_score is None else {"min_score": float(args.min_score)}
    processes = {
        "tracker": stack.enter_context(tracker(args, logs["tracker"])),
        "sim_gantry": stack.enter_context(
            node("sim_gantry", logs["sim_gantry"], seed=args.seed, sentences=args.sentences)
        ),
        "picker": stack.enter_context(
            node("picker", logs["picker"], **wishes, **reliably("depth"))
        ),
    }
    wait_for_all(referee.ready, processes, logs)
    episodes = []
    for number in range(args.episodes):
        episode = _episode(referee, list(processes.values()), film)
        episodes.append(episode)
        verdict = "held" if episode.success else f"{episode.cause}: {episode.detail}"
        print(
            f"{number + 1:3d}  seed {episode.seed:<6d} {episode.command:32s} {episode.seconds:5.1f} s  {verdict}",
            flush=True,
        )
    return episodes


def _episode(referee: Referee, processes: list[subprocess.Popen[bytes]], film: Any) -> GraspEpisode:
    started = referee.ask("next_episode")
    command = f"pick up {started['expression']}"
    if film is not None:
        film.begin(command)
    time.sleep(0.3)  # the camera shows the new table
    began = time.monotonic()
    result = referee.command(
        command, EPISODE_SECONDS, lambda: all(process.poll() is None for process in processes)
    )
    seconds = time.monotonic() - began
    episode = judge(started, result, referee.ask("score"), seconds)
    if film is not None:
        verdict = "in the gripper" if episode.success else f"{episode.cause}: {episode.detail}"
        film.end(episode.seed, verdict, episode.success)
    return episode


def _print_summary(summary: dict[str, Any], *, truth: bool) -> None:
    low, high = summary["success_interval"]
    masks = "the simulator's masks" if truth else "the model's masks"
    print(f"\n{summary['episodes']} episodes with {masks}")
    print(
        f"  success       {summary['success_rate']:.1%}   (95 % interval {low:.0%} to {high:.0%})"
    )
    print(f"  wrong object  {summary['wrong_object_rate']:.1%}")
    print(f"  refused       {summary['refused_rate']:.1%}   (the fingers never closed)")
    print(f"  seconds       p50 {summary['seconds_p50']:.1f}, p95 {summary['seconds_p95']:.1f}")
    for cause, count in summary["failures"].items():
        print(f"  failed: {cause} {count}")
    for what in ("shape", "kind"):
        shares = "  ".join(f"{key} {share}" for key, share in summary[f"by_{what}"].items())
        print(f"  by {what}: {shares}")


def main() -> int:
    """`ros2 run sa2va_ros grasp_demo …` is `sa2va grasp-demo …`."""
    from sa2va_cli.main import main as run_command

    return run_command([NAME, *sys.argv[1:]])
