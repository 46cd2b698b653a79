# SPDX-License-Identifier: Apache-2.0
"""Makes masks.json: made masks with the numbers of the benchmarks' own evaluation code, which is not part of this
repository.

    git clone https://github.com/davisvideochallenge/davis2017-evaluation   # ac7c43f
    git clone https://github.com/cilinyan/VISA                              # ec158fd
    git clone https://github.com/mbzuai-oryx/groundingLMM                   # e74865f
    pip install scikit-image pandas
    python test/data/metrics/make_masks.py davis2017-evaluation VISA groundingLMM
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

HEIGHT, WIDTH = 60, 84


def blob(rng: np.random.Generator, holes: bool = True) -> np.ndarray:
    """A random patch with rough edges, sometimes at the border, sometimes empty."""
    noise = cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH)), (0, 0), 4)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centre = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH)
    distance = np.hypot(y - centre[0], x - centre[1]) / rng.uniform(8, 25)
    return (1 - distance + (6 if holes else 2) * noise) > 0


def shifted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A prediction: the mask moved by some pixels, with a hole or an added patch."""
    out = np.roll(mask, (int(rng.integers(-4, 5)), int(rng.integers(-4, 5))), (0, 1))
    return out ^ blob(rng, False) if rng.random() < 0.4 else out


def rle(mask: np.ndarray) -> dict[str, Any]:
    """As JSON has it."""
    coded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": coded["counts"].decode()}


def functions(path: Path, names: list[str], space: dict[str, Any]) -> dict[str, Any]:
    """Some functions of a file that cannot be imported as a whole (it loads a BERT)."""
    tree = ast.parse(path.read_text())
    kept = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    exec(compile(ast.Module(kept, []), str(path), "exec"), space)
    return space


def load(folder: Path, module: str) -> Any:
    """A module of a checkout."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.pop(0)


def clips(davis: Path, visa: Path) -> list[dict[str, Any]]:
    """Clips with J, F (davis2017), statistics, and A, R (VISA)."""
    metrics, utils = load(davis, "davis2017.metrics"), load(davis, "davis2017.utils")
    revos = load(visa / "tools", "metrics")
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truth = np.stack([blob(rng) for _ in range(8)])
        if seed == 1:
            truth[2:4] = False
        prediction = np.stack([shifted(mask, rng) for mask in truth])
        if seed == 2:
            prediction[:] = False
        other = np.stack([blob(rng) for _ in range(8)])
        foreground = truth | other
        void = np.stack([blob(rng) for _ in range(8)])
        j = metrics.db_eval_iou(truth, prediction)
        f = metrics.db_eval_boundary(truth, prediction)
        bits = [a.astype(np.uint8) for a in (truth, prediction, foreground)]
        found.append(
            {
                "truth": [rle(m) for m in truth],
                "prediction": [rle(m) for m in prediction],
                "foreground": [rle(m) for m in foreground],
                "void": [rle(m) for m in void],
                "j": [float(v) for v in j],
                "f": [float(v) for v in f],
                "j_void": [float(v) for v in metrics.db_eval_iou(truth, prediction, void)],
                "f_void": [float(v) for v in metrics.db_eval_boundary(truth, prediction, void)],
                "j_statistics": [float(v) for v in utils.db_statistics(np.asarray(j))],
                "accuracy": float(np.mean(revos.get_r2vos_accuracy(bits[0], bits[1]))),
                "robustness": float(np.mean(revos.get_r2vos_robustness(*bits))),
            }
        )
    return found


def unsupervised(davis: Path) -> list[dict[str, Any]]:
    """Several objects, matched and scored by davis2017's unsupervised evaluation."""
    evaluation = load(davis, "davis2017.evaluation").DAVISEvaluation
    found = []
    for seed in range(3):
        rng = np.random.default_rng(100 + seed)
        truth = np.zeros((4, HEIGHT, WIDTH), int)
        labels = np.zeros((4, HEIGHT, WIDTH), int)
        for number in range(3):
            for t in range(4):
                mask = blob(rng)
                truth[t][mask] = number + 1
                if number < 3 - (seed == 1):  # once with an object that is missed
                    labels[t][shifted(mask, rng)] = 3 - number
        if seed == 2:
            for t in range(4):
                truth[t][blob(rng)] = 255
        planes = [np.stack([image == i + 1 for i in range(3)]) for image in (truth, labels)]
        j, f = evaluation._evaluate_unsupervised(*planes, truth == 255, ("J", "F"))
        found.append(
            {
                "truth": [[rle(image == v) for v in (1, 2, 3, 255)] for image in truth],
                "labels": [[rle(image == v) for v in (1, 2, 3)] for image in labels],
                "j": sorted(float(v) for v in j.mean(axis=1)),
                "f": sorted(float(v) for v in f.mean(axis=1)),
            }
        )
    return found


