# SPDX-License-Identifier: Apache-2.0
"""Expressions written by whoever knows the truth, and over HTTP by a server that fails now and then."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from sa2va_cli.main import main
from sa2va_sim.painted.scene import flat_clip
from sa2va_training.annotate import backends
from sa2va_training.annotate.backends import Endpoint, KnownNames
from sa2va_training.annotate.pictures import YELLOW, alone, bordered, crop
from sa2va_training.annotate.pipeline import annotate, objects_of
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.readers.ref_sav import open_ref_sav
from sa2va_training.data.readers.simple import SimpleFolder


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Ten painted clips of three frames; the first has an expression of a person."""
    root = tmp_path / "clips"
    with FolderWriter(root) as folder:
        for seed in range(10):
            clip = flat_clip(np.random.default_rng(seed), 64, 3)
            names = {f.index + 1: f"{f.colour} {f.shape} {f.index}" for f in clip[0].facts}
            said = [{"text": "mine", "objects": ["1"], "kind": "attribute"}] if not seed else []
            frames = [picture.rgb for picture in clip]
            labels = [picture.instances for picture in clip]
            folder.add_clip(f"run{seed}", frames, labels, names, expressions=said)
    return root


def long_ones(root: Path) -> dict[str, str]:
    """Expressions that were written, by clip and object."""
    found = {}
    for record in SimpleFolder(root).records:
        for said in record.data.get("expressions", ()):
            if said["kind"] == "long":
                found[f"{record.text('clip')}|{said['objects'][0]}"] = said["text"]
    return found


def test_every_object_that_is_seen_gets_its_words(clips: Path) -> None:
    words = ["annotate", str(clips), "--captioner", "truth", "--checker", "truth"]
    assert main(words) == 0
    things = {thing.key: thing.name for thing in objects_of(clips)}
    assert len(things) > 15
    assert long_ones(clips) == {key: f"the {name}" for key, name in things.items()}
    before = (clips / "annotations.jsonl").read_text()
    kept = SimpleFolder(clips).records[0].data["expressions"][0]
    assert kept == {"text": "mine", "objects": ["1"], "kind": "attribute"}
    sizes = [len(f.read_text().splitlines()) for f in sorted((clips / "annotate").iterdir())]
    assert sizes == [len(things)] * 3
    assert main(words) == 0  # nothing is asked again, nothing is written twice
    assert (clips / "annotations.jsonl").read_text() == before
    assert [len(f.read_text().splitlines()) for f in (clips / "annotate").iterdir()] == sizes


