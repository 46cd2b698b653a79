"""The node's session with a server in place of the language half; no ROS is needed for it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from sa2va_model.checkpoints.adapters import fingerprint, save_adapter
from sa2va_model.checkpoints.load import save_model
from sa2va_model.io.frames import Frame
from sa2va_model.testing import nano_model
from sa2va_model.tracking.config import LiveConfig
from sa2va_ros.interfaces.conversation import QuestionRequest
from sa2va_ros.interfaces.diagnostics import Level, Readings, degraded, findings
from sa2va_ros.node.model_session import EngineSettings, ModelSession
from sa2va_serve.client.config import RemoteConfig
from sa2va_serve.server.background import BackgroundServer
from sa2va_serve.server.config import ServerConfig
from sa2va_serve.server.service import GroundingServer


def settings(model: Path, port: int, adapter: str = "") -> EngineSettings:
    return EngineSettings(
        str(model), adapter, "cpu", "auto", 1, lambda: LiveConfig(background=True, verify_period=0.0), 4, 0,
        RemoteConfig(f"127.0.0.1:{port}", probe_period=0.1, shortest_pause=0.05),
    )  # fmt: skip


def seen(session: ModelSession, count: int, frame: np.ndarray) -> None:
    for index in range(500):
        result = session.process(Frame(frame, index / 30, index))
        if sum(track.area > 0 for track in result.tracks) == count:
            return
        time.sleep(0.01)
    raise AssertionError([event.kind.name for event in result.events])


def test_a_session_tracks_asks_and_changes_its_adapter(tmp_path: Path, frame: np.ndarray) -> None:
    model = nano_model()
    save_model(model, tmp_path / "nano", dtype=None)
    base, part = fingerprint(model), "sam2.sam2_model.sam_mask_decoder.mask_tokens.weight"
    tuned = nano_model()
    with torch.no_grad():
        tuned.get_parameter(part).add_(0.1)
    save_adapter(tuned, tmp_path / "kitchen", base=base, parts=[part])
    service = GroundingServer(model, adapters=[str(tmp_path / "kitchen")])
    config = ServerConfig(port=0, metrics_port=-1, grace=0)
    session = ModelSession()
    with BackgroundServer(service, config) as server:
        session.load(settings(tmp_path / "nano", server.port))
        session.track("the mug")
        seen(session, 1, frame)
        answer = session.need_conversation().ask(frame, QuestionRequest("What is it?"))
        assert answer.turn.question == "What is it?"
        before = session.need_model().get_parameter(part).detach().clone()
        session.hold("changing")
        assert (
            session.change_adapter(str(tmp_path / "kitchen")) == f"adapter {tmp_path / 'kitchen'}"
        )
        session.release()
        assert session.adapter == str(tmp_path / "kitchen")
        seen(session, 1, frame)  # the track goes on from its words, understood with the adapter
        assert service.engine.adapters.active == "kitchen"
        session.hold("changing")
        session.change_adapter("")
        session.release()
        assert torch.equal(session.need_model().get_parameter(part), before)
        assert session.link is not None
        assert session.link.problem == ""
        assert session.close()
        assert session.link is None
    service.engine.close()


def test_the_diagnostics_have_a_line_for_the_link() -> None:
    usual = [finding.name for finding in findings(Readings(loaded=True, active=True))]
    assert "grounder" not in usual
    lost = Readings(
        loaded=True,
        active=True,
        silence=0.0,
        grounder="gpu:1",
        link="gpu:1: refused",
        connected=False,
    )
    found = {finding.name: finding for finding in findings(lost)}
    assert found["grounder"].level is Level.ERROR
    assert degraded(list(found.values())) == "sentences wait: gpu:1: refused"
    helped = Readings(
        loaded=True,
        active=True,
        silence=0.0,
        grounder="gpu:1",
        link="x",
        connected=False,
        fallback=True,
    )
    assert {f.name: f.level for f in findings(helped)}["grounder"] is Level.WARN
    assert degraded(findings(helped)) == ""
