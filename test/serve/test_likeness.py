# SPDX-License-Identifier: Apache-2.0
"""What a model refuses on board because it looks like something else is refused where a server answers, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from sa2va_model.checkpoints.adapters import decoder_fingerprint
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_model.mllm.word_probes import WordProbes
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.live import LiveTracker
from sa2va_model.tracks import Event, EventKind, Reason
from sa2va_serve.client.config import RemoteConfig
from sa2va_serve.client.remote_grounding import RemoteGrounding
from sa2va_serve.server.background import BackgroundServer
from sa2va_serve.server.config import ServerConfig
from sa2va_serve.server.service import GroundingServer


@pytest.fixture
def probed() -> Sa2VA:
    """Whatever it points at looks like a knife to it, and nothing like a glass."""
    model = nano_model()
    model.vocabulary = Vocabulary(frozenset({"glass", "knife"}), frozenset(), frozenset())
    weight = torch.randn(2, model.mllm.hidden_size)
    model.word_probes = WordProbes(
        {"glass": (0,), "knife": (1,)}, {}, weight, torch.tensor([-100.0, 100.0]), 0.0, 0.0
    )
    return model


@pytest.fixture
def link(probed: Sa2VA) -> Iterator[RemoteGrounding]:
    service = GroundingServer(probed)
    with BackgroundServer(service, ServerConfig(port=0, metrics_port=-1, grace=0)) as server:
        config = RemoteConfig(f"127.0.0.1:{server.port}", encoding="png")
        yield RemoteGrounding(config, decoder_fingerprint(probed), background=False)
    service.engine.close(5)


def outcomes(live: LiveTracker) -> list[Event]:
    """What a tracker says of a glass and a knife on one frame, scores to three places: embeddings travel in fp16."""
    live.track("the glass")
    live.track("the knife")
    [frame] = noisy_clip(1)
    events = [e for e in live.process(frame).events if e.kind != EventKind.STARTED]
    assert live.close()
    return [replace(event, score=round(event.score, 3)) for event in events]


def test_a_robot_refuses_what_the_model_on_board_refuses(
    probed: Sa2VA, link: RemoteGrounding
) -> None:
    config = LiveConfig(verify_period=0)
    here = outcomes(LiveTracker(probed, config))
    there = outcomes(LiveTracker(probed, config, grounding=link))
    assert there == here
    refused, found = sorted(there, key=lambda event: event.track_id)
    assert (found.track_id, found.kind) == ("knife", EventKind.FOUND)
    assert (refused.track_id, refused.kind) == ("glass", EventKind.NOT_FOUND)
    assert refused.reason == Reason.ABSENT
    assert refused.detail == "What comes nearest to 'glass' looks like something else."