class _Server(BaseHTTPRequestHandler):
    """Speaks the protocol; every third request fails, in turn with a status and with a broken line."""

    asked: ClassVar[list[dict[str, Any]]] = []
    count: ClassVar[int] = 0

    def do_GET(self) -> None:
        self._reply({"data": [{"id": "seer"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).count += 1
        if self.count % 3 == 0:
            if self.count % 2:
                self.send_error(503)
            else:
                self.connection.close()
            return
        self.asked.append(body)
        text = body["messages"][0]["content"][-1]["text"]
        number = len(self.asked)
        same = "no" if "caption 1\n" in text else "Yes, they can."
        said = same if "yes or no" in text else f"caption {number}"
        self._reply({"choices": [{"message": {"role": "assistant", "content": said}}]})

    def _reply(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    _Server.asked, _Server.count = [], 0
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}/v1"
    made.shutdown()
    made.server_close()


def test_a_server_that_fails_now_and_then_loses_nothing(clips: Path, server: str) -> None:
    seer = Endpoint(server, pause=0.001)
    tally = annotate(clips, seer, seer)
    things = list(objects_of(clips))
    assert (tally.kept, tally.dropped, tally.unanswered) == (len(things) - 1, 1, ())
    assert (
        len(_Server.asked) == 5 * len(things) - 2
    )  # the one that was dropped has no scene and no video
    dropped = json.loads((clips / "annotate/object.jsonl").read_text().splitlines()[0])
    assert (dropped["kept"], dropped["check"]) == (False, "no")
    assert things[0].key not in long_ones(clips)
    videos = [b for b in _Server.asked if "frames of one video" in str(b)]
    assert len(videos) == len(things) - 1
    for body in videos:
        *shown, text = body["messages"][0]["content"]
        assert body["model"] == "seer"
        assert len(shown) == 3
        assert re.search(r"described so: caption \d+", text["text"])
        head, _, data = shown[0]["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        rgb = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert rgb is not None
        assert rgb.shape == (64, 64, 3)


def test_a_run_that_got_no_answers_goes_on_where_it_was(
    clips: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_TRIES", 1)
    seer = Endpoint(server, pause=0.0)
    first = annotate(clips, seer, KnownNames(), stages=("object",))
    assert first.unanswered
    asked = len(_Server.asked)
    assert (
        main(["annotate", str(clips), "--captioner", "http://127.0.0.1:9/v1", "--checker", "truth"])
        == 1
    )
    monkeypatch.setattr(backends, "_TRIES", 5)
    again = annotate(clips, seer, KnownNames(), stages=("object",))
    assert not again.unanswered
    answered = first.kept + first.dropped
    assert len(_Server.asked) - asked == 2 * (again.kept + again.dropped - answered)


def test_shards_share_a_folder_and_the_whole_is_ref_sav(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["annotate", str(clips), "--captioner", "truth", "--checker", "truth"]
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets them
    for n in range(2):
        monkeypatch.setenv("RANK", str(n))
        assert main(words) == 0
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    things = {thing.key: thing for thing in objects_of(clips)}
    assert long_ones(clips) == {key: f"the {thing.name}" for key, thing in things.items()}
    sizes = [
        len((clips / f"annotate/object-{n}of2.jsonl").read_text().splitlines()) for n in (0, 1)
    ]
    assert sum(sizes) == len(things)
    assert min(sizes) > 0
    assert main(words) == 0  # one process afterwards asks nothing again
    assert not (clips / "annotate/object.jsonl").exists()

    out = tmp_path / "refsav"
    assert main(["data", "export", str(clips), "--format", "ref_sav", "-o", str(out)]) == 0
    assert main(["data", "export", str(clips), "--format", "ref_sav", "-o", str(out)]) == 2
    back = open_ref_sav(out, "ref_sav", captions="both")
    assert len(back) == 10
    first = back[0]
    assert len(first.frames) == 3
    texts = [(r.text, r.kind) for r in first.referrings]
    assert ("mine", "short") in texts  # the person's words are the short ones
    truth = [t for key, t in things.items() if key.startswith("images/run0|")]
    assert [t for t in texts if t[1] == "long"] == [(f"the {t.name}", "long") for t in truth]
    long = [r.target for r in first.referrings if r.kind == "long"]
    for target, thing in zip(long, truth, strict=True):
        assert target is not None
        assert np.array_equal(target.read(64, 64), thing.masks)
    rgb = first.read_frames()
    assert all(
        np.abs(a.astype(int) - b).mean() < 8 for a, b in zip(rgb, truth[0].frames, strict=True)
    )


def test_what_is_shown_of_an_object() -> None:
    rgb = np.random.default_rng(0).integers(0, 200, (60, 80, 3), dtype=np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:30, 30:50] = True
    near = crop(rgb, mask)
    assert near.shape == (10 + 2 * 7, 20 + 2 * 10, 3)
    assert (alone(rgb, mask)[~mask] == 255).all()
    assert (alone(rgb, mask)[mask] == rgb[mask]).all()
    shown = bordered(rgb, mask)
    assert (shown[20, 40] == YELLOW).all()
    assert (shown[25, 40] == rgb[25, 40]).all()
    assert (shown[:10] == rgb[:10]).all()
