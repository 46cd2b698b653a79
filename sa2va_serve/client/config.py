# SPDX-License-Identifier: Apache-2.0
"""Where a robot's sentences are understood, and how it gets there. Nothing of torch or gRPC is needed to read it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sa2va_model.errors import InputError

LOCAL = "local"


@dataclass(frozen=True)
class RemoteConfig:
    """A robot's link to a server.

    Attributes:
        address: host:port.
        tls: whether the connection is encrypted; `authority`: PEM file of who vouches for the server, "" = the
            system's.
        token: file whose first line is the robot's token; "" = none.
        robot_id: as the server is to know it; "" = the machine's name.
        adapter: by name; "" = the bare model.
        encoding: of keyframes: jpeg (a tenth of the bytes) or png (exact).
        deadline: seconds for one answer.
        probe_period: seconds between two looks whether the link is up; `probe_limit`: for one of them.
        shortest_pause, longest_pause: seconds between two tries while it is lost; each is twice the one before.
        in_flight: questions at once.
    """

    address: str
    tls: bool = False
    authority: str = ""
    token: str = ""
    robot_id: str = ""
    adapter: str = ""
    encoding: str = "jpeg"
    deadline: float = 15.0
    probe_period: float = 5.0
    probe_limit: float = 3.0
    shortest_pause: float = 0.25
    longest_pause: float = 5.0
    in_flight: int = 2

    def __post_init__(self) -> None:
        if self.encoding not in ("jpeg", "png"):
            raise InputError(f"encoding of keyframes is {self.encoding!r}; expected jpeg or png")
        for name in ("deadline", "probe_period", "probe_limit", "shortest_pause", "longest_pause"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)} s; expected more than 0")

    @property
    def name(self) -> str:
        """What the server knows the robot as."""
        return self.robot_id or socket.gethostname() or "robot"

    def read_token(self) -> str:
        """The token, "" if none is needed.

        Raises:
            InputError: the file cannot be read, or begins with an empty line.
        """
        if not self.token:
            return ""
        try:
            text = Path(self.token).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.token}: cannot be read ({error})") from error
        first = text.partition("\n")[0].partition("#")[0].strip()
        if not first:
            raise InputError(f"{self.token}: expected a token in its first line")
        return first


def parse_grounder(text: str) -> tuple[str, bool] | None:
    """host:port and whether TLS is wanted; None = sentences are understood on board.

    Raises:
        InputError: anything but `local`, `grpc://host:port` and `grpcs://host:port`.
    """
    if text in ("", LOCAL):
        return None
    wrong = InputError(
        f"grounder is {text!r}; expected 'local', 'grpc://host:port' or, with TLS, 'grpcs://host:port'"
    )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise wrong from error
    extra = parts.path not in ("", "/") or parts.query or parts.username
    if parts.scheme not in ("grpc", "grpcs") or not parts.hostname or not port or extra:
        raise wrong
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", parts.scheme == "grpcs"
