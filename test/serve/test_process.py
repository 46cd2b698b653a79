# SPDX-License-Identifier: Apache-2.0
"""`sa2va serve` as a process, as it is reached from elsewhere: TLS, tokens, metrics, and how it ends."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from sa2va_model.checkpoints.adapters import decoder_fingerprint
from sa2va_model.checkpoints.load import save_model
from sa2va_model.sa2va import Sa2VA
from sa2va_serve.client.config import RemoteConfig
from sa2va_serve.client.remote_grounding import RemoteGrounding
from sa2va_serve.wire import codec
from sa2va_serve.wire import grounding_pb2 as pb
from sa2va_serve.wire import grounding_pb2_grpc as stubs

TOKEN = "0123456789abcdef-robot"
START_SECONDS = 240.0  # torch alone takes very long on a busy machine


@dataclass(frozen=True)
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    metrics: int
    certificate: Path

    def channel(self) -> grpc.Channel:
        trust = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        return grpc.secure_channel(f"localhost:{self.port}", trust)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """One of localhost, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    pem, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(pem)]
    subprocess.run(["openssl", *words, *names, *files], check=True, capture_output=True)
    return pem, key


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def served(nano: Sa2VA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    save_model(nano, folder / "nano", dtype=None)
    pem, key = certificate(folder, "server")
    (folder / "tokens").write_text(f"{TOKEN}\n")
    metrics = free_port()
    words = ["serve", "--model", str(folder / "nano"), "--device", "cpu", "--port", "0"]
    words += [
        "--metrics-port",
        str(metrics),
        "--host",
        "0.0.0.0",
        "--tokens",
        str(folder / "tokens"),
    ]
    words += ["--tls-cert", str(pem), "--tls-key", str(key)]
    process = subprocess.Popen(
        [sys.executable, "-m", "sa2va_model", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(r"serving \S+ on 0\.0\.0\.0:(\d+)", line):
            break
    else:
        pytest.fail(f"ended with {process.wait()}")
    yield Served(process, int(found[1]), metrics, pem)
    process.kill()
    process.wait()


def request(frame: np.ndarray, number: int) -> pb.GroundRequest:
    image = codec.encode_image(np.roll(frame, number, 0), "png")
    header = pb.Header(robot_id=f"r{number}", request_id=str(number))
    return pb.GroundRequest(
        header=header, keyframes=[pb.Keyframe(image=image)], sentences=["the mug"]
    )


def robot(served: Served, nano: Sa2VA, **changes: Any) -> tuple[bool, str]:
    """A robot's link after its first looks: whether it stands, and what is wrong with it."""
    config = RemoteConfig(f"localhost:{served.port}", tls=True, probe_period=0.1, **changes)
    grounding = RemoteGrounding(config, decoder_fingerprint(nano))
    end = time.monotonic() + 20
    while not (grounding.connected or grounding.problem) and time.monotonic() < end:
        time.sleep(0.01)
    seen = grounding.connected, grounding.problem
    grounding.close(5)
    return seen


def test_a_robot_needs_the_certificate_and_a_token(
    served: Served, nano: Sa2VA, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text(TOKEN)
    (tmp_path / "old").write_text("an-old-token-0123456789")
    own, token = {"authority": str(served.certificate)}, {"token": str(tmp_path / "mine")}
    assert robot(served, nano, **own, **token) == (True, "")
    connected, problem = robot(served, nano, **own, token=str(tmp_path / "old"))
    assert (connected, "no token that is known" in problem) == (False, True)
    stranger, _ = certificate(tmp_path, "stranger")
    connected, problem = robot(served, nano, authority=str(stranger), **token)
    assert not connected
    assert "localhost" in problem


def test_the_metrics_are_for_this_machine_and_count(served: Served, frame: np.ndarray) -> None:
    with served.channel() as channel:
        stubs.GroundingStub(channel).Ground(
            request(frame, 0), metadata=(("authorization", f"Bearer {TOKEN}"),)
        )
    with urllib.request.urlopen(f"http://127.0.0.1:{served.metrics}/metrics") as page:
        lines = page.read().decode().splitlines()
    assert 'sa2va_requests_total{code="OK",kind="ground"} 1.0' in lines
    assert "sa2va_model_seconds_count 1.0" in lines
    assert "sa2va_waiting 0.0" in lines


def test_sigterm_finishes_what_was_begun(served: Served, nano: Sa2VA, frame: np.ndarray) -> None:
    """Nothing that the server took is lost; what comes later is refused as something to try elsewhere."""
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    with served.channel() as channel:
        remote = stubs.GroundingStub(channel)
        calls = [remote.Ground.future(request(frame, n), metadata=metadata) for n in range(40)]
        calls[0].result(30)
        served.process.send_signal(signal.SIGTERM)
        answered = 0
        for number, call in enumerate(calls):
            try:
                reply = call.result(30)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()  # noqa: PT017
                continue
            answered += 1
            assert reply.request_id == str(number)
            assert reply.meanings[0].found
    assert served.process.wait(30) == 0
    assert served.process.stdout is not None
    told = re.search(r"ending: (\d+) requests wait", served.process.stdout.read())
    assert told is not None
    assert answered > int(told[1])  # those that waited, and the first
