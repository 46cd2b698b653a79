# SPDX-License-Identifier: Apache-2.0
"""The parameters of tracking: one row for each field of `LiveConfig`, from where the defaults come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sa2va_model.tracking.config import PROPAGATIONS, LiveConfig
from sa2va_ros.support.parameter import Parameter

DEFAULTS = LiveConfig(background=True)
NOT_SET = {
    "background": "a node asks beside its frames, whatever comes",
    "calibration": "measured with the weights and kept beside them (calibration.json)",
}
"""Fields without a parameter, and why."""

_ROWS: dict[str, Parameter] = {}


def _row(
    field: str,
    name: str,
    description: str,
    span: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Parameter:
    """The parameter that sets a field, with the field's default."""
    default: Any = DEFAULTS
    for part in field.split("."):
        default = getattr(default, part)
    dynamic = field.split(".")[0] not in LiveConfig.FIXED
    _ROWS[field] = Parameter(name, default, description, span, choices, dynamic)
    return _ROWS[field]


FIXED = (
    _row(
        "propagation.kind",
        "propagation",
        "Who follows an object that was found: the model's own SAM-2, or (handover) the stock one of `sam2`.",
        choices=PROPAGATIONS,
    ),
    _row(
        "propagation.stock",
        "sam2",
        "Published SAM-2, SAM 3 or EdgeTAM file (.pt) of any size that follows with propagation handover.",
    ),
    _row(
        "propagation.resolution",
        "resolution",
        "Side of the square in which objects are followed, pixels: 1024, 512 or 256; 0 = the model's own.",
        (0, 1024),
    ),
    _row(
        "propagation.profile",
        "profile",
        "Arithmetic of tracking; auto = the fastest with practically the same masks.",
        choices=("auto", "reference", "float32", "bfloat16"),
    ),
    _row(
        "max_objects",
        "max_objects",
        "How many objects may be tracked at once; memory grows with it.",
        (1, 254),
    ),
    _row(
        "ring",
        "keyframe_buffer",
        "Images kept to replay after a late answer of the language model.",
        (1, 512),
    ),
    _row(
        "replay_periods",
        "replay_periods",
        "Image periods that replaying a late answer may take; images are left out evenly if all would take longer.",
        (0.1, 100.0),
    ),
    _row(
        "answer_limit",
        "answer_limit",
        "Seconds after which a question to the language model counts as failed; more for a slow machine.",
        (1.0, 3600.0),
    ),
    _row(
        "gate.gate",
        "memory_gate",
        "Remember only images whose mask has enough evidence; false = every image that shows the object.",
    ),
    _row(
        "gate.distractors",
        "memory_distractors",
        "Keep a memory of images that tell the object from something like it.",
    ),
    _row(
        "gate.motion",
        "memory_motion",
        "While the camera stands still, masks far from where the object should be count less.",
    ),
)
DYNAMIC = (
    _row(
        "visibility.min_quality",
        "min_quality",
        "Predicted quality (IoU) below which a mask is never shown, whatever else speaks for it.",
        (0.0, 1.0),
    ),
    _row(
        "visibility.min_area",
        "min_area",
        "Share of the image below which a mask is never shown.",
        (0.0, 1.0),
    ),
    _row(
        "lifecycle.occluded_after",
        "occluded_after",
        "Images without a trusted mask after which a track is OCCLUDED.",
        (1, 1000),
    ),
    _row(
        "lifecycle.lost_after",
        "lost_after",
        "Seconds without a trusted mask after which a track is LOST.",
        (0.0, 3600.0),
    ),
    _row(
        "give_up_after",
        "give_up_after",
        "Seconds after which a LOST track is stopped; 0 = never.",
        (0.0, 86400.0),
    ),
    _row(
        "search_period",
        "search_period",
        "Seconds between the first two searches for a lost object; later ones come farther apart.",
        (0.05, 3600.0),
    ),
    _row(
        "search_limit",
        "search_limit",
        "Longest pause in seconds between two searches for a lost object.",
        (0.05, 3600.0),
    ),
    _row(
        "redetect_every",
        "redetect_every",
        "Images between two looks for a lost object without the language model, where the model's calibration "
        "allows it; 0 = never.",
        (0, 1000),
    ),
    _row(
        "verify_period",
        "verify_period",
        "Seconds between two checks that a tracked object is still what was asked for; 0 = never.",
        (0.0, 3600.0),
    ),
    _row(
        "verify_share",
        "verify_share",
        "Share of the time that checks may take at most; slow ones are made rarer.",
        (0.01, 1.0),
    ),
    _row(
        "verify_strikes",
        "verify_strikes",
        "Checks in a row that find another object, after which memory starts again from the words.",
        (1, 100),
    ),
    _row(
        "agreement",
        "agreement",
        "Overlap (IoU) of what is followed and what the words mean, from which on they are the same.",
        (0.0, 1.0),
    ),
    _row(
        "drift_after",
        "drift_after",
        "Images in a row on which the words' mask disagrees with memory's, after which memory is prompted with it; "
        "0 = never.",
        (0, 1000),
    ),
    _row(
        "merge_duplicates",
        "merge_duplicates",
        "The same words on the same pixels are the same track.",
    ),
    _row(
        "duplicate_overlap",
        "duplicate_overlap",
        "Overlap (IoU) from which on two masks are on the same pixels.",
        (0.05, 1.0),
    ),
    _row(
        "max_instances",
        "max_instances",
        "How many tracks `every cup` may become.",
        (1, 254),
    ),
    _row(
        "keep_looking",
        "keep_looking",
        "Look for further instances, less and less often up to `search_limit`, after all were found.",
    ),
)
FIELDS = {field: row.name for field, row in _ROWS.items()}
"""Which parameter sets which field."""


def live_config(value: Callable[[str], Any]) -> LiveConfig:
    """The live tracker's configuration; `value` tells a parameter.

    Raises:
        InputError: values that do not fit each other.
    """
    plain: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for field, name in FIELDS.items():
        head, _, tail = field.partition(".")
        if tail:
            nested.setdefault(head, {})[tail] = value(name)
        else:
            plain[head] = value(name)
    groups = {head: replace(getattr(DEFAULTS, head), **set_) for head, set_ in nested.items()}
    return replace(DEFAULTS, **plain, **groups)
