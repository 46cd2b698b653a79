# SPDX-License-Identifier: Apache-2.0
"""Seconds and peak memory of loading a checkpoint of a published size that our own saver wrote, and its round trip.

    python benchmarks/loading.py 1b --stored bfloat16 --dtype bfloat16

Weights are random. Loading runs in a process of its own, so that its peak is its own; what Python and the libraries
need before the first tensor is measured in it as well and taken off.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

GIB = 2.0**30


def random_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Gives a model that was built without memory random weights, one after the other."""
    from sa2va_model.checkpoints.meta_init import place

    noise = (torch.randn(2**20, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
    for shift, (name, parameter) in enumerate(list(model.named_parameters())):
        # The same numbers in another order for each tensor: drawing a billion takes longer than all the rest.
        turned = noise.roll(997 * shift)
        repeats = -(-parameter.numel() // len(turned))
        place(model, name, turned.repeat(repeats)[: parameter.numel()].reshape(parameter.shape))


def write(size: str, folder: Path, dtype: torch.dtype) -> str:
    """A checkpoint of a published size in the official layout; returns a digest of its weights."""
    from sa2va_model.checkpoints.load import save_model
    from sa2va_model.checkpoints.meta_init import unallocated
    from sa2va_model.checkpoints.presets import byte_tokenizer
    from sa2va_model.checkpoints.published import published_config
    from sa2va_model.mllm.registry import family
    from sa2va_model.sa2va import Sa2VA

    with unallocated():
        config = published_config(size)
        tokenizer = byte_tokenizer(extra=family(config.mllm.family).tokens)
        model = Sa2VA(config, tokenizer).eval()
    random_weights(model, dtype)
    save_model(model, folder, dtype=dtype)
    return digest(model.state_dict(), dtype)


def digest(state: dict[str, Tensor], dtype: torch.dtype) -> str:
    """Of all weights, bit by bit, in the type in which they are stored."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", dtype).contiguous()
        total.update(name.encode())
        total.update(memoryview(tensor.view(torch.uint8).numpy().reshape(-1)))  # type: ignore[arg-type]
    return total.hexdigest()


def status(field: str) -> float:
    """A field of /proc/self/status in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / GIB
    raise RuntimeError(f"/proc/self/status has no {field}")


def load(folder: Path, device: str, dtype: str, stored: torch.dtype) -> dict[str, object]:
    """Loads and measures; runs in a process of its own."""
    import sa2va_model.checkpoints.load as checkpoints

    checkpoints.load_model(None)  # imports and first use of the libraries
    before = status("VmRSS")
    start, busy = time.perf_counter(), time.process_time()
    model = checkpoints.load_model(folder, device=device, dtype=dtype)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = status("VmHWM")
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / GIB
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(busy, 2),
        "weights_gib": round(weights, 3),
        "peak_gib": round(peak - before, 3),
        "peak_over_weights": round((peak - before) / weights, 3),
        "before_gib": round(before, 3),
        "digest": digest(model.state_dict(), stored),
    }


def main() -> None:
    """Writes, loads in a new process, compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size")
    parser.add_argument("--stored", default="bfloat16", help="type in the file")
    parser.add_argument("--dtype", default="auto", help="type in memory")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", help="keep the checkpoint here")
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    stored = getattr(torch, args.stored)
    if args.load:
        sys.stdout.write(json.dumps(load(Path(args.folder), args.device, args.dtype, stored)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.folder or scratch)
        written = write(args.size, folder, stored)
        command = [sys.executable, __file__, args.size, "--load", "--folder", str(folder)]
        command += ["--stored", args.stored, "--dtype", args.dtype, "--device", args.device]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(output.splitlines()[-1])
        same = found.pop("digest") == written
        result = {"size": args.size, "stored": args.stored, "dtype": args.dtype, **found}
        sys.stdout.write(json.dumps({**result, "identical": same}) + "\n")


if __name__ == "__main__":
    main()
