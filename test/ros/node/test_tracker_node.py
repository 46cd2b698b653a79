# SPDX-License-Identifier: Apache-2.0
"""The tracker node as users meet it: a process of its own, spoken to over DDS. Random weights, real
everything else.

One node serves the tests of this file in turn; each starts from `stop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_model.tracks import EventKind, TrackState

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

RNG = np.random.default_rng(3)
PICTURE = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (160, 120))


@pytest.fixture(scope="module")
def node(start_node: Callable[..., Any], nano_folder: Path) -> Any:
    # A test sends single images and none may be lost on the way, as best effort does on a busy
    # machine.
    reliable = {"qos_overrides./one/image.subscription.reliability": "reliable"}
    settings = {"model": nano_folder, "threads": 1, "status_period": 0.1} | reliable
    settings["classes"] = '"{mug|cup: 40, plate: 7}"'  # quoted for ROS, which would read a mapping
    return start_node(remaps=("__ns:=/one",), **settings)


@pytest.fixture(scope="module")
def connected(node: Any, start_client: Callable[[str], Any]) -> Any:
    client = start_client("/one")
    client.wait_connected()
    return client


@pytest.fixture
def client(node: Any, connected: Any) -> Iterator[Any]:
    """The client, with nothing tracked and nothing collected."""
    connected.command("stop")
    connected.stream_until(PICTURE, lambda c: not alive(c.got["tracks"][-1]))
    for topic in ("tracks", "mask", "events", "caption"):
        connected.got[topic].clear()
    yield connected
    assert node.process.poll() is None, node.output


def alive(tracks: Any) -> list[Any]:
    return [t for t in tracks.tracks if t.state not in (TrackState.STOPPED, TrackState.NOT_FOUND)]


def kinds(client: Any) -> list[EventKind]:
    return [EventKind(event.type) for event in client.got["events"]]


def has(*wanted: EventKind) -> Callable[[Any], bool]:
    return lambda client: set(wanted) <= set(kinds(client))


def test_every_image_gets_tracks_and_mask_with_its_own_header(client: Any, wait_for: Any) -> None:
    def mask_with(header: Any) -> Any:
        return next((m for m in client.got["mask"] if m.header == header), None)

    for _ in range(5):
        sent = client.image(PICTURE)
        tracks = client.stream(sent)
        assert (tracks.height, tracks.width) == PICTURE.shape[:2]
        assert len(alive(tracks)) == 0  # published though there are none
        mask = wait_for(lambda header=sent.header: mask_with(header), 20, "its mask")
        assert (mask.encoding, mask.height, mask.width) == ("mono8", 120, 160)
        assert not any(mask.data)


def test_classes_have_fixed_numbers_in_a_label_image(client: Any, wait_for: Any) -> None:
    from sensor_msgs.msg import Image

    from sa2va_ros.support.qos import reliable

    for topic in ("class_mask", "class_confidence"):
        wait_for(client.listen(Image, topic, reliable(10)).get_publisher_count, 20, topic)
    client.command("the red mug")
    client.stream_until(PICTURE, lambda c: any(t.area for t in alive(c.got["tracks"][-1])))
    sent = client.image(PICTURE)
    track = alive(client.stream(sent))[0]
    labels = wait_for(
        lambda: next((m for m in client.got["class_mask"] if m.header == sent.header), None),
        20,
        "it",
    )
    pixels = np.frombuffer(bytes(labels.data), np.uint8)
    assert set(pixels) == {0, 40}
    assert int((pixels == 40).sum()) == track.area
    confidence = wait_for(
        lambda: next((m for m in client.got["class_confidence"] if m.header == sent.header), None),
        20,
        "how sure it is",
    )
    sure = np.frombuffer(bytes(confidence.data), np.uint8)
    assert ((sure > 0) <= (pixels == 40)).all()
    assert sure[pixels == 40] == pytest.approx(255 * track.score, abs=1)


def test_the_mask_comes_as_png_to_whoever_listens(client: Any, wait_for: Any) -> None:
    from sensor_msgs.msg import CompressedImage

    from sa2va_ros.support.qos import reliable

    listening = client.listen(CompressedImage, "mask/compressed", reliable(10))
    wait_for(listening.get_publisher_count, 20, "mask/compressed")
    client.command("the red mug")
    client.stream_until(PICTURE, lambda c: any(t.area for t in alive(c.got["tracks"][-1])))
    sent = client.image(PICTURE)
    client.stream(sent)

    def both() -> Any:
        of = (client.got["mask"], client.got["mask/compressed"])
        found = [next((m for m in topic if m.header == sent.header), None) for topic in of]
        return found if all(found) else None

    mask, packed = wait_for(both, 20, "both masks")
    assert packed.format == "mono8; png compressed "  # as compressed_image_transport has it
    labels = cv2.imdecode(np.frombuffer(packed.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert labels.shape == PICTURE.shape[:2]
    assert labels.any()
    assert labels.tobytes() == mask.data.tobytes()


def test_a_sentence_becomes_a_track_whose_mask_is_in_the_label_image(client: Any) -> None:
    client.command("the red mug")
    client.stream_until(PICTURE, has(EventKind.STARTED, EventKind.FOUND))
    tracks, mask = client.stream_until(PICTURE, paired)
    (track,) = alive(tracks)
    assert track.expression == "the red mug"
    labels = np.frombuffer(mask.data, np.uint8).reshape(mask.height, mask.width)
    seen = labels == track.mask_value
    assert seen.sum() == track.area > 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    roi = track.roi
    assert (roi.x_offset, roi.y_offset) == (columns[0], rows[0])
    assert (roi.width, roi.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert track.centroid_x == pytest.approx(np.nonzero(seen)[1].mean(), abs=1e-3)
    assert track.centroid_y == pytest.approx(np.nonzero(seen)[0].mean(), abs=1e-3)
    assert 0 <= track.score <= 1
    assert track.last_seen == tracks.header.stamp
    found = next(e for e in client.got["events"] if e.type == EventKind.FOUND)
    assert found.track_id == track.id
    assert found.header.frame_id == "camera_optical_frame"


def paired(client: Any) -> tuple[Any, Any] | None:
    """Tracks with something to see and the mask of the same image."""
    for tracks in client.got["tracks"]:
        for mask in client.got["mask"]:
            if mask.header == tracks.header and any(track.area for track in tracks.tracks):
                return tracks, mask
    return None


def test_the_grammar_of_commands(client: Any) -> None:
    def expressions() -> set[str]:
        return {track.expression for track in alive(client.got["tracks"][-1])}

    def shows(*wanted: str) -> Callable[[Any], bool]:
        return lambda _: expressions() == set(wanted)

    for command, wanted in (
        ("the red mug", ("the red mug",)),
        ("+ the blue bowl", ("the red mug", "the blue bowl")),
        ("+ the can", ("the red mug", "the blue bowl", "the can")),
        ("stop The Blue Bowl", ("the red mug", "the can")),
        ("the plate", ("the plate",)),  # in place of all others
        ("stop", ()),
    ):
        client.command(command)
        client.stream_until(PICTURE, shows(*wanted))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "command is empty"),
        ("+ ", "is empty"),
        ("the \x1b[31mmug", "U+001B"),
        ("mug " * 200, "expected at most"),
        ("stop the dragon", "nothing is called 'the dragon'"),
    ],
)
def test_a_bad_command_is_an_event_with_the_reason(client: Any, command: str, says: str) -> None:
    client.command(command)
    client.stream_until(PICTURE, has(EventKind.FAILED))
    failed = next(e for e in client.got["events"] if e.type == EventKind.FAILED)
    assert says in failed.detail
    assert not alive(client.got["tracks"][-1])


def test_a_question_is_answered_on_the_newest_image(client: Any) -> None:
    tracks = client.stream(client.image(PICTURE))
    client.command("what is on the table?")
    client.stream_until(None, lambda c: c.got["caption"])
    caption = client.got["caption"][-1]
    assert caption.question == "what is on the table?"
    assert caption.header == tracks.header
    assert caption.is_final
    for phrase in caption.phrases:  # the nano model answers with a mask
        if phrase.mask_value:
            assert phrase.mask_value in set(caption.mask.data)


def test_prompts_by_box_and_click_and_what_is_wrong_with_them(client: Any) -> None:
    from sa2va_ros.msg import VisualPrompt

    box = VisualPrompt(type=VisualPrompt.BOX, label="that one")
    box.box.x_offset, box.box.y_offset, box.box.width, box.box.height = 40, 30, 50, 40
    client.send("prompt", box)
    client.stream_until(PICTURE, lambda c: len(alive(c.got["tracks"][-1])) == 1)
    client.send("prompt", VisualPrompt(type=VisualPrompt.POINTS, x=[80.0], y=[60.0]))
    client.stream_until(PICTURE, lambda c: len(alive(c.got["tracks"][-1])) == 2)

    client.send("prompt", VisualPrompt(type=VisualPrompt.POINTS))
    client.stream_until(PICTURE, has(EventKind.FAILED))
    client.got["events"].clear()
    box.box.x_offset = 1000  # outside the image
    client.send("prompt", box)
    client.stream_until(PICTURE, has(EventKind.FAILED))
    assert len(alive(client.got["tracks"][-1])) == 2


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"data": b"\0" * 100}, "data has 100 bytes; expected 57600"),
        ({"encoding": "yuv999"}, "encoding 'yuv999' is not supported"),
        ({"encoding": "32FC1", "step": 640}, "holds distances"),
        ({"step": 3}, "step is 3 bytes"),
        ({"height": 0}, "empty"),
        ({"width": 80, "step": 240}, "image size changed from 160x120 to 80x120"),
    ],
)
def test_a_bad_image_is_counted_with_its_reason_and_tracks_live_on(
    client: Any, node: Any, spoil: dict[str, Any], says: str
) -> None:
    client.command("the red mug")
    client.stream_until(PICTURE, has(EventKind.FOUND))
    client.stream(client.image(PICTURE))  # nothing is on its way any more
    before = client.status_after(lambda s: True)
    client.send("image", client.image(PICTURE, **spoil))
    after = client.status_after(lambda s: says in s.message)
    assert (after.received, after.rejected) == (before.received + 1, before.rejected + 1)
    assert (after.state, after.processed) == (after.ACTIVE, before.processed)
    good = client.image(PICTURE)
    tracks = client.stream(good)
    assert tracks.header == good.header
    assert [t.expression for t in alive(tracks)] == ["the red mug"]


def test_zero_stamps_and_late_images_are_refused(client: Any) -> None:
    from std_msgs.msg import Header

    client.stream(client.image(PICTURE))
    client.send("image", client.image(PICTURE, after=0.0, header=Header(frame_id="x")))
    client.status_after(lambda s: "stamp is zero" in s.message)
    client.send("image", client.image(PICTURE, after=-0.2))
    client.status_after(lambda s: "0.200 s before the last one" in s.message)
    client.header(0.2)


def test_time_jumping_back_resets_the_tracks_with_an_event(client: Any) -> None:
    client.command("the red mug")
    client.stream_until(PICTURE, has(EventKind.FOUND))
    client.header(-60.0)
    client.stream_until(PICTURE, has(EventKind.MEMORY_RESET))
    event = next(e for e in client.got["events"] if e.type == EventKind.MEMORY_RESET)
    assert "time jumped back by" in event.detail


def test_a_camera_that_changes_its_size_for_good_is_followed(client: Any) -> None:
    client.stream(client.image(PICTURE))
    small = np.ascontiguousarray(PICTURE[:96, :128])
    client.stream_until(small, lambda c: c.got["tracks"][-1].width == 128)
    client.stream_until(PICTURE, lambda c: c.got["tracks"][-1].width == 160)


def test_overlay_is_drawn_for_those_who_look(client: Any, wait_for: Any) -> None:
    from sensor_msgs.msg import Image

    from sa2va_ros.support.qos import reliable

    looking = client.listen(Image, "overlay", reliable(5))
    wait_for(looking.get_publisher_count, 10, "the overlay's publisher")
    client.stream_until(PICTURE, lambda c: c.got["overlay"])
    overlay = client.got["overlay"][-1]
    assert (overlay.encoding, overlay.width) == ("bgr8", 160)
    picture = np.frombuffer(overlay.data, np.uint8).reshape(120, 160, 3)[..., ::-1]
    error = np.abs(picture.astype(int) - PICTURE).mean()
    assert error < 40  # the picture, whatever is drawn on it
    assert error < np.abs(picture[..., ::-1].astype(int) - PICTURE).mean()  # red is red
    client.node.destroy_subscription(looking)


def test_services(client: Any) -> None:
    from std_srvs.srv import SetBool, Trigger

    from sa2va_ros.srv import ListTracks, RemoveTrack, SetTarget

    def call(kind: Any, name: str, **fields: Any) -> Any:
        return client.call(kind, f"sa2va_tracker/{name}", kind.Request(**fields))

    refused = call(SetTarget, "set_target", expression=" ")
    assert not refused.accepted
    assert "empty" in refused.message
    given = call(SetTarget, "set_target", expression="the can", replace=True)
    assert given.accepted
    client.stream_until(PICTURE, has(EventKind.FOUND))
    listed = call(ListTracks, "list_tracks").tracks
    assert given.track_id in [track.id for track in listed.tracks]
    unknown = call(RemoveTrack, "remove_track", track_id="nobody")
    assert not unknown.success
    assert "nobody" in unknown.message
    removed = call(RemoveTrack, "remove_track", track_id=given.track_id)
    assert (removed.success, removed.remaining) == (True, 0)
    client.stream_until(PICTURE, has(EventKind.STOPPED))

    assert call(Trigger, "reset").success
    assert call(SetBool, "enable", data=False).success
    received = client.status_after(lambda s: True).received
    client.send("image", client.image(PICTURE))
    assert client.status_after(lambda s: True).received == received
    assert call(SetBool, "enable", data=True).success
    client.stream(client.image(PICTURE))


def test_parameters_are_described_checked_and_some_change_while_it_runs(client: Any) -> None:
    from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
    from rcl_interfaces.srv import DescribeParameters, SetParameters

    from sa2va_ros.node.parameters import TABLE

    def set_double(name: str, value: float) -> Any:
        wanted = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=wanted)])
        return client.call(SetParameters, "sa2va_tracker/set_parameters", request).results[0]

    names = [row.name for row in TABLE]
    request = DescribeParameters.Request(names=names)
    described = client.call(
        DescribeParameters, "sa2va_tracker/describe_parameters", request
    ).descriptors
    assert all(d.description for d in described)
    assert {d.name for d in described if not d.read_only} == {r.name for r in TABLE if r.dynamic}
    for value in (-1.0, float("nan")):
        refused = set_double("max_age", value)
        assert not refused.successful
        assert "max_age" in refused.reason
    assert not set_double("status_period", 3.0).successful  # read-only
    assert set_double("max_age", 5.0).successful
    client.send("image", client.image(PICTURE))  # its stamp is months away from the node's clock
    client.status_after(lambda s: "max_age is 5 s" in s.message)
    assert set_double("max_age", 0.0).successful


def test_it_can_be_paused_reloaded_and_resumed(client: Any, node: Any) -> None:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    def change(*transitions: int) -> None:
        for transition in transitions:
            request = ChangeState.Request()
            request.transition.id = transition
            answer = client.call(ChangeState, "sa2va_tracker/change_state", request)
            assert answer.success, node.output

    for _ in range(2):
        change(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
        status = client.status_after(lambda s: s.state == s.UNCONFIGURED)
        assert math.isnan(status.latency_p95), "of before the cleanup"
        change(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
        client.wait_connected()
        client.stream(client.image(PICTURE))
    client.command("the red mug")
    client.stream_until(PICTURE, has(EventKind.FOUND))


def test_it_ends_when_told_to(node: Any, connected: Any) -> None:  # last: the node is gone then
    assert node.stop() == 0, node.output
    assert "Traceback" not in node.output