def grounded(glamm: Path) -> dict[str, Any]:
    """Images with masks and phrases: AP50, mIoU, recall by GLaMM's code, phrases compared by shared words."""
    from pycocotools import mask as mask_utils
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    words = lambda text: set(text.split()) - {"a", "an", "the"}  # noqa: E731

    def similar(first: str, second: str) -> float:
        common = len(words(first) & words(second))
        return 2 * common / (len(words(first)) + len(words(second))) if common else 0.0

    space: dict[str, Any] = {"np": np, "maskUtils": mask_utils, "text_similarity_bert": similar}
    functions(glamm / "eval" / "utils.py", ["compute_iou"], space)
    functions(
        glamm / "eval" / "gcg" / "evaluate.py",
        ["compute_miou", "compute_iou_matrix", "find_best_matches"],
        space,
    )
    names = ["the red mug", "a blue box", "white plate", "the black bottle", "a green can"]
    images, annotations, results = [], [], []
    mious, hits, total = [], 0, 0
    for number in range(6):
        rng = np.random.default_rng(200 + number)
        true = [blob(rng, False) for _ in range(int(rng.integers(1, 5)))]
        labels = [names[int(i)] for i in rng.permutation(5)[: len(true)]]
        keep = [i for i in range(len(true)) if rng.random() < 0.8]
        said = [labels[i] if rng.random() < 0.8 else names[int(rng.integers(5))] for i in keep]
        found = [shifted(true[i], rng) for i in keep]
        if number % 2:
            found.append(blob(rng, False))
            said.append(names[int(rng.integers(5))])
        mious.append(float(space["compute_miou"](found, true)))
        pairs = space["find_best_matches"](
            [{"segmentation": rle(m)} for m in true], labels,
            [{"segmentation": rle(m)} for m in found], said, 0.5, 0.5,
        )  # fmt: skip
        hits, total = hits + len(pairs), total + len(labels)
        images.append(
            {
                "truth": [rle(m) for m in true],
                "phrases": labels,
                "found": [rle(m) for m in found],
                "said": said,
                "miou": mious[-1],
                "matches": len(pairs),
            }
        )
        for m in true:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                 "area": int(m.sum()), "bbox": [float(v) for v in mask_utils.toBbox(rle(m))], "segmentation": rle(m)}
            )  # fmt: skip
        for m in found:
            results.append(
                {"image_id": number, "category_id": 1, "segmentation": rle(m), "score": 1.0}
            )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "truth.json"
        whole = {
            "info": {},
            "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(6)],
            "categories": [{"id": 1}],
        }
        path.write_text(json.dumps(whole | {"annotations": annotations}))
        reference = COCO(str(path))
        evaluation = COCOeval(reference, reference.loadRes(results), "segm")
        evaluation.params.catIds = [1]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        "images": images,
        "ap50": float(evaluation.stats[1]),
        "miou": float(np.mean(mious)),
        "recall": hits / total,
    }


def main() -> None:
    """Write the file beside this script."""
    davis, visa, glamm = (Path(name).resolve() for name in sys.argv[1:4])
    data = {
        "made_with": "davis2017-evaluation ac7c43f, VISA ec158fd, groundingLMM e74865f; see make_masks.py",
        "clips": clips(davis, visa),
        "unsupervised": unsupervised(davis),
        "grounded": grounded(glamm),
    }
    target = Path(__file__).with_name("masks.json")
    target.write_text(json.dumps(data) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
