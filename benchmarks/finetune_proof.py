# SPDX-License-Identifier: Apache-2.0
"""Does fine-tuning work? A new domain from a bag with 50 annotated frames, one command, before and after.

    python benchmarks/finetune_proof.py -o out/proof [--model DIR] [key=value …]

1. A camera's recording of 50 tables with objects that no shipped model has seen (sim/domain_garden.py) becomes a
   rosbag2, and `sa2va data from-bag` makes a dataset folder of it.
2. The simulator's truth stands in for the person who annotates: a label image and some expressions for each frame.
3. `sa2va data synth` renders tables of the old kind to rehearse: nobody labels them.
4. `sa2va train` with the settings that ship for the tiny model trains, and measures on held-out scenes of both kinds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from sa2va_cli.main import main as sa2va
from sa2va_sim.domain_garden import SHAPES, garden_frames
from sa2va_sim.layout import SceneConfig
from sa2va_sim.simulator import SimFrame
from sa2va_sim.words.expressions import describe
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.held_out import HELD_OUT
from sa2va_training.data.shipped import CONFIGS
from sa2va_training.data.synth import write_scenes

FRAMES, HELD, REHEARSED = 50, 120, 1500
TRAIN_SEED, HELD_SEED, OLD_HELD_SEED, OLD_SEED = 100_000, 900_000, 0, 5_000_000
TOPIC = "/camera/image"


def main() -> int:
    """Run the whole proof; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", default="out/proof")
    parser.add_argument("--model", help="checkpoint folder (default: the tiny model that ships)")
    parser.add_argument("--keep-data", action="store_true", help="use the data that is there")
    parser.add_argument("overrides", nargs="*", help="key=value for `sa2va train`")
    args = parser.parse_args()
    out = Path(args.output)
    if not args.keep_data:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        make_data(out)
    shutil.rmtree(out / "run", ignore_errors=True)
    begun = time.monotonic()
    command = ["train", str(settings_file(out)), *args.overrides]
    status = sa2va(command + (["--model", args.model] if args.model else []))
    if status:
        return status
    minutes = (time.monotonic() - begun) / 60
    results = json.loads((out / "run" / "results.json").read_text())
    held = json.loads((out / "run" / HELD_OUT).read_text())
    for name, part in held.items():
        print(f"{name}: measured on the {len(part['pictures'])} pictures of {part['root']}")
    print(f"each is named in {out / 'run' / HELD_OUT}")
    before, after = results["before"], results["after"]
    wall, processor = results["seconds"] / 60, results["processor_seconds"] / 60
    print(f"whole command: {minutes:.1f} min; training {wall:.1f} min, {processor:.1f} of one core")
    new, old = list(before)[:2]
    for name in (new, old):
        print(f"{name}: before {before[name]}\n{' ' * len(name)}  after  {after[name]}")
    gained = after[new]["giou"] >= 0.65
    kept = after[old]["giou"] >= before[old]["giou"] - 0.03
    print(f"new domain, held-out scenes: gIoU >= 0.65: {'yes' if gained else 'NO'}")
    print(f"old domain, held-out scenes: down by at most 0.03: {'yes' if kept else 'NO'}")
    return 0 if gained and kept else 1


def make_data(out: Path) -> None:
    """Bag, dataset folder, annotations, rehearsal and held-out scenes."""
    tables = SceneConfig(objects=(4, 8))
    frames = [garden_frames(TRAIN_SEED + 4 * n, 1, tables)[0] for n in range(FRAMES)]
    write_bag(out / "garden_bag", frames)
    sa2va(["data", "from-bag", str(out / "garden_bag"), "-o", str(out / "garden"), "--stills"])
    annotate(out / "garden", frames)
    sa2va(["data", "check", str(out / "garden")])
    rehearsal = str(out / "rehearsal")
    sa2va(
        [
            "data",
            "synth",
            "-o",
            rehearsal,
            "--kind",
            "sim",
            "--count",
            str(REHEARSED),
            "--size",
            "240",
        ]
    )
    held = range(HELD_SEED, HELD_SEED + 3 * HELD, 3)
    write_scenes(out / "garden_held", "garden", held, size=240, asked=("expressions",))
    old = range(OLD_HELD_SEED, OLD_HELD_SEED + HELD)
    write_scenes(out / "old_held", "sim", old, size=240, asked=("expressions",))


def write_bag(path: Path, frames: list[SimFrame]) -> None:
    """Frames as sensor_msgs/Image, two a second."""
    store = get_typestore(Stores.ROS2_JAZZY)
    image, header, stamp = (
        store.types[name]
        for name in ("sensor_msgs/msg/Image", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        link = writer.add_connection(TOPIC, image.__msgtype__, typestore=store)
        for n, frame in enumerate(frames):
            time_ns = 1_700_000_000_000_000_000 + n * 500_000_000
            height, width = frame.rgb.shape[:2]
            message = image(
                header=header(stamp(*divmod(time_ns, 1_000_000_000)), "camera"),
                height=height,
                width=width,
                encoding="rgb8",
                is_bigendian=0,
                step=3 * width,
                data=np.ascontiguousarray(frame.rgb).ravel(),
            )
            writer.write(link, time_ns, store.serialize_cdr(message, link.msgtype))


def annotate(folder: Path, frames: list[SimFrame]) -> None:
    """What the person would do: draw a label image for each picture and say what is there."""
    file = folder / "annotations.jsonl"
    pictures = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    records = []
    for n, (record, frame) in enumerate(zip(pictures, frames, strict=True)):
        labels = Path("masks") / Path(record["image"]).relative_to("images").with_suffix(".png")
        FolderWriter(folder)._labels(str(labels.with_suffix("")), frame.instances)
        rng = np.random.default_rng([n, 0xA770])
        said = describe(frame.facts, rng, 16, motion=False, shapes=SHAPES)
        records.append(
            {
                "image": record["image"],
                "labels": labels.as_posix(),
                "objects": {
                    str(f.index + 1): {"name": f"{f.colour} {f.shape}"} for f in frame.facts
                },
                "expressions": [
                    {
                        "text": e.text,
                        "objects": [] if e.target is None else [str(e.target + 1)],
                        "kind": e.kind,
                    }
                    for e in said
                ],
            }
        )
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def settings_file(out: Path) -> Path:
    """The settings of the run, as a user would write them."""
    shipped = CONFIGS / "finetune_tiny.yaml"
    values = yaml.safe_load(shipped.read_text())
    values["data"] = str(out / "garden")
    values["rehearsal"] = {"data": str(out / "rehearsal"), "weight": 1.0}  # half of all draws
    values["validation"] = [str(out / "garden_held"), str(out / "old_held")]
    values["batches"]["held_out"] = 0.0  # what is measured are scenes of their own
    values["output"], values["measure"] = str(out / "run"), HELD
    path = out / "garden.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


if __name__ == "__main__":
    sys.exit(main())
