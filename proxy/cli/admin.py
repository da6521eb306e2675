"""How commands ask a running Sluice: its admin API, by HTTP or unix socket. Decides nothing about the state."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

DEFAULT = "http://127.0.0.1:9090"
TIMEOUT_S = 30.0
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where a process listens on all addresses, this machine's own is meant


class NoProcess(Exception):
    """Nothing listens there."""


class AdminError(Exception):
    """It listens, and says no, or is no Sluice: one line, with the fix."""


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin listener at `url`; `path` is the unix socket, if it is one."""

    url: str
    host: str
    port: int
    is_tls: bool = False
    path: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def is_local(self) -> bool:
        return self.path is not None or self.host in ("localhost", "::1") or self.host.startswith("127.")

    def get(self, target: str) -> dict[str, Any]:
        """A JSON document. Raises NoProcess, AdminError."""
        return self._ask("GET", target, None)

    def post(self, target: str, doc: object) -> dict[str, Any]:
        """A JSON document for another. Raises NoProcess, AdminError."""
        return self._ask("POST", target, json.dumps(doc).encode())

    def delete(self, target: str) -> dict[str, Any]:
        """A JSON document. Raises NoProcess, AdminError."""
        return self._ask("DELETE", target, None)

    def _ask(self, method: str, target: str, body: bytes | None) -> dict[str, Any]:
        headers = {"content-type": "application/json"} if body is not None else {}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        connection = self._connection()
        try:
            connection.request(method, target, body, headers)
            reply = connection.getresponse()
            return self._read(reply.status, reply.read())
        except (ConnectionRefusedError, FileNotFoundError) as problem:
            raise NoProcess(f"nothing listens on {self.url}") from problem
        except (OSError, ValueError, http.client.HTTPException) as problem:
            raise AdminError(f"{self.url} does not answer as an admin API does ({type(problem).__name__}); see --admin") from problem
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.path is not None:
            return _Unix(self.path)
        kind = http.client.HTTPSConnection if self.is_tls else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=TIMEOUT_S)

    def _read(self, status: int, raw: bytes) -> dict[str, Any]:
        try:
            doc = json.loads(raw)
        except ValueError:
            doc = None
        if isinstance(doc, dict) and status < 300:
            return doc
        error = doc.get("error") if isinstance(doc, dict) else None
        if not isinstance(error, dict) or not {"message", "fix"} <= error.keys():
            raise AdminError(f"what answers on {self.url} is no Sluice admin API (HTTP {status}); see --admin")
        fix = "put server.admin_token into SLUICE_ADMIN_TOKEN" if status == 401 else error["fix"]
        raise AdminError(f"{error['message']}; {fix}")


class _Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which process, which state."""
    parser.add_argument("--admin", metavar="URL", help=f"admin listener of the running process (SLUICE_ADMIN, else {DEFAULT})")
    parser.add_argument("--state", metavar="URL", help="sqlite:PATH or redis://…: the state itself, without a process (SLUICE_STATE)")


def read_admin(given: str | None) -> Admin:
    """From --admin, SLUICE_ADMIN or the default: http(s)://HOST:PORT, HOST:PORT or unix:/path. Raises ValueError."""
    text = given or os.environ.get("SLUICE_ADMIN") or DEFAULT
    token = os.environ.get("SLUICE_ADMIN_TOKEN")
    if text.startswith("unix:/"):
        return Admin(text, "localhost", 0, path=text.removeprefix("unix:"), token=token)
    url = text if "://" in text else f"http://{text}"
    problem = ValueError("the admin listener is given as http://HOST:PORT, HOST:PORT or unix:/path")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise problem from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise problem
    is_tls = parts.scheme == "https"
    host = ANYWHERE.get(parts.hostname, parts.hostname)
    return Admin(url.rstrip("/"), host, port or (443 if is_tls else 80), is_tls, token=token)


def state_asked(given: str | None) -> str:
    """From --state, SLUICE_STATE or the default of the user."""
    return given or os.environ.get("SLUICE_STATE") or "sqlite:"
