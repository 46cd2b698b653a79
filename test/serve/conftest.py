from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("grpc", reason="the extra 'remote' is not installed")

from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_serve.server.background import BackgroundServer
from sa2va_serve.server.config import ServerConfig, ServerLimits
from sa2va_serve.server.service import GroundingServer


@pytest.fixture(scope="session")
def nano() -> Sa2VA:
    return nano_model()


@pytest.fixture
def service(nano: Sa2VA) -> Iterator[GroundingServer]:
    served = GroundingServer(nano, ServerLimits(bytes=1 << 20))
    yield served
    served.engine.close(5)


@pytest.fixture
def server(service: GroundingServer) -> Iterator[BackgroundServer]:
    """On any free port."""
    config = ServerConfig(port=0, metrics_port=-1, grace=0, limits=service.limits)
    with BackgroundServer(service, config) as running:
        yield running


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
