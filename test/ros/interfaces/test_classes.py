# SPDX-License-Identifier: Apache-2.0
"""Groups of words with fixed numbers, and the label image of them."""

from __future__ import annotations

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.tracks import FrameResult, Track, TrackState
from sa2va_ros.interfaces.classes import Classes

ROAD = Classes.parse('{"person": 1, "car|bus|truck": 2, "traffic light": 7, "light": 8}')


@pytest.mark.parametrize(
    ("expression", "number"),
    [
        ("the person on the left", 1),
        ("the red Truck", 2),
        ("all buses", 2),
        ("the cars", 2),
        ("the person in the car", 1),  # what comes first is meant
        ("the car beside a person", 2),
        ("the traffic light", 7),  # the longer one
        ("the light", 8),
        ("the carpet", 0),
        ("", 0),
    ],
)
def test_the_first_word_with_a_number_decides(expression: str, number: int) -> None:
    assert ROAD.number(expression) == number


def test_the_label_image_has_numbers_of_classes() -> None:
    left, right = np.zeros((2, 4, 6), bool)
    left[:, :2], right[:, 3:] = True, True
    tracks = (
        Track("a", "the bus", TrackState.TRACKING, mask=left, mask_value=5),
        Track("b", "the carpet", TrackState.TRACKING, mask=right, mask_value=2),
    )
    labels = ROAD.labels(FrameResult(0.0, 0, 4, 6, tracks, (), {}))
    assert labels.dtype == np.uint8
    assert (labels == np.where(left, 2, 0)).all()
    assert not Classes.parse("").numbers


def test_the_confidence_is_the_score_where_there_is_a_class() -> None:
    left, right = np.zeros((2, 4, 6), bool)
    left[:, :2], right[:, 3:] = True, True
    tracks = (
        Track("a", "the bus", TrackState.TRACKING, mask=left, mask_value=5, score=0.8),
        Track("b", "the carpet", TrackState.TRACKING, mask=right, mask_value=2, score=0.9),
    )
    sure = ROAD.confidence(FrameResult(0.0, 0, 4, 6, tracks, (), {}))
    assert sure.dtype == np.uint8
    assert (sure == np.where(left, 204, 0)).all()
    unknown = (Track("a", "bus", TrackState.TRACKING, mask=left, mask_value=5, score=np.nan),)
    assert not ROAD.confidence(FrameResult(0.0, 0, 4, 6, unknown, (), {})).any()


def test_a_number_is_called_by_its_first_word() -> None:
    assert ROAD.names() == {1: "person", 2: "car", 7: "traffic light", 8: "light"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("person", "expected words with numbers"),
        ("{person: 0}", "'person' has 0"),
        ("{person: 256}", "'person' has 256"),
        ("{person: true}", "'person' has True"),
        ("{person: 1, man|person: 2}", "'person' of 'man|person' has two numbers"),
        ("{person|: 1}", "has two numbers or none"),
        ("{person: 1", "cannot be read"),
    ],
)
def test_what_is_no_table_of_classes_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("|", r"\|")):
        Classes.parse(text)
