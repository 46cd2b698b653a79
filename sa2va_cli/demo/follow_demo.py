# SPDX-License-Identifier: Apache-2.0
"""`sa2va follow-demo`: a simulated base keeps what it is told at a distance, over ROS only, and is measured."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sa2va_cli.demo.episodes import (
    Arena,
    Cast,
    add_episode_arguments,
    check_episodes,
    run_episodes,
)
from sa2va_cli.demo.follow_score import FollowEpisode, judge, summarise
from sa2va_model.errors import InputError

NAME = "follow-demo"
HELP = "Let a simulated base follow what it is told, over ROS 2 only, and measure how long it keeps it in view."
EXAMPLES = """examples:
  sa2va follow-demo --episodes 20 --seed 0 --json out/following.json
  sa2va follow-demo --scene kitchen            ordinary things of the furniture catalogue (make realistic)
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
    seconds, distance = float(args.seconds), float(args.distance)
    cast = Cast(
        "sim_rover",
        "follower",
        "follow",
        robot_parameters={"seconds": seconds + 10},
        consumer_parameters={"duration": seconds, "distance": distance},
    )

    def episode(arena: Arena) -> FollowEpisode:
        started, result, score, took = arena.command("follow", 5 * seconds + 120, least=seconds)
        done = judge(started, result, score, distance, took)
        verdict = f"in view {done.in_view:.0%}" + (f", {done.cause}" if done.cause else "")
        arena.ended(done.seed, verdict, done.success)
        return done

    def report(episodes: list[FollowEpisode]) -> dict[str, Any]:
        summary = summarise(episodes)
        _print_summary(summary, truth=args.truth)
        return {"distance": args.distance, "summary": summary}

    run_episodes(args, cast, episode=episode, line=_line, report=report, name="following.json")
    return 0


def _line(episode: FollowEpisode) -> str:
    verdict = "followed" if episode.success else f"{episode.cause}: {episode.detail}"
    return (
        f"seed {episode.seed:<6d} {episode.command:20s} in view {episode.in_view:4.0%}  "
        f"distance ±{episode.distance_error:.2f} m  {verdict}"
    )


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
