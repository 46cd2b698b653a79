# SPDX-License-Identifier: Apache-2.0
"""What keyframes as JPEG and embeddings in fp16 cost: masks beside those of the model on board, and bytes.

python benchmarks/fleet_keyframes.py
"""

from __future__ import annotations

import json

import numpy as np
import torch
from fleet import pictures

from sa2va_model.checkpoints.load import load_model, suit_threads
from sa2va_model.sa2va import Sa2VA
from sa2va_serve.wire import codec


def mask(model: Sa2VA, image: np.ndarray, embeddings: torch.Tensor) -> np.ndarray:
    """What the first embedding shows on an image, bool [H, W]."""
    return model.follow_clip([image], embeddings[:1], [0])[0][0][0]


def main() -> None:
    """Print one JSON."""
    model = load_model(device="cpu")
    suit_threads(model)
    overlaps: dict[str, list[float]] = {"png": [], "jpeg": []}
    changed = dict.fromkeys(overlaps, 0)
    sizes: dict[str, list[int]] = {"png": [], "jpeg": [], "answer": []}
    for image, words in pictures():
        here = model.ground_many([image], words)
        for encoding, found in overlaps.items():
            data = codec.encode_image(image, encoding)
            sizes[encoding].append(len(data))
            for mine, reply in zip(
                here, model.ground_many([codec.decode_image(data)], words), strict=True
            ):
                message = codec.to_meaning(reply)
                sizes["answer"].append(message.ByteSize())
                there = codec.from_meaning(message)
                changed[encoding] += there.found != mine.found
                if there.found and mine.found:
                    a, b = mask(model, image, there.embeddings), mask(model, image, mine.embeddings)
                    found.append(float((a & b).sum() / max((a | b).sum(), 1)))
    out = {
        kind: {
            "IoU, mean": round(float(np.mean(found)), 4),
            "IoU, worst": round(min(found), 4),
            "masks": len(found),
            "found changed": changed[kind],
            "bytes of a keyframe": int(np.median(sizes[kind])),
        }
        for kind, found in overlaps.items()
    }
    print(json.dumps({**out, "bytes of an answer": int(np.median(sizes["answer"]))}, indent=2))


if __name__ == "__main__":
    main()
