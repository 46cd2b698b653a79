# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one process: one model, tracks as in processes of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.testing import nano_model
from sa2va_model.tracking.grounding_worker import (
    Answered,
    GroundingQuestion,
    Notice,
    Purpose,
    QuestionCounts,
)
from sa2va_model.tracking.shared_grounding import SharedGrounding
from sa2va_model.tracks import EventKind, Reason
from sa2va_ros.node.shared_model import FairLock, SharedModel

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")


class Answering:
    """Keeps what it was asked, and gives it back as answers."""

    def __init__(self) -> None:
        self.waiting: dict[str, GroundingQuestion] = {}
        self.closed = 0
        self.told: list[Notice] = []
        self.counts = QuestionCounts()

    def ask(self, question: GroundingQuestion) -> None:
        self.waiting[question.track_id] = question

    def forget(self, track_id: str | None = None) -> None:
        for name in [n for n in self.waiting if track_id in (None, n)]:
            del self.waiting[name]

    def answers(self) -> list[Answered]:
        out = [Answered(q, None, "", 1.0) for q in self.waiting.values()]
        self.waiting.clear()
        return out

    def notices(self) -> list[Notice]:
        out, self.told = self.told, []
        return out

    def close(self, timeout: float = 30.0) -> bool:
        self.closed += 1
        return True


def question(track_id: str) -> GroundingQuestion:
    return GroundingQuestion(track_id, "a mug", [], 0, 0, 0.0, Purpose.FIND)


def test_every_camera_gets_the_answers_to_its_own_questions() -> None:
    service = Answering()
    shared = SharedGrounding(lambda: service)
    front, wrist = shared.view("front"), shared.view("wrist")
    for view in (front, wrist):
        view.ask(question("mug"))
    front.ask(question("bowl"))
    front.forget("bowl")
    assert [a.question.track_id for a in wrist.answers()] == ["mug"]
    assert [a.question.track_id for a in front.answers()] == ["mug"]
    assert front.answers() == wrist.answers() == []
    assert (front.counts.asked, front.counts.answered) == (2, 1)
    service.told = [Notice(EventKind.DEGRADED, Reason.LINK, "no answer")]
    assert len(front.notices()) == len(wrist.notices()) == 1
    wrist.ask(question("mug"))
    front.forget()
    assert len(wrist.answers()) == 1  # another camera's question was not forgotten


def test_the_queue_ends_with_the_last_camera_and_begins_again() -> None:
    made: list[Answering] = []

    def begin() -> Answering:
        made.append(Answering())
        return made[-1]

    shared = SharedGrounding(begin)
    front, wrist = shared.view("front"), shared.view("wrist")
    with pytest.raises(ValueError, match="'front' is in use"):
        shared.view("front")
    assert front.close()
    assert not made[0].closed
    assert wrist.close()
    assert made[0].closed == 1
    shared.view("front")
    assert len(made) == 2


def test_the_model_is_loaded_once_and_freed_with_its_last_camera() -> None:
    shared, loads = SharedModel(), []

    def load() -> object:
        loads.append(1)
        return nano_model()

    first = shared.take("front", ("m",), load)
    assert shared.take("wrist", ("m",), load) is first
    assert loads == [1]
    assert shared.several
    with pytest.raises(InputError, match="the same model"):
        shared.take("third", ("another",), load)
    shared.put_back("front")
    shared.put_back("wrist")
    assert shared.take("front", ("another",), load) is not first


def test_a_camera_ends_while_another_one_loads() -> None:
    shared, go_on = SharedModel(), threading.Event()

    def load() -> object:
        assert go_on.wait(30)
        return nano_model()

    got: list[object] = []
    loading = threading.Thread(target=lambda: got.append(shared.take("front", ("m",), load)))
    waiting = threading.Thread(target=lambda: got.append(shared.take("wrist", ("m",), load)))
    loading.start()
    waiting.start()
    shared.put_back("third")  # does not wait for the model
    go_on.set()
    loading.join(30)
    waiting.join(30)
    assert len(got) == 2
    assert got[0] is got[1]
    assert shared.several


def test_a_model_that_does_not_load_is_tried_again() -> None:
    shared = SharedModel()

    def fail() -> object:
        raise InputError("no such folder")

    with pytest.raises(InputError, match="no such folder"):
        shared.take("front", ("m",), fail)
    assert shared.take("front", ("m",), nano_model) is not None


