# SPDX-License-Identifier: Apache-2.0
"""How each family of language halves is trained: one file for each, `base.py` is what they have in common."""

from __future__ import annotations

from sa2va_model.errors import InputError
from sa2va_model.mllm.base import Mllm
from sa2va_model.mllm.families.internvl import InternVL
from sa2va_model.mllm.families.llava import Llava
from sa2va_model.mllm.families.qwen_vl import QwenVL
from sa2va_training.families.base import Family
from sa2va_training.families.internvl import InternVLFamily
from sa2va_training.families.llava import LlavaFamily
from sa2va_training.families.qwen_vl import QwenVLFamily

FAMILIES: tuple[tuple[type[Mllm], type[Family]], ...] = (
    (InternVL, InternVLFamily),
    (QwenVL, QwenVLFamily),
    (Llava, LlavaFamily),
)


def family_of(mllm: Mllm) -> Family:
    """How this language half is trained.

    Raises:
        InputError: nobody wrote down how.
    """
    for model, family in FAMILIES:
        if isinstance(mllm, model):
            return family(mllm)
    known = ", ".join(model.__name__ for model, _ in FAMILIES)
    raise InputError(f"{type(mllm).__name__}: is not trained here; expected one of {known}")
