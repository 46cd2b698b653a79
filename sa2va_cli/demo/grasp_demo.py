# SPDX-License-Identifier: Apache-2.0
"""`sa2va grasp-demo`: a gripper in the simulator picks up what it is told, over ROS only, and is measured."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sa2va_cli.demo.episodes import (
    Arena,
    Cast,
    add_episode_arguments,
    check_episodes,
    reliably,
    run_episodes,
)
from sa2va_cli.demo.grasp_score import GraspEpisode, judge, summarise

NAME = "grasp-demo"
HELP = "Let a simulated gripper pick up what it is told, over ROS 2 only, and count successes and failures by cause."
EXAMPLES = """examples:
  sa2va grasp-demo --episodes 50 --seed 0 --json out/grasping.json
  sa2va grasp-demo --scene kitchen             ordinary things of the furniture catalogue (make realistic)
  sa2va grasp-demo --truth --episodes 20       the simulator's masks instead of the model: manipulation alone
  sa2va grasp-demo --episodes 3 -o out/grasp   also writes a film and a picture of each end
  ros2 run sa2va_ros grasp_demo --episodes 3   the same command"""
EPISODE_SECONDS = 180.0  # simulated, after which an episode is given up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_episode_arguments(parser, episodes=10)
    parser.add_argument(
        "--sentences",
        default="attribute",
        metavar="KINDS",
        help="kinds of sentences about shapes, with + between them: attribute, size, position, relation",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="tracks with a lower score are not taken (default: the picker's)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the episodes; 0 when all were run, however they ended."""
    check_episodes(args)
    from sa2va_ros.sim.gantry import kinds_of

    kinds_of(args.sentences)
    wanted = {} if args.min_score is None else {"min_score": float(args.min_score)}
    cast = Cast(
        "sim_gantry",
        "picker",
        "pick",
        robot_parameters={"sentences": args.sentences},
        consumer_parameters={**wanted, **reliably("depth")},
    )

    def report(episodes: list[GraspEpisode]) -> dict[str, Any]:
        summary = summarise(episodes)
        _print_summary(summary, truth=args.truth)
        return {"sentences": args.sentences, "summary": summary}

    run_episodes(args, cast, episode=_episode, line=_line, report=report, name="grasping.json")
    return 0


def _episode(arena: Arena) -> GraspEpisode:
    episode = judge(*arena.command("pick up", EPISODE_SECONDS))
    verdict = "in the gripper" if episode.success else f"{episode.cause}: {episode.detail}"
    arena.ended(episode.seed, verdict, episode.success)
    return episode


def _line(episode: GraspEpisode) -> str:
    verdict = "held" if episode.success else f"{episode.cause}: {episode.detail}"
    return f"seed {episode.seed:<6d} {episode.command:32s} {episode.seconds:5.1f} s  {verdict}"


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
