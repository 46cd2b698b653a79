"""The robot's side: only the segmentation half is on board, and whatever becomes of the link, tracks live on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_model.checkpoints.adapters import decoder_fingerprint
from sa2va_model.checkpoints.load import load_half, save_model
from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation_half import SegmentationHalf
from sa2va_model.testing import nano_model
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.grounding_worker import GroundingWorker
from sa2va_model.tracking.live import LiveTracker
from sa2va_model.tracks import EventKind, FrameResult, TrackState
from sa2va_serve.client.config import RemoteConfig, parse_grounder
from sa2va_serve.client.questions import RemoteQuestions
from sa2va_serve.client.remote_grounding import RemoteGrounding
from sa2va_serve.server.background import BackgroundServer
from sa2va_serve.server.config import ServerConfig, ServerLimits
from sa2va_serve.server.service import GroundingServer

from test.serve.proxy import Proxy

QUICK = RemoteConfig(
    "", encoding="png", deadline=5.0, probe_period=0.1, probe_limit=0.3, shortest_pause=0.05, longest_pause=0.1
)  # fmt: skip


@pytest.fixture(scope="module")
def half(nano: Sa2VA, tmp_path_factory: pytest.TempPathFactory) -> SegmentationHalf:
    folder = tmp_path_factory.mktemp("nano")
    save_model(nano, folder, dtype=None)
    return load_half(folder, "cpu", profile="reference")


@pytest.fixture
def proxy(server: BackgroundServer) -> Iterator[Proxy]:
    made = Proxy(server.port)
    yield made
    made.close()


class Robot:
    """A camera and a tracker; frames come as fast as they are wanted."""

    def __init__(self, half: SegmentationHalf, grounding: RemoteGrounding) -> None:
        self.grounding, self.index = grounding, 0
        config = LiveConfig(background=True, verify_period=0.0)
        self.live = LiveTracker(half, config, grounding=grounding)
        self.results: list[FrameResult] = []

    def step(self) -> FrameResult:
        image = np.random.default_rng(self.index // 10).integers(0, 256, (30, 40, 3), np.uint8)
        result = self.live.process(Frame(image, self.index / 100, self.index))
        self.index += 1
        self.results.append(result)
        return result

    def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.kinds()
            self.step()
            time.sleep(0.01)

    def kinds(self) -> list[str]:
        return [event.kind.name for result in self.results for event in result.events]

    def states(self) -> set[TrackState]:
        return {track.state for track in self.results[-1].tracks}


@contextmanager
def robot(
    half: SegmentationHalf, port: int, config: RemoteConfig = QUICK, **options: object
) -> Iterator[Robot]:
    grounding = RemoteGrounding(
        replace(config, address=f"127.0.0.1:{port}"),
        decoder_fingerprint(half),
        **options,  # type: ignore[arg-type]
    )
    made = Robot(half, grounding)
    yield made
    assert made.live.close(5)


def test_the_half_sees_what_the_whole_model_sees(
    nano: Sa2VA, half: SegmentationHalf, frame: np.ndarray
) -> None:
    assert decoder_fingerprint(half) == decoder_fingerprint(nano)
    assert not [name for name, _ in half.named_parameters() if not name.startswith("sam2.")]
    embedding = nano.ground([frame], "the mug").embeddings
    mine, scores = half.follow_clip([frame], embedding, [0])
    theirs, others = nano.follow_clip([frame], embedding, [0])
    assert np.array_equal(mine[0][0], theirs[0][0])
    assert np.array_equal(scores, others)
    with pytest.raises(InputError, match="no language half"):
        LiveTracker(half)


def test_a_sentence_is_understood_far_away_and_followed_on_board(
    half: SegmentationHalf, server: BackgroundServer
) -> None:
    with robot(half, server.port) as r:
        r.live.track("the mug")
        r.until(lambda: "FOUND" in r.kinds())
        assert r.kinds() == ["STARTED", "FOUND"]
        assert r.grounding.connected
        r.live.prompt(box=(2, 2, 20, 20), image=np.zeros((30, 40, 3), np.uint8), label="it")
        r.until(lambda: "FAILED" in r.kinds())
        [event] = [e for e in r.results[-1].events if e.kind == EventKind.FAILED]
        assert "an example is looked for by a model on board" in event.detail
        assert [track.id for track in r.step().tracks] == ["mug"]


def test_the_server_says_whether_its_model_marks_all_of_a_kind(half: SegmentationHalf) -> None:
    model = nano_model()
    model.vocabulary = Vocabulary(frozenset(("mug",)), frozenset(), frozenset(), plurals=True)
    service = GroundingServer(model)
    config = ServerConfig(port=0, metrics_port=-1, grace=0)
    with BackgroundServer(service, config) as server, robot(half, server.port) as r:
        r.until(lambda: r.grounding.connected)
        assert r.grounding.plurals
    service.engine.close()


def test_a_lost_link_is_told_tracks_live_on_and_the_sentence_waits(
    half: SegmentationHalf, proxy: Proxy
) -> None:
    with robot(half, proxy.port) as r:
        r.live.track("the mug")
        r.until(lambda: "FOUND" in r.kinds())
        proxy.cut = True
        r.until(lambda: "DEGRADED" in r.kinds())
        assert "127.0.0.1" in r.grounding.problem
        r.live.track("the can")
        r.live.prompt(box=(4, 4, 20, 20), track_id="box")
        for _ in range(30):
            r.step()
        assert TrackState.PENDING in r.states()  # "the can"
        assert TrackState.TRACKING in r.states()  # the others
        assert "FAILED" not in r.kinds()
        proxy.cut = False
        proxy.break_connections()
        r.until(lambda: r.kinds().count("FOUND") == 3)
        assert r.kinds().count("DEGRADED") == r.kinds().count("RESTORED") == 1
        track = next(t for t in r.results[-1].tracks if t.id == "can")
        assert track.last_keyframe is not None
        assert track.last_keyframe > (r.index - 60) / 100  # not on frames of before the outage


def test_a_server_that_dies_in_the_middle_of_a_request_and_comes_back(
    half: SegmentationHalf, nano: Sa2VA
) -> None:
    service = GroundingServer(nano)
    config = ServerConfig(port=0, metrics_port=-1, grace=0)
    first = BackgroundServer(service, config)
    port = first.start()
    with robot(half, port) as r:
        r.until(lambda: r.grounding.connected)
        with nano._turns._lock:
            r.live.track("the mug")
            r.until(lambda: bool(service.engine._running))
            first.end()
        r.until(lambda: "DEGRADED" in r.kinds())
        with BackgroundServer(service, replace(config, port=port)):
            r.until(lambda: "FOUND" in r.kinds())
        assert "FAILED" not in r.kinds()
    service.engine.close()


def test_a_slow_and_lossy_link_only_delays(half: SegmentationHalf, proxy: Proxy) -> None:
    proxy.delay, proxy.loss = 0.05, 0.1
    with robot(half, proxy.port, replace(QUICK, probe_limit=3.0)) as r:
        for n in range(6):
            r.live.track(f"the mug {n}")
        r.until(lambda: r.kinds().count("FOUND") == 6, 20)
        assert set(r.kinds()) == {"STARTED", "FOUND"}


def test_an_adapter_that_the_server_lacks_is_said(
    half: SegmentationHalf, server: BackgroundServer
) -> None:
    with robot(half, server.port, replace(QUICK, adapter="garden")) as r:
        r.live.track("the mug")
        r.until(lambda: "DEGRADED" in r.kinds())
        assert "no adapter 'garden'" in r.grounding.problem
        assert r.states() == {TrackState.PENDING}


def test_a_model_that_fails_and_a_sentence_that_cannot_be_used_cost_their_own_track(
    half: SegmentationHalf, nano: Sa2VA, server: BackgroundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sa2va_serve.server import engine

    def choosy(sentence: str) -> str:
        if "can" in sentence:
            raise InputError("expression: expected other words")
        return sentence

    def fail(*_: object) -> None:
        hook.remove()
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine, "clean_expression", choosy)
    with robot(half, server.port) as r:
        r.until(lambda: r.grounding.connected)
        hook = nano.mllm.vision_model.register_forward_pre_hook(fail)
        r.live.track("the mug")
        r.until(lambda: "FAILED" in r.kinds())
        r.live.track("the can")
        r.live.track("the bowl")
        r.until(lambda: r.kinds().count("FAILED") == 2 and "FOUND" in r.kinds())
        failed = [e for result in r.results for e in result.events if e.kind is EventKind.FAILED]
        assert [e.expression for e in failed] == ["the mug", "the can"]
        assert "out of memory" in failed[0].detail
        assert "expected other words" in failed[1].detail
        assert "DEGRADED" not in r.kinds()


def test_another_model_is_not_asked(half: SegmentationHalf, server: BackgroundServer) -> None:
    config = replace(QUICK, address=f"127.0.0.1:{server.port}")
    r = Robot(half, RemoteGrounding(config, "0" * 32))
    r.live.track("the mug")
    r.until(lambda: "DEGRADED" in r.kinds())
    assert "serves another model" in r.grounding.problem
    assert r.states() == {TrackState.PENDING}
    r.live.close()


def test_a_wrong_token_is_said(half: SegmentationHalf, nano: Sa2VA, tmp_path: Path) -> None:
    (tmp_path / "all").write_text("0123456789abcdef\n")
    (tmp_path / "mine").write_text("fedcba9876543210\n")
    service = GroundingServer(nano)
    config = ServerConfig(port=0, metrics_port=-1, grace=0, tokens=str(tmp_path / "all"))
    with BackgroundServer(service, config) as server:
        with robot(half, server.port, replace(QUICK, token=str(tmp_path / "mine"))) as r:
            r.live.track("the mug")
            r.until(lambda: "DEGRADED" in r.kinds())
            assert "no token that is known" in r.grounding.problem
        with robot(half, server.port, replace(QUICK, token=str(tmp_path / "all"))) as r:
            r.live.track("the mug")
            r.until(lambda: "FOUND" in r.kinds())
    service.engine.close()


def test_a_model_on_board_answers_while_the_link_is_lost(
    half: SegmentationHalf, nano: Sa2VA
) -> None:
    with robot(half, 1, fallback=lambda: GroundingWorker(nano, background=True)) as r:
        r.live.track("the mug")
        r.until(lambda: "FOUND" in r.kinds())
        assert sorted(r.kinds()) == ["DEGRADED", "FOUND", "STARTED"]
        assert r.grounding.falls_back


def test_a_busy_server_is_asked_again_when_it_says(half: SegmentationHalf, nano: Sa2VA) -> None:
    service = GroundingServer(nano, ServerLimits(rate=5.0, burst=1))
    config = ServerConfig(port=0, metrics_port=-1, grace=0)
    with BackgroundServer(service, config) as server, robot(half, server.port) as r:
        for n in range(4):
            r.live.track(f"the mug {n}")
        r.until(lambda: r.kinds().count("FOUND") == 4)
        assert set(r.kinds()) == {"STARTED", "FOUND"}
    service.engine.close()


def test_what_is_too_large_for_the_server_goes_as_jpeg(
    half: SegmentationHalf, server: BackgroundServer
) -> None:
    big = np.random.default_rng(1).integers(
        0, 256, (600, 800, 3), np.uint8
    )  # 1.4 MB as PNG, over 1 MiB
    grounding = RemoteGrounding(
        replace(QUICK, address=f"127.0.0.1:{server.port}"),
        decoder_fingerprint(half),
        background=False,
    )
    live = LiveTracker(half, LiveConfig(verify_period=0.0), grounding=grounding)
    live.track("the mug")
    result = live.process(Frame(big, 0.0, 0))
    assert [event.kind for event in result.events] == [EventKind.STARTED, EventKind.FOUND]
    live.close()


def test_questions_are_answered_far_away_and_masks_made_on_board(
    half: SegmentationHalf, nano: Sa2VA, server: BackgroundServer, frame: np.ndarray
) -> None:
    asking = RemoteQuestions(replace(QUICK, address=f"127.0.0.1:{server.port}"), half)
    heard: list[str] = []
    answer = asking.ask([frame], "What is it?", on_text=lambda delta, text: heard.append(delta))
    mine = nano.ask([frame], "What is it?")
    assert (answer.text, answer.turn) == (mine.text, mine.turn)
    assert torch.allclose(answer.embeddings, mine.embeddings, atol=2e-3)
    assert (answer.masks == mine.masks).mean() > 0.99
    again = asking.ask([frame], "And now?", history=(answer.turn,), masks=False)
    assert again.masks.shape[0] == 0
    asking.close()
    lost = RemoteQuestions(replace(QUICK, address="127.0.0.1:1"), half)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1"):
        lost.ask([frame], "What is it?")
    lost.close()


@pytest.mark.parametrize(
    "text",
    ["grpc://host", "http://host:1", "host:1", "grpc://h:99999", "grpc://u@h:1", "grpc://h:1/x"],
)
def test_a_grounder_is_local_or_an_address(text: str) -> None:
    assert parse_grounder("local") is None
    assert parse_grounder("grpc://robot.lan:50151") == ("robot.lan:50151", False)
    assert parse_grounder("grpcs://[::1]:1") == ("[::1]:1", True)
    with pytest.raises(InputError, match="grounder is"):
        parse_grounder(text)


def test_the_command_tracks_with_a_server(
    nano: Sa2VA, server: BackgroundServer, tmp_path: Path
) -> None:
    from PIL import Image

    from sa2va_cli.main import main

    save_model(nano, tmp_path / "nano", dtype=None)
    (tmp_path / "clip").mkdir()
    for index in range(3):
        picture = np.random.default_rng(index).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "clip" / f"{index}.png")
    summaries = []
    for grounder in ("local", f"grpc://127.0.0.1:{server.port}"):
        out = tmp_path / grounder[:4]
        words = [
            "track",
            str(tmp_path / "clip"),
            "-e",
            "the mug",
            "--grounder",
            grounder,
            "-o",
            str(out),
        ]
        assert main([*words, "--model", str(tmp_path / "nano"), "--device", "cpu"]) == 0
        summaries.append(json.loads((out / "summary.json").read_text()))
        masks = sorted((out / "masks").rglob("*.png"))
        assert len(masks) == 3
    assert summaries[0]["tracks"] == summaries[1]["tracks"]
    for name in ("0", "2"):
        theirs, mine = (
            np.asarray(Image.open(next((tmp_path / d / "masks").rglob(f"*{name}.png"))))
            for d in ("loca", "grpc")
        )
        assert (theirs == mine).mean() > 0.999  # embeddings are rounded to fp16


def test_torchrun_gives_each_process_its_share_of_a_dataset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sa2va_cli.evaluation.evaluate import _own_device, _own_shard, _shard

    assert _shard(_own_shard()) == (0, 1)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert _shard(_own_shard()) == (5, 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [_own_device("auto"), _own_device("cpu")] == ["cuda:1", "cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _own_device("auto") == "auto"