def test_turns_come_in_the_order_in_which_they_were_asked_for() -> None:
    lock, order = FairLock(), []

    def work(name: int) -> None:
        with lock.held():
            order.append(name)

    threads: list[threading.Thread] = []
    with lock.held():
        for name in range(5):
            threads.append(threading.Thread(target=work, args=(name,)))
            threads[-1].start()
            while len(lock) < name + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


PICTURES = {
    name: cv2.resize(np.random.default_rng(n).integers(0, 256, (6, 8, 3), np.uint8), (160, 120))
    for n, name in enumerate(("front", "wrist"))
}


def test_two_cameras_track_as_two_processes_do(
    start_node: Callable[..., Any],
    start_client: Callable[[str], Any],
    nano_folder: Path,
    wait_for: Callable[..., Any],
) -> None:
    """A box on one camera is not seen on the other; what is said to all is looked for on both."""
    from std_msgs.msg import String

    from sa2va_ros.srv import AddPrompt

    settings = {"model": nano_folder, "threads": 1, "status_period": 0.1, "verify_period": 0.0}
    start_node(**settings, remaps=("__ns:=/alone",))
    topics = {"image_topic": "image", "depth_topic": "depth", "camera_info_topic": "camera_info"}
    cameras = {"cameras": "[front, wrist]", "camera_namespaces": "[/two/front, /two/wrist]"}
    node = start_node(
        "cameras_node", **settings, **topics, **cameras, remaps=("sa2va_cameras:__ns:=/two",)
    )
    clients = {name: start_client(f"/two/{name}") for name in PICTURES}
    alone = start_client("/alone")
    for client in (alone, *clients.values()):
        client.wait_connected()

    masks: dict[str, list[bytes]] = {}
    for which in (alone, clients["front"]):
        which.stream(which.image(PICTURES["front"]))
        asked = AddPrompt.Request(prompt=box())
        assert which.call(AddPrompt, "sa2va_tracker/add_prompt", asked).accepted
        which.got["mask"].clear()
        sent = [which.stream(which.image(PICTURES["front"])).header for _ in range(4)]
        by_header = wait_for(lambda w=which, all_of=sent: masks_of(w, all_of), 20, "masks")
        masks[which.node.get_namespace()] = by_header
    assert any(any(mask) for mask in masks["/alone"])
    assert masks["/alone"] == masks["/two/front"]
    wrist = clients["wrist"]
    assert not wrist.stream(wrist.image(PICTURES["wrist"])).tracks

    to_all = start_client("/two")
    say = to_all.node.create_publisher(String, "command", 10)
    wait_for(say.get_subscription_count, 20, "the node of all cameras")
    say.publish(String(data="the bowl"))
    for name, client in clients.items():
        client.stream_until(
            PICTURES[name],
            lambda c: [t.expression for t in c.got["tracks"][-1].tracks] == ["the bowl"],
        )
        status = client.status_after(lambda s: s.processed > 0)
        assert status.input_fps > 0, name
    assert node.stop() == 0, node.output


def masks_of(client: Any, headers: list[Any]) -> list[bytes] | None:
    """The masks of those images, once they are all there."""
    found = [m for m in client.got["mask"] if m.header in headers]
    return [bytes(m.data) for m in found] if len(found) == len(headers) else None


def box() -> Any:
    from sa2va_ros.msg import VisualPrompt

    message = VisualPrompt(type=VisualPrompt.BOX, label="that one")
    message.box.x_offset, message.box.y_offset = 40, 30
    message.box.width, message.box.height = 50, 40
    return message


@pytest.mark.parametrize(
    ("cameras", "spaces", "says"),
    [
        ([], [], "each of them once"),
        (["front", "front"], ["/a", "/b"], "each of them once"),
        (["my-camera"], ["/front"], "'my-camera'; expected letters"),
    ],
)
def test_cameras_that_make_no_sense_are_refused(
    cameras: list[str], spaces: list[str], says: str
) -> None:
    from sa2va_ros.cameras_node import check_cameras

    with pytest.raises(InputError, match=says):
        check_cameras(cameras, spaces)


def test_they_are_refused_in_one_line(start_node: Callable[..., Any]) -> None:
    node = start_node("cameras_node", cameras="[front, wrist]", camera_namespaces="[/front]")
    assert node.process.wait(60) == 2
    assert "has 1 entries; expected 2" in node.output
    assert "Traceback" not in node.output
