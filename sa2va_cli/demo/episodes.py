# SPDX-License-Identifier: Apache-2.0
"""What the demos with a simulated robot share: options, processes, one command an episode, and the report.

Four processes: the simulator (robot and camera), the tracker, the consumer, and this one, which only says the commands
and asks the simulator for the truth. Their time is the simulator's, which waits for a machine or a tracker that is
slower.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sa2va_cli.demo.ros_processes import NAMESPACE, keep_to_ourselves, need_ros, node, wait_for_all
from sa2va_cli.output import write_json
from sa2va_model.errors import InputError

Episode = TypeVar("Episode")
Json = dict[str, Any]
PACE = 0.3  # seconds
SIMULATED: dict[str, Any] = {"use_sim_time": True}


@dataclass(frozen=True)
class Cast:
    """Who takes part.

    Attributes:
        robot, consumer: executables of this package.
        topic: of the consumer's commands; its results come on TOPIC_result.
        robot_parameters, consumer_parameters: of the two nodes.
    """

    robot: str
    consumer: str
    topic: str
    robot_parameters: Mapping[str, Any] = field(default_factory=dict)
    consumer_parameters: Mapping[str, Any] = field(default_factory=dict)


def add_episode_arguments(parser: argparse.ArgumentParser, *, episodes: int) -> None:
    """What all these demos take."""
    parser.add_argument(
        "--episodes", type=int, default=episodes, metavar="N", help=f"how many (default {episodes})"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the first; each further one adds 1"
    )
    parser.add_argument(
        "--scene",
        choices=("shapes", "kitchen"),
        default="shapes",
        help="what stands about; kitchen: ordinary things, by their names (make realistic)",
    )
    parser.add_argument(
        "--truth",
        action="store_true",
        help="masks come from the simulator's truth and not from the model: measures the rest alone",
    )
    parser.add_argument(
        "--pace",
        type=float,
        default=PACE,
        metavar="S",
        help=f"seconds by which the tracker may be behind before simulated time waits for it (default {PACE:g}); "
        "0 = it waits for nobody",
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="X",
        help="simulated seconds in a second, at most (default 1)",
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
    for name, least, most in (("pace", 0.0, 60.0), ("speed", 0.01, 100.0)):
        if not least <= (value := getattr(args, name)) <= most:
            raise InputError(f"--{name} {value:g}: expected {least:g} to {most:g}")
    if args.model and not Path(args.model).is_dir():
        raise InputError(f"--model {args.model}: no such folder; expected a checkpoint folder")
    if args.scene == "kitchen":
        from sa2va_sim.catalogue.furniture import read_furniture

        read_furniture()  # what is missing is said before any process starts


def reliably(*topics: str) -> dict[str, str]:
    """Parameters that make a node ask again for what got lost; large messages do, on a busy machine."""
    return {
        f"qos_overrides.{NAMESPACE}/{topic}.subscription.reliability": "reliable"
        for topic in topics
    }


class Arena:
    """The processes, ready, and the referee who knows the truth; closed with `stack`."""

    def __init__(
        self, args: argparse.Namespace, cast: Cast, folder: Path, stack: ExitStack
    ) -> None:
        from sa2va_cli.demo.episode_video import EpisodeFilm
        from sa2va_ros.sim.referee import Referee

        self._film = EpisodeFilm(folder) if args.output else None
        if self._film is not None:
            stack.callback(self._film.close)
        watch = self._film.add if self._film else None
        referee = Referee(cast.robot, cast.topic, f"{cast.topic}_result", watch=watch)
        self._referee = stack.enter_context(referee)
        world = {
            "seed": args.seed,
            "scene": args.scene,
            "pace": float(args.pace),
            "speed": float(args.speed),
        }
        self._settle = max(0.3, args.pace + 0.2)
        logs = {name: folder / f"{name}.log" for name in ("tracker", cast.robot, cast.consumer)}
        processes: dict[str, subprocess.Popen[bytes]] = {
            "tracker": stack.enter_context(_tracker(args, logs["tracker"])),
            cast.robot: stack.enter_context(
                node(cast.robot, logs[cast.robot], **world, **cast.robot_parameters)
            ),
            cast.consumer: stack.enter_context(
                node(cast.consumer, logs[cast.consumer], **SIMULATED, **cast.consumer_parameters)
            ),
        }
        self._processes = list(processes.values())
        wait_for_all(self._referee.ready, processes, logs)

    def command(
        self, verb: str, limit: float, least: float = 0.0
    ) -> tuple[Json, Json | None, Json, float]:
        """A new scene and one command.

        Args:
            limit: simulated seconds after which the episode is given up.
            least: seconds that an episode counts, also if it was refused at once.

        Returns:
            What the simulator said of the scene, the consumer's result, the score and the simulated seconds it took.
        """
        started = self._referee.ask("next_episode")
        command = f"{verb} {started['expression']}"
        if self._film is not None:
            self._film.begin(command)
        self._referee.rest(self._settle)  # the tracker sees the new scene
        began = self._referee.now()
        result = self._referee.command(command, limit, self._alive)
        if result is not None and result["outcome"] == "refused":
            self._referee.rest(max(0.0, least - (self._referee.now() - began)))
        seconds = self._referee.now() - began
        return started, result, self._referee.ask("score"), seconds

    def ended(self, seed: int, verdict: str, success: bool) -> None:
        """Tell the film how it went."""
        if self._film is not None:
            self._film.end(seed, verdict, success)

    def _alive(self) -> bool:
        return all(process.poll() is None for process in self._processes)


def _tracker(args: argparse.Namespace, log: Path) -> AbstractContextManager[Any]:
    """The tracker's process: the model's, or the one that uses the simulator's masks."""
    if args.truth:
        return node("truth_tracker", log, **SIMULATED, **reliably("image", "depth"))
    model = {"model": args.model or "", "device": args.device}
    return node("tracker_node", log, **model, **SIMULATED, **reliably("image", "depth"))


def run_episodes(
    args: argparse.Namespace,
    cast: Cast,
    *,
    episode: Callable[[Arena], Episode],
    line: Callable[[Episode], str],
    report: Callable[[list[Episode]], Json],
    name: str,
) -> None:
    """All episodes with a line each, and the report as JSON where it is asked for.

    Args:
        episode: runs one.
        report: prints the summary; what the report holds besides the episodes.
        name: of the report's file.
    """
    need_ros()
    keep_to_ourselves()
    with ExitStack() as stack:
        folder = Path(args.output or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        arena = Arena(args, cast, folder, stack)
        episodes = []
        for number in range(1, args.episodes + 1):
            episodes.append(episode(arena))
            print(f"{number:3d}  {line(episodes[-1])}", flush=True)
    masks = {"scene": args.scene, "masks": "truth" if args.truth else "model"}
    each: list[Any] = [asdict(one) for one in episodes]  # type: ignore[call-overload]
    result = {**masks, **report(episodes), "episodes": each}
    write_json(args.json, result)
    if args.output:
        write_json(folder / name, result)
        print(f"film {folder / 'episodes.mp4'}   figures {folder / name}")
