# SPDX-License-Identifier: Apache-2.0
"""`sa2va follow-demo`: a simulated base keeps what it is told at a distance, over ROS only, N times, and is measured.

Four processes: `sim_rover` (base and camera), `tracker_node`, `follower` (the consumer) and this one, which only says
the commands and asks the simulator for the truth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_cli.demo.follow_score import FollowEpisode, judge, summarise
from sa2va_cli.demo.grasp_demo import add_episode_arguments, check_episodes, tracker
from sa2va_cli.demo.ros_processes import keep_to_ourselves, need_ros, node, wait_for_all
from sa2va_cli.output import write_json
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from sa2va_ros.sim.referee import Referee

NAME = "follow-demo"
HELP = "Let a simulated base follow what it is told, over ROS 2 only, and measure how long it keeps it in view."
EXAMPLES = """examples:
  sa2va follow-demo --episodes 20 --seed 0 --json out/following.json
  sa2va follow-demo --truth --episodes 5       the simulator's masks instead of the model
  sa2va follow-demo --episodes 2 -o out/follow also writes a film and a picture of each end
  ros2 run sa2va_ros follow_demo --episodes 2  the same command"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_episode_arguments(parser, episodes=5)
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="T", help="of each episode (default 30)"
    )
    parser.add_argument(
        "--distance", type=float, default=0.7, metavar="M", help="metres to keep (default 0.7)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the episodes; 0 when all were run, however they ended."""
    check_episodes(args)
    if not 5 <= args.seconds <= 3600:
        raise InputError(f"--seconds {args.seconds:g}: expected 5 to 3600")
    if not 0.4 <= args.distance <= 2.0:
        raise InputError(f"--distance {args.distance:g}: expected 0.4 to 2 metres")
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
        "distance": args.distance,
        "summary": summary,
        "episodes": [asdict(episode) for episode in episodes],
    }
    write_json(args.json, result)
    if args.output:
        write_json(folder / "following.json", result)
        print(f"film {folder / 'episodes.mp4'}   figures {folder / 'following.json'}")
    return 0


def _perform(args: argparse.Namespace, folder: Path, stack: ExitStack) -> list[FollowEpisode]:
    from sa2va_cli.demo.episode_video import EpisodeFilm
    from sa2va_ros.sim.referee import Referee

    film = None
    if args.output:
        film = EpisodeFilm(folder)
        stack.callback(film.close)
    referee = stack.enter_context(
        Referee("sim_rover", "follow", "follow_result", watch=film.add if film else None)
    )
    logs = {name: folder / f"{name}.log" for name in ("tracker", "sim_rover", "follower")}
    seconds, distance = float(args.seconds), float(args.distance)
    processes = {
        "tracker": stack.enter_context(tracker(args, logs["tracker"])),
        "sim_rover": stack.enter_context(
            node("sim_rover", logs["sim_rover"], seed=args.seed, seconds=seconds + 10)
        ),
        "follower": stack.enter_context(
            node("follower", logs["follower"], duration=seconds, distance=distance)
        ),
    }
    wait_for_all(referee.ready, processes, logs)
    episodes = []
    for number in range(args.episodes):
        episode = _episode(args, referee, list(processes.values()), film)
        episodes.append(episode)
        verdict = "followed" if episode.success else f"{episode.cause}: {episode.detail}"
        print(
            f"{number + 1:3d}  seed {episode.seed:<6d} {episode.command:20s} in view {episode.in_view:4.0%}  "
            f"distance ±{episode.distance_error:.2f} m  {verdict}",
            flush=True,
        )
    return episodes


def _episode(
    args: argparse.Namespace,
    referee: Referee,
    processes: list[subprocess.Popen[bytes]],
    film: Any,
) -> FollowEpisode:
    started = referee.ask("next_episode")
    command = f"follow {started['expression']}"
    if film is not None:
        film.begin(command)
    time.sleep(0.3)  # the camera shows the new scene
    began = time.monotonic()
    result = referee.command(
        command,
        5 * args.seconds + 120,
        lambda: all(process.poll() is None for process in processes),
    )
    if result is not None and result["outcome"] == "refused":
        time.sleep(
            max(0.0, args.seconds - (time.monotonic() - began))
        )  # the time counts all the same
    seconds = time.monotonic() - began
    episode = judge(started, result, referee.ask("score"), args.distance, seconds)
    if film is not None:
        verdict = f"in view {episode.in_view:.0%}" + (f", {episode.cause}" if episode.cause else "")
        film.end(episode.seed, verdict, episode.success)
    return episode


def _print_summary(summary: dict[str, Any], *, truth: bool) -> None:
    masks = "the simulator's masks" if truth else "the model's masks"
    print(f"\n{summary['episodes']} episodes with {masks}")
    print(f"  in view        {summary['in_view']:.1%} of the time, mean of the episodes")
    print(
        f"  followed       {summary['success_rate']:.1%} of the episodes (in view for 90 % of it)"
    )
    print(f"  distance       {summary['distance_error']:.2f} m off, mean")
    print(f"  place          {summary['place_error']:.2f} m off, mean of the medians")
    for cause, count in summary["failures"].items():
        print(f"  failed: {cause} {count}")


def main() -> int:
    """`ros2 run sa2va_ros follow_demo …` is `sa2va follow-demo …`."""
    from sa2va_cli.main import main as run_command

    return run_command([NAME, *sys.argv[1:]])
