# SPDX-License-Identifier: Apache-2.0
"""`sa2va annotate`: expressions for the objects of a dataset folder, written by models as Ref-SAV's were."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sa2va_cli.models import add_adapter, open_model
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from sa2va_training.annotate.backends import Annotator

NAME = "annotate"
HELP = "Write expressions for the objects of a dataset folder: object, scene, video."
EXAMPLES = """examples:
  sa2va annotate my_clips --captioner http://gpu:8000/v1 --checker http://gpu:8001/v1#Qwen3-8B
  sa2va annotate my_clips --captioner model --checker model --model Sa2VA-8B --stage object
  torchrun --nproc-per-node 8 -m sa2va_model annotate my_clips --captioner URL --checker URL      every 8th record each
  sa2va annotate clips --captioner truth --checker truth          simulated clips, by their names

A back end is the URL of an OpenAI-compatible server (vLLM, ...; #NAME picks a model, OPENAI_API_KEY is sent), `model`
(the one of --model), or `truth`. Writes annotate/STAGE.jsonl in the folder, every answer with its question, and
expressions of kind "long" into annotations.jsonl. What was answered is not asked again; the status is 1 where answers
are missing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va annotate`."""
    add_adapter(parser)
    parser.add_argument("folder", metavar="FOLDER", help="dataset folder with masks")
    parser.add_argument(
        "--stage",
        default="object,scene,video",
        metavar="STAGES",
        help="object; object,scene; or object,scene,video (default)",
    )
    for role, line in (("captioner", "who describes"), ("checker", "who compares descriptions")):
        parser.add_argument(f"--{role}", required=True, metavar="URL|model|truth", help=line)


def run(args: argparse.Namespace) -> int:
    """Annotate; returns the exit status."""
    from sa2va_cli.output import write_json
    from sa2va_training.annotate.pipeline import annotate

    known: dict[str, Annotator] = {}
    captioner, checker = (_backend(word, args, known) for word in (args.captioner, args.checker))
    stages = [stage.strip() for stage in args.stage.split(",")]
    shard = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    tally = annotate(Path(args.folder), captioner, checker, stages=stages, shard=shard)
    print(
        f"{args.folder}: {tally.kept} objects have an expression, {tally.dropped} were dropped by the check"
    )
    for line in tally.unanswered:
        print(f"not answered: {line}")
    write_json(
        args.json,
        {"kept": tally.kept, "dropped": tally.dropped, "unanswered": list(tally.unanswered)},
    )
    return int(bool(tally.unanswered))


def _backend(word: str, args: argparse.Namespace, known: dict[str, Annotator]) -> Annotator:
    from sa2va_training.annotate.backends import Endpoint, KnownNames, OwnModel

    if word not in known:
        if word == "model":
            known[word] = OwnModel(open_model(args), args.model or "tiny")
        elif word == "truth":
            known[word] = KnownNames()
        elif word.startswith(("http://", "https://")):
            url, _, name = word.partition("#")
            known[word] = Endpoint(url, name)
        else:
            raise InputError(f"back end is {word!r}; expected a URL, model or truth")
    return known[word]
