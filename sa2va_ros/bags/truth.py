# SPDX-License-Identifier: Apache-2.0
"""True masks that a bag holds beside its images: label images with the images' stamps, and what labels are called.

The simulated cameras publish them: `truth` (sensor_msgs/Image, 0 = background), `truth_names` (std_msgs/String,
{"1": "red mug"}) and `truth_target` ({"expression": "the green bottle", "value": 3}).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_ros.bags.bag import IMAGE, IMAGE_TYPES, read_messages, topics_of
from sa2va_ros.messages.images import array_from_image, nanoseconds

TOPIC = "truth"
STRING = "std_msgs/msg/String"
_OWN = ("mask", "overlay")


@dataclass(frozen=True)
class BagTruth:
    """The truth of one bag.

    Attributes:
        topic: of the label images.
        names: what each label is called, "" = nothing is known.
        sentences: words and the labels that they mean; none = nothing that is there.
        labels: label images by stamp in nanoseconds, as PNG.
    """

    topic: str
    names: Mapping[int, str]
    sentences: Mapping[str, tuple[int, ...]]
    labels: Mapping[int, bytes]

    def at(self, stamp: int) -> np.ndarray | None:
        """Labels of the image with this stamp, uint8 or uint16 [H, W]; None = there are none."""
        data = self.labels.get(stamp)
        return None if data is None else _decoded(data)


def picture_topics(path: Path | str, truth: str) -> list[str]:
    """Topics of images that a camera took, by their names: not the truth's, depth, or what this package publishes."""
    images = [n for n, kind in topics_of(path).items() if kind in IMAGE_TYPES and n != truth]
    return [n for n in images if "depth" not in n and n.rpartition("/")[2] not in _OWN]


def read_truth(path: Path | str, topic: str = "") -> BagTruth | None:
    """The truth of a bag, None where it has none.

    Args:
        topic: of the label images; "" = the one whose last part is `truth`.

    Raises:
        InputError: no such topic, several, or something else than label images and JSON in them.
    """
    types = topics_of(path)
    named = [n for n, k in types.items() if k == IMAGE and n.rpartition("/")[2] == TOPIC]
    if topic:
        name = topic if topic in types else "/" + topic.lstrip("/")
        if types.get(name) != IMAGE:
            raise InputError(
                f"{path}: truth is topic {topic!r}, which is {types.get(name, 'not in it')}; expected {IMAGE}"
            )
        named = [name]
    if not named:
        return None
    if len(named) > 1:
        raise InputError(f"{path}: {' and '.join(named)} are truth; expected truth=TOPIC with one")
    name = named[0]
    labels = dict(_labels(path, name))
    values = {int(v) for data in labels.values() for v in np.unique(_decoded(data))} - {0}
    names = dict.fromkeys(sorted(values), "")
    for said in _json(path, f"{name}_names", types):
        names |= {int(value): str(word) for value, word in said.items() if str(value).isdigit()}
    return BagTruth(name, names, _sentences(path, name, types, names), labels)


def _labels(path: Path | str, topic: str) -> Iterator[tuple[int, bytes]]:
    for number, (_, message) in enumerate(read_messages(path, topic)):
        pixels = array_from_image(message)
        if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
            raise InputError(
                f"{path}: topic {topic}: image {number} is {message.encoding}; expected mono8 or mono16 labels"
            )
        ok, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert ok
        yield nanoseconds(message.header.stamp), data.tobytes()


def _decoded(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def _json(path: Path | str, topic: str, types: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The objects of a topic of JSON, if the bag has it."""
    if types.get(topic) != STRING:
        return
    for _, message in read_messages(path, topic):
        try:
            said = json.loads(message.data)
        except ValueError as error:
            raise InputError(f"{path}: topic {topic}: {message.data!r:.80} is no JSON") from error
        if not isinstance(said, dict):
            raise InputError(f"{path}: topic {topic}: {message.data!r:.80}; expected an object")
        yield said


def _sentences(
    path: Path | str, topic: str, types: Mapping[str, str], names: Mapping[int, str]
) -> dict[str, tuple[int, ...]]:
    """What can be asked: names that one label alone has, and what an episode's sentence meant."""
    count = Counter(name for name in names.values() if name)
    out: dict[str, tuple[int, ...]] = {
        f"the {name}": (value,) for value, name in names.items() if count[name] == 1
    }
    for meant in _json(path, f"{topic}_target", types):
        value = int(meant.get("value") or 0)
        out[str(meant.get("expression"))] = (value,) if value in names else ()
    return out
