# SPDX-License-Identifier: Apache-2.0
"""Two namespaced nodes at once, and what the other files leave out: adapters, prompts by service and
click, a bag that loops, pauses and reloads that leave nothing behind, outputs on demand, stamps.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_model.tracks import EventKind

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

PICTURE = cv2.resize(np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8), (160, 120))
NAMES = ("left", "right")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved") / "objects"


@pytest.fixture(scope="module")
def nodes(start_node: Callable[..., Any], nano_folder: Path, objects: Path) -> dict[str, Any]:
    started = {}
    for name in NAMES:
        settings = {"model": nano_folder, "threads": 1, "status_period": 0.1, "verify_period": 0.0}
        settings["objects"] = objects
        reliable = {f"qos_overrides./{name}/image.subscription.reliability": "reliable"}
        started[name] = start_node(remaps=(f"__ns:=/{name}",), **settings, **reliable)
    return started


@pytest.fixture(scope="module")
def clients(nodes: dict[str, Any], start_client: Callable[[str], Any]) -> dict[str, Any]:
    made = {name: start_client(f"/{name}") for name in NAMES}
    for client in made.values():
        client.wait_connected()
    return made


@pytest.fixture
def client(nodes: dict[str, Any], clients: dict[str, Any]) -> Iterator[Any]:
    left = clients["left"]
    left.command("stop")
    left.stream_until(PICTURE, lambda c: not c.got["tracks"][-1].tracks)
    for topic in ("tracks", "mask", "events"):
        left.got[topic].clear()
    yield left
    for node in nodes.values():
        assert node.process.poll() is None, node.output
        assert "Traceback" not in node.output, node.output


def seen(tracks: Any) -> list[Any]:
    return [track for track in tracks.tracks if track.area]


def call(client: Any, kind: Any, name: str, **fields: Any) -> Any:
    return client.call(kind, f"sa2va_tracker/{name}", kind.Request(**fields))


def test_two_nodes_do_not_hear_each_other(client: Any, clients: dict[str, Any]) -> None:
    right = clients["right"]
    right.command("stop")
    right.stream_until(PICTURE, lambda c: not c.got["tracks"][-1].tracks)
    client.command("the mug")
    right.command("the bowl")
    for which, words in ((client, "the mug"), (right, "the bowl")):
        which.stream_until(PICTURE, lambda c: seen(c.got["tracks"][-1]))
        assert [t.expression for t in which.got["tracks"][-1].tracks] == [words]
    right.command("stop")
    right.stream_until(PICTURE, lambda c: not c.got["tracks"][-1].tracks)
    assert seen(client.stream(client.image(PICTURE)))


def test_prompts_by_service_and_click(client: Any) -> None:
    from geometry_msgs.msg import PointStamped
    from sensor_msgs.msg import Image

    from sa2va_ros.messages.images import fill_image
    from sa2va_ros.msg import VisualPrompt
    from sa2va_ros.srv import AddPrompt

    client.stream(client.image(PICTURE))
    box = VisualPrompt(type=VisualPrompt.BOX, label="that one")
    box.box.x_offset, box.box.y_offset, box.box.width, box.box.height = 40, 30, 50, 40
    given = call(client, AddPrompt, "add_prompt", prompt=box)
    assert given.accepted, given.message
    client.stream_until(PICTURE, lambda c: [t.id for t in seen(c.got["tracks"][-1])])
    assert [t.id for t in client.got["tracks"][-1].tracks] == [given.track_id]

    refine = VisualPrompt(type=VisualPrompt.POINTS, x=[60.0], y=[50.0], track_id=given.track_id)
    assert call(client, AddPrompt, "add_prompt", prompt=refine).track_id == given.track_id

    box.box.x_offset = 1000
    points = VisualPrompt(type=VisualPrompt.POINTS, x=[500.0], y=[0.0])
    mask = VisualPrompt(type=VisualPrompt.MASK)
    fill_image(mask.mask, np.full((60, 80), 255, np.uint8), "mono8", Image().header)
    nothing = VisualPrompt(type=VisualPrompt.POINTS)
    for prompt, says in (
        (box, "outside the image of 160x120"),
        (points, "[500.0, 0.0] is outside"),
        (mask, "prompt mask is 80x60; expected the image's 160x120"),
        (nothing, "0 x, 0 y"),
    ):
        refused = call(client, AddPrompt, "add_prompt", prompt=prompt)
        assert not refused.accepted
        assert says in refused.message
    click = PointStamped(header=client.got["tracks"][-1].header)
    click.point.x, click.point.y = 80.0, 60.0
    client.send("clicked_pixel", click)
    client.stream_until(PICTURE, lambda c: len(c.got["tracks"][-1].tracks) == 2)


def test_what_was_seen_is_saved_and_gone_back_to(client: Any, objects: Path) -> None:
    from sensor_msgs.msg import Image

    from sa2va_ros.messages.images import fill_image
    from sa2va_ros.msg import VisualPrompt
    from sa2va_ros.srv import AddPrompt, SaveObject

    box = VisualPrompt(type=VisualPrompt.BOX, label="that one")
    box.box.x_offset, box.box.y_offset, box.box.width, box.box.height = 40, 30, 50, 40
    given = call(client, AddPrompt, "add_prompt", prompt=box)
    client.stream_until(PICTURE, lambda c: seen(c.got["tracks"][-1]))

    def save(**fields: str) -> Any:
        request = SaveObject.Request(**fields)
        return client.call(SaveObject, "sa2va_tracker/save_object", request)

    saved = save(track_id=given.track_id, name="the Tea Mug")
    assert saved.success, saved.message
    assert (saved.track_id, saved.path) == (given.track_id, str(objects / "tea_mug.object"))
    assert "nothing is called 'nobody'" in save(track_id="nobody").message

    client.command("go back to the tea mug you saw")
    client.stream_until(
        PICTURE, lambda c: [t.id for t in c.got["tracks"][-1].tracks] == ["tea_mug"]
    )
    client.command("go back to the dragon")
    client.stream_until(
        PICTURE, lambda c: any("no object is saved as" in e.detail for e in c.got["events"])
    )
    again = VisualPrompt(type=VisualPrompt.OBJECT, object="tea mug")
    assert call(client, AddPrompt, "add_prompt", prompt=again).track_id == "tea_mug_2"

    fill_image(box.image, PICTURE[:90, :100], "rgb8", Image().header)
    box.track_id = "photo"
    assert call(client, AddPrompt, "add_prompt", prompt=box).track_id == "photo"
    box.box.x_offset = 120
    refused = call(client, AddPrompt, "add_prompt", prompt=box)
    assert "outside the image of 100x90" in refused.message


def test_masks_in_tracks_and_the_compressed_overlay_on_demand(client: Any, wait_for: Any) -> None:
    from sensor_msgs.msg import CompressedImage

    from sa2va_ros.support.qos import reliable

    client.command("the mug")
    client.stream_until(PICTURE, lambda c: seen(c.got["tracks"][-1]))
    assert not seen(client.got["tracks"][-1])[0].mask_png.data
    assert client.set_parameter("publish_masks_in_tracks", True)[0]
    looking = client.listen(CompressedImage, "overlay/compressed", reliable(5))
    wait_for(looking.get_publisher_count, 10, "the overlay")
    image = client.image(PICTURE)
    tracks = client.stream(image)
    track = seen(tracks)[0]
    crop = cv2.imdecode(np.frombuffer(bytes(track.mask_png.data), np.uint8), cv2.IMREAD_UNCHANGED)
    assert crop.shape == (track.roi.height, track.roi.width)
    assert (crop > 0).sum() == track.area
    overlay = wait_for(lambda: client.got["overlay/compressed"], 10, "an overlay")[-1]
    assert overlay.header == image.header
    drawn = cv2.imdecode(np.frombuffer(bytes(overlay.data), np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == PICTURE.shape
    exchanged, right = (np.abs(d.astype(int) - PICTURE).mean() for d in (drawn, drawn[..., ::-1]))
    assert right < exchanged
    client.node.destroy_subscription(looking)
    assert client.set_parameter("publish_masks_in_tracks", False)[0]
    assert client.set_parameter("publish_mask", False)[0]
    client.got["mask"].clear()
    for _ in range(3):
        client.stream(client.image(PICTURE))
    assert not client.got["mask"]
    assert client.set_parameter("publish_mask", True)[0]


def test_reset_forgets_what_was_before_and_nothing_that_comes_after(client: Any) -> None:
    from std_srvs.srv import Trigger

    from sa2va_ros.srv import SetTarget

    client.command("the mug")
    client.stream_until(PICTURE, lambda c: seen(c.got["tracks"][-1]))
    assert call(client, Trigger, "reset").success
    assert call(client, SetTarget, "set_target", expression="the bowl").accepted
    client.stream_until(
        PICTURE, lambda c: [t.expression for t in seen(c.got["tracks"][-1])] == ["the bowl"]
    )
    kinds = [event.type for event in client.got["events"]]
    assert kinds.index(EventKind.MEMORY_RESET) < kinds.index(EventKind.STARTED, 2)


def test_adapters_are_loaded_checked_and_taken_off(client: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="adapters need peft (pip install '.[train]')")
    import torch

    from sa2va_model.checkpoints.adapters import fingerprint, save_adapter, wrap_language_model
    from sa2va_model.checkpoints.load import load_model
    from sa2va_ros.srv import LoadAdapter

    folder = Path(client.got["sa2va_tracker/status"][-1].model)
    model = load_model(folder, device="cpu")
    base = fingerprint(model)
    lora = peft.LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")
    wrapped = wrap_language_model(model.mllm.language_model, lora)
    parts = [n for n, _ in model.named_parameters() if n.startswith("text_hidden_fcs.")]
    with torch.no_grad():
        for name in parts:
            model.get_parameter(name).add_(0.01)
    save_adapter(model, tmp_path / "good", base=base, parts=parts, peft=wrapped)
    save_adapter(model, tmp_path / "other", base="0" * 32, parts=parts, peft=wrapped)

    client.command("the mug")
    client.stream_until(PICTURE, lambda c: seen(c.got["tracks"][-1]))
    for path, scale, says in (
        (tmp_path / "nothing", 1.0, "no such folder"),
        (tmp_path, 1.0, "adapter.json"),
        (tmp_path / "good", 0.5, "scale is 0.5"),
        (tmp_path / "other", 1.0, "base model"),
    ):
        refused = call(client, LoadAdapter, "load_adapter", path=str(path), scale=scale)
        assert not refused.success
        assert says in refused.message
    loaded = call(client, LoadAdapter, "load_adapter", path=str(tmp_path / "good"))
    assert loaded.success, loaded.message
    status = client.status_after(lambda s: s.adapter)
    assert status.adapter == str(tmp_path / "good")
    client.wait_connected()
    client.stream_until(PICTURE, lambda c: seen(c.got["tracks"][-1]))  # asked for again by itself
    assert [t.expression for t in client.got["tracks"][-1].tracks] == ["the mug"]
    assert call(client, LoadAdapter, "load_adapter", path="").success
    client.status_after(lambda s: not s.adapter)
    client.wait_connected()
    client.stream(client.image(PICTURE))


def test_a_bag_that_loops_back_in_time(client: Any, tmp_path: Path) -> None:
    """A rosbag2 with ten images, played twice; the second round starts in the past."""
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    from sa2va_ros.messages.images import fill_image

    store = get_typestore(Stores.ROS2_JAZZY)
    image, header, moment = (
        store.types[name]
        for name in ("sensor_msgs/msg/Image", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/image", image.__msgtype__, typestore=store)
        for n in range(10):
            stamp = header(moment(1000 + n // 5, 200_000_000 * (n % 5)), "camera_optical_frame")
            blank = image(stamp, 1, 1, "", 0, 0, np.zeros(0, np.uint8))
            fill_image(blank, PICTURE, "rgb8", stamp)
            blank.data = np.frombuffer(blank.data, np.uint8)
            writer.write(topic, n, store.serialize_cdr(blank, image.__msgtype__))

    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import Image

    client.stream_until(PICTURE, lambda c: c.got["tracks"])
    client.got["events"].clear()
    sent: list[Any] = []
    for _ in range(2):
        with Reader(tmp_path / "bag") as reader:
            for _, _, data in reader.messages():
                message = deserialize_message(bytes(data), Image)
                sent.append(message.header)
                client.got["tracks"].clear()
                if len(sent) % 10 in range(1, 5):  # not believed at once
                    rejected = client.status_after(lambda s: True).rejected
                    client.send("image", message)
                    client.status_after(lambda s, before=rejected: s.rejected > before)
                    continue
                assert client.stream(message).header == message.header
                if len(sent) == 6:
                    client.command("the mug")
        if len(sent) == 10:
            client.stream_until(None, lambda c: seen(c.got["tracks"][-1]))
    resets = [e for e in client.got["events"] if e.type == EventKind.MEMORY_RESET]
    assert [event.header for event in resets] == [sent[4], sent[14]]
    assert "time jumped back by 1.000 s" in resets[1].detail
    assert not client.got["tracks"][-1].tracks  # tracks end with the round; nothing follows a ghost
    client.stream_until(PICTURE, lambda c: c.got["tracks"][-1].header.stamp.sec > 10**6)


def test_every_output_has_the_header_of_its_image(client: Any, wait_for: Any) -> None:
    """Stamp and frame of all outputs equal those of an image that was sent, to the nanosecond."""
    from sensor_msgs.msg import Image

    from sa2va_ros.support.qos import reliable

    looking = client.listen(Image, "overlay", reliable(50))
    wait_for(looking.get_publisher_count, 10, "the overlay")
    for topic in ("tracks", "mask", "events", "overlay"):
        client.got[topic].clear()
    client.command("the mug")
    sent = []
    for n in range(12):
        image = client.image(PICTURE)
        image.header.frame_id = f"camera_{n % 3}"
        sent.append(image.header)
        client.stream(image)
    wait_for(lambda: client.got["overlay"] and client.got["events"], 10, "overlays and events")
    for topic in ("tracks", "mask", "events", "overlay"):
        assert client.got[topic], topic
        assert all(message.header in sent for message in client.got[topic]), topic
    client.node.destroy_subscription(looking)


def test_lazy_does_nothing_while_nobody_listens(clients: dict[str, Any], wait_for: Any) -> None:
    right = clients["right"]
    assert right.set_parameter("lazy", True)[0]
    right.stream(right.image(PICTURE))  # somebody listens: it works
    for subscription in list(right.node.subscriptions):
        if subscription.topic_name.split("/")[-1] in ("tracks", "mask", "events"):
            right.node.destroy_subscription(subscription)
    wait_for(lambda: not right.node.count_subscribers("tracks"), 10, "nobody to listen")
    before = right.status_after(lambda s: True)
    for _ in range(20):
        right.send("image", right.image(PICTURE))
        time.sleep(0.1)  # an image that nobody took is replaced by the next
    after = right.status_after(lambda s: s.received >= before.received + 5)
    assert after.processed == before.processed
    from sa2va_ros.msg import TrackArray
    from sa2va_ros.support.qos import reliable

    right.listen(TrackArray, "tracks", reliable(10))
    assert right.set_parameter("lazy", False)[0]
    right.stream(right.image(PICTURE))


def resident(node: Any) -> float:
    """MiB of memory of a node."""
    pages = Path(f"/proc/{node.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096 / 2**20


def test_rounds_through_the_lifecycle_leave_no_memory_behind(
    client: Any, nodes: dict[str, Any]
) -> None:
    from lifecycle_msgs.msg import Transition

    def round_trip() -> tuple[float, float]:
        client.command("the mug")
        client.stream_until(PICTURE, lambda c: seen(c.got["tracks"][-1]))
        working = resident(nodes["left"])
        client.change_state(Transition.TRANSITION_DEACTIVATE)
        assert client.state() == "inactive"
        client.change_state(Transition.TRANSITION_CLEANUP)
        assert client.state() == "unconfigured"
        freed = resident(nodes["left"])
        client.change_state(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
        assert client.state() == "active"
        client.wait_connected()
        client.stream(client.image(PICTURE))
        return working, freed

    first = round_trip()
    rounds = [round_trip() for _ in range(3)]
    gc.collect()
    for working, freed in rounds:
        assert working - first[0] < 15, (first, rounds)
        assert freed - first[1] < 15, (first, rounds)


def test_shutdown_is_safe_from_every_state(clients: dict[str, Any], nodes: dict[str, Any]) -> None:
    """Last: both nodes are gone then."""
    from lifecycle_msgs.msg import Transition

    left, right = clients["left"], clients["right"]
    left.change_state(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert left.state() == "finalized"
    right.change_state(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_INACTIVE_SHUTDOWN)
    assert right.state() == "finalized"
    for node in nodes.values():
        assert node.stop() == 0, node.output
