# SPDX-License-Identifier: Apache-2.0
"""`sa2va data label` and `sa2va data harvest`: masks that a model makes, now or while a robot worked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sa2va_cli.inputs import positive
from sa2va_cli.models import add_adapter, open_model


def add_label(actions: Any) -> argparse.ArgumentParser:
    """The options of `sa2va data label`."""
    parser = actions.add_parser(
        "label",
        help="drafts by the model: words become masks where words, memory and a second look agree",
    )
    add_adapter(parser)
    parser.add_argument("folder", metavar="FOLDER", help="dataset folder")
    parser.add_argument(
        "-e", "--expression", action="append", default=[], metavar="WORDS", help="what to mark"
    )
    parser.add_argument(
        "--clip", action="append", default=[], metavar="NAME", help="only this clip"
    )
    parser.add_argument(
        "--every", type=positive, default=10, metavar="N", help="look at every N-th frame"
    )
    made: argparse.ArgumentParser = parser
    return made


def add_harvest(actions: Any) -> argparse.ArgumentParser:
    """The options of `sa2va data harvest`."""
    parser = actions.add_parser(
        "harvest", help="drafts from the tracks and masks that a robot recorded"
    )
    parser.add_argument("folder", metavar="FOLDER", help="dataset folder, made by from-bag")
    parser.add_argument("bag", metavar="BAG", help="rosbag2 with tracks of the same recording")
    parser.add_argument(
        "--namespace", default="/sa2va", metavar="NS", help="of the topics (default: /sa2va)"
    )
    made: argparse.ArgumentParser = parser
    return made


def label(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """`sa2va data label`."""
    from rich.console import Console
    from rich.progress import Progress

    from sa2va_training.data.drafts.label import label_folder

    model = open_model(args)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("labelling", total=None)
        done = label_folder(
            model,
            Path(args.folder),
            args.expression,
            clips=args.clip,
            every=args.every,
            tick=lambda: bar.advance(task),
        )
    for one in done:
        print(
            f"{one.place}: {one.expression}{f' (object {one.number})' if one.number else ''}: {one.kept} of "
            f"{one.looked} frames kept, {one.filled} masks filled in, {len(one.open)} left to you"
        )
    if not done:
        print(f"{args.folder}: nothing to do; what is called so has masks already")
    if any(one.open for one in done):
        print(
            f"{args.folder}/label: index.html, open.jsonl; draw these frames (pixel value = the object's number), then "
            "call label again"
        )
    keys = ("place", "expression", "number", "looked", "kept", "filled")
    record = [{key: getattr(one, key) for key in keys} | {"open": len(one.open)} for one in done]
    return 0, {"drafted": record}


def harvest(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """`sa2va data harvest`."""
    from sa2va_ros.bags.bag import read_messages, topics_of
    from sa2va_training.data.drafts import harvest as drafts

    bag, base = Path(args.bag), args.namespace.rstrip("/")
    wanted = ["tracks", "mask", *(["prompt"] if f"{base}/prompt" in topics_of(bag) else [])]
    seen = drafts.collected({name: read_messages(bag, f"{base}/{name}") for name in wanted})
    done = drafts.harvest(Path(args.folder), seen)
    for one in done:
        print(
            f"{one.clip}: {one.objects} tracks, {one.masks} masks on {one.matched} images that had tracks"
        )
    print(f"look at it: sa2va data look {args.folder}")
    return 0, {"clips": [vars(one) for one in done]}
