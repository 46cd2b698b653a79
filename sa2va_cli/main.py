# SPDX-License-Identifier: Apache-2.0
"""Entry point of `sa2va` and of `python -m sa2va_model`.

A subcommand is a module with NAME, HELP, EXAMPLES, add_arguments(parser) and run(args) -> exit status. Only the module
of the command that was asked for is imported, so `sa2va --help` is quick.

Exit status: 0 success, 2 wrong input (one line on stderr), 1 failure, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import NoReturn

from sa2va_model.errors import InputError
from sa2va_model.freed_memory import keep_freed_memory


@dataclass(frozen=True)
class Subcommand:
    """A subcommand: where it is, and its line in `sa2va --help`."""

    module: str
    help: str


COMMANDS = {
    "track": Subcommand(
        "track.command", "follow objects through a video, an image folder or a rosbag2"
    ),
    "ask": Subcommand(
        "ask.command", "ask about an image or a video; captions, with masks if wanted"
    ),
    "verify-golden": Subcommand(
        "evaluation.verify_golden", "check a checkpoint against its golden files"
    ),
    "bench": Subcommand("bench.command", "measure speed on this machine"),
    "train": Subcommand("train", "fine-tune a model on one's own data"),
    "assemble": Subcommand("assemble", "put a base MLLM and a SAM-2 together to train from"),
    "merge": Subcommand("merge", "make an adapter a part of its model"),
    "export": Subcommand("export", "write SAM-2 as ONNX graphs, for ONNX Runtime and TensorRT"),
    "data": Subcommand("data.command", "make, complete and check datasets"),
    "annotate": Subcommand("annotate", "write expressions for the objects of a dataset"),
    "evaluate": Subcommand(
        "evaluation.evaluate", "measure a model on a dataset, as the benchmarks do"
    ),
    "serve": Subcommand("serve", "understand the sentences of many robots on one GPU"),
    "compare": Subcommand("evaluation.compare", "compare two evaluations of one dataset"),
    "reproduce": Subcommand(
        "evaluation.reproduce", "run a table of the paper on the data that is there"
    ),
    "doctor": Subcommand("doctor", "say what is installed, what is missing and how to get it"),
    "demo": Subcommand(
        "demo.command", "run the camera simulator and the ROS 2 node and measure them"
    ),
    "grasp-demo": Subcommand(
        "demo.grasp_demo", "let a simulated gripper pick up what it is told, and measure it"
    ),
    "follow-demo": Subcommand(
        "demo.follow_demo", "let a simulated base follow what it is told, and measure it"
    ),
}
EPILOG = """examples:
  sa2va track table.mp4 -e "the blue mug" -o out/table
  sa2va ask table.png "What is on the table?"
  sa2va doctor
  sa2va COMMAND --help     all options of a command, with examples"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2."""

    _mixing = False

    def error(self, message: str) -> NoReturn:
        """Called by argparse on wrong usage."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Called by argparse; lets options stand before key=value settings, which it does not do by itself."""
        if self._mixing or not any(
            action.nargs == "*" for action in self._get_positional_actions()
        ):
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    keep_freed_memory()
    words = list(sys.argv[1:] if argv is None else argv)
    parser, modules = build_parser(words)
    try:
        args = parser.parse_args(words)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else 1
    except InputError as error:  # from the type of an argument
        return _refuse(words[0], error)
    if args.command is None:
        parser.print_help()
        return 2
    return _run(args, modules[args.command])


def build_parser(words: Sequence[str]) -> tuple[Parser, dict[str, ModuleType]]:
    """The parser; only the command named in `words` has its options, the others just their help line."""
    parser = Parser(
        prog="sa2va",
        description="Find what a sentence describes, and keep it in view.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    wanted = next((word for word in words if not word.startswith("-")), None)
    modules: dict[str, ModuleType] = {}
    for name, command in COMMANDS.items():
        if name != wanted:
            subparsers.add_parser(name, help=command.help)
            continue
        module = modules[name] = importlib.import_module(f"sa2va_cli.{command.module}")
        sub = subparsers.add_parser(
            name,
            help=command.help,
            description=module.HELP,
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            conflict_handler="resolve",  # a command may give a common option a meaning of its own
        )
        add_common(sub)
        module.add_arguments(sub)
    return parser, modules


def add_common(parser: argparse.ArgumentParser, *, nested: bool = False) -> None:
    """The options that every command has.

    Args:
        nested: for the parser of a command's own subcommand; what stands before its name then stays as given.
    """

    def default(value: str | bool | None) -> str | bool | None:
        return argparse.SUPPRESS if nested else value

    group = parser.add_argument_group("common options")
    group.add_argument(
        "--model",
        metavar="DIR",
        default=default(None),
        help="checkpoint folder, ours or an official Sa2VA one, or a name on the Hugging Face hub "
        "(default: the tiny model that ships)",
    )
    group.add_argument(
        "--device",
        default=default("auto"),
        metavar="auto|cpu|cuda",
        help="where to compute (default: auto)",
    )
    group.add_argument(
        "--dtype",
        default=default("auto"),
        metavar="auto|float32|bfloat16|float16",
        help="of the weights in memory (default: float32 on the CPU, bfloat16 on CUDA)",
    )
    group.add_argument(
        "--bits",
        type=int,
        choices=(8, 4),
        default=default(None),
        help="quantise the language model, and only that (needs bitsandbytes)",
    )
    group.add_argument(
        "--json", metavar="FILE", default=default(None), help="also write the results as JSON"
    )
    group.add_argument(
        "--debug",
        action="store_true",
        default=default(False),
        help="show the traceback of a failure",
    )


def _run(args: argparse.Namespace, module: ModuleType) -> int:
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        status = module.run(args)
    except InputError as error:
        if args.debug:
            traceback.print_exc()
        return _refuse(args.command, error)
    except KeyboardInterrupt:
        print(f"sa2va {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone, as in `sa2va doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last one to see it: one line, status 1
        if args.debug:
            traceback.print_exc()
            return 1
        reason = " ".join(str(error).split()) or "no message"
        print(
            f"sa2va {args.command}: {type(error).__name__}: {reason} (--debug shows where)",
            file=sys.stderr,
        )
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
    return int(status or 0)


def _refuse(command: str, error: InputError) -> int:
    print(f"sa2va {command}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends a command as Ctrl-C does, so that files are closed."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
