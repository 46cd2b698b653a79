# SPDX-License-Identifier: Apache-2.0
"""How a server serves: limits, addresses, who may ask. Nothing of torch is needed to read it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from sa2va_model.errors import InputError

PORT, METRICS_PORT = 50151, 50152


@dataclass(frozen=True)
class ServerLimits:
    """What one server takes on.

    Attributes:
        waiting, waiting_of_one: requests in all, and of one robot; more are refused at once.
        rate: requests of one robot in a second, on average; 0 = any. `burst`: so many may come together.
        keyframes, sentences: of one request.
        bytes: of one request.
        answer_tokens: of an answer to a question; 0 = as the model's configuration says.
        deadline: seconds, where a request has none of its own.
        prefix_bytes: on the model's device, for what was read of the robots' last frames.
        picture_bytes: of main memory, for their last keyframes unpacked.
        together: robots whose sentences share a forward; 0 = as the device suits (`engine.suited`).
        calls: open at once, waiting ones included; a robot that stops reading holds one.
    """

    waiting: int = 64
    waiting_of_one: int = 4
    rate: float = 0.0
    burst: int = 10
    keyframes: int = 16
    sentences: int = 16
    bytes: int = 8 << 20
    answer_tokens: int = 0
    deadline: float = 60.0
    prefix_bytes: int = 2 << 30
    picture_bytes: int = 256 << 20
    together: int = 0
    calls: int = 512

    def __post_init__(self) -> None:
        for name in ("waiting", "waiting_of_one", "burst", "keyframes", "sentences", "calls"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("rate", "answer_tokens", "prefix_bytes", "picture_bytes", "together"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if self.bytes < 1 << 16:
            raise InputError(f"bytes is {self.bytes}; expected at least {1 << 16}, one picture")
        if self.deadline <= 0:
            raise InputError(f"deadline is {self.deadline} s; expected more than 0")


@dataclass(frozen=True)
class ServerConfig:
    """Where a server listens and how it is kept from strangers.

    Attributes:
        port: 0 = any free one; `metrics_port`: -1 = no metrics.
        certificate, key: PEM files; "" = no TLS.
        clients: PEM file of the authority whose certificates clients must have; "" = none needed.
        tokens: file with a token in each line, `#` begins a remark; "" = none needed.
        grace: seconds that work may take after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    metrics_port: int = METRICS_PORT
    certificate: str = ""
    key: str = ""
    clients: str = ""
    tokens: str = ""
    grace: float = 30.0
    limits: ServerLimits = field(default_factory=ServerLimits)

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise InputError("TLS needs both a certificate and its key; one of them was given")
        if self.clients and not self.certificate:
            raise InputError(
                "certificates of clients are checked with TLS only; expected --tls-cert"
            )
        if is_loopback(self.host):
            return
        if not self.certificate or not (self.tokens or self.clients):
            raise InputError(
                f"host is {self.host!r}, which others can reach; expected TLS (--tls-cert, --tls-key) and tokens "
                "(--tokens) or certificates of clients (--tls-client-ca)"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
