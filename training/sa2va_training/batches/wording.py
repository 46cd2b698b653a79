# SPDX-License-Identifier: Apache-2.0
"""What is asked in training: several wordings of each request, the published one first.

The first entry of every list is the wording that official checkpoints know and that evaluation uses; the others keep a
model from depending on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sa2va_model.mllm.chat import IMAGE_PLACEHOLDER

SEGMENT = (
    "Please segment {} in this image.",
    "Please segment {}.",
    "Can you segment {} in this image?",
    "Where is {}? Please respond with a segmentation mask.",
    "What is {} in this image? Please respond with a segmentation mask.",
    "Could you show me the mask of {}?",
)
SEGMENT_QUESTION = "{} Please respond with a segmentation mask."
DESCRIBE = "Please describe the image briefly."
DESCRIBE_GROUNDED = (
    "Could you please give me a brief description of the image? Please respond with interleaved "
    "segmentation masks for the corresponding parts of the answer."
)
DESCRIBE_REGION = (
    "Please give me a short description of the region in the picture marked by region1."
)
DETAIL_REGION = (
    "Can you provide me with a detailed description of the region in the picture marked by region1?"
)
REWORDINGS: dict[str, tuple[str, ...]] = {
    DESCRIBE: (DESCRIBE, "What is in this image?", "Describe what you see in a few words."),
    DESCRIBE_GROUNDED: (
        DESCRIBE_GROUNDED,
        "Briefly describe this image and answer with interleaved segmentation masks for the parts "
        "you mention.",
        "What is in this image? Please answer with interleaved segmentation masks for the "
        "corresponding parts of the answer.",
    ),
    DESCRIBE_REGION: (
        DESCRIBE_REGION,
        "What is region1?",
        "Describe region1 in a few words.",
    ),
    DETAIL_REGION: (
        DETAIL_REGION,
        "Please describe region1 in detail.",
        "What can you tell me about the region marked by region1?",
    ),
}


def first_turn(question: str) -> str:
    """The first user turn of a sample with pictures."""
    return f"{IMAGE_PLACEHOLDER}\n{question}"


def segment_request(expression: str, rng: np.random.Generator) -> str:
    """One way of asking for the mask of an expression; a question is asked as it stands."""
    if "?" in expression:
        return SEGMENT_QUESTION.format(expression)
    return pick(SEGMENT, rng).format(expression.rstrip(". "))


def reworded(text: str, rng: np.random.Generator) -> str:
    """A user turn with its request in other words, where it has a known one."""
    for request, others in REWORDINGS.items():
        if text.endswith(request):
            return text.removesuffix(request) + pick(others, rng)
    return text


def called(name: str) -> str:
    """What something is called, with an article unless it has one."""
    if name.lower().startswith(("a ", "an ", "the ")):
        return name
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]
