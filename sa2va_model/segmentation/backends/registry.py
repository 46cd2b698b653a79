# SPDX-License-Identifier: Apache-2.0
"""The backends that there are, and the one place that picks.

A backend that needs more than weights, such as exported graphs (`onnx_backend`), is given in place of a name.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.device import require_float32, traits_of
from sa2va_model.errors import InputError
from sa2va_model.segmentation.backends.base import Backend, Runtime
from sa2va_model.segmentation.backends.fused.backend import FUSED
from sa2va_model.segmentation.backends.profile import fastest_profile
from sa2va_model.segmentation.backends.reference import REFERENCE

BACKENDS: dict[str, Backend] = {"reference": REFERENCE, "fused": FUSED}
AUTO = "auto"
Profile = str | Backend
"""How SAM-2 is computed: a name of `profile_names`, or a backend with a single profile."""


def profile_names() -> tuple[str, ...]:
    """What a profile may be called, `auto` first."""
    return (AUTO, *(name for backend in BACKENDS.values() for name in backend.profiles))


def check_profile(name: Profile) -> None:
    """Raises InputError for a name that no backend has."""
    if isinstance(name, str) and name not in profile_names():
        raise InputError(f"profile is {name!r}; expected one of {', '.join(profile_names())}")


def pick_runtime(
    name: Profile, device: torch.device, config: SegmenterConfig, *, graphs: bool = True
) -> Runtime:
    """Who computes SAM-2 and how.

    Args:
        name: of a profile; `auto` = the fastest with practically the same masks; or a backend.
        graphs: False = no CUDA graphs, wherever it is.

    Raises:
        InputError: an unknown name.
    """
    check_profile(name)
    traits = traits_of(device)
    if isinstance(name, Backend):
        return Runtime(name, next(iter(name.profiles.values())), traits)
    if name == AUTO:
        name = fastest_profile(device, config)
    backend = next(b for b in BACKENDS.values() if name in b.profiles)
    profile = backend.profiles[name]
    if profile.arithmetic != "bfloat16":
        require_float32(device)
    return Runtime(
        backend, replace(profile, graphs=profile.graphs and graphs and traits.captures), traits
    )
