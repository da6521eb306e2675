"""The URL of a shared state, read into an Address. Opens nothing, and never repeats what could be a password."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

Topology = Literal["single", "sentinel", "cluster"]
Node = tuple[str, int]

SCHEMES: Mapping[str, tuple[Topology, bool]] = {  # → topology, TLS
    "redis": ("single", False),
    "rediss": ("single", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
TLS_FILES = ("ca", "cert", "key")
SENTINEL = ("sentinel_user", "sentinel_password")
PARAMETERS = ("journal", *TLS_FILES, *SENTINEL)
FORMS = "redis[s]://[user:password@]host:port/db, redis[s]+sentinel://host:port,…/service[/db] or redis[s]+cluster://host:port,…"
PORT, SENTINEL_PORT, MOST_DB = 6379, 26379, 1_000_000


@dataclass(frozen=True, slots=True)
class Address:
    """Where a shared state is, who enters, and how its traffic is protected."""

    topology: Topology
    nodes: tuple[Node, ...]  # the server, the sentinels, or some nodes of the Cluster
    service: str = ""  # the name Sentinel knows the master by
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_user: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    ca: str | None = None  # PEM files; None: the authorities of this machine
    cert: str | None = None
    key: str | None = None
    journal: str | None = None  # the directory of this sidecar's own journal

    def __str__(self) -> str:
        """For logs, and to tell one state from another: who enters is left out, so that a new password names the same state."""
        scheme = next(name for name, form in SCHEMES.items() if form == (self.topology, self.is_tls))
        where = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        path = "".join(f"/{part}" for part in (self.service, self.db if self.topology != "cluster" else "") if part != "")
        return f"{scheme}://{where}{path}"


def read_address(url: str) -> Address:
    """Raises ValueError, which says what to write instead."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"the URL of a shared state is {FORMS}")
    topology, is_tls = SCHEMES[scheme]
    rest, _, query = rest.partition("?")
    place, _, path = rest.partition("/")
    login, _, hosts = place.rpartition("@")
    asked = _parameters(query, topology, is_tls)
    nodes = tuple(_node(one, SENTINEL_PORT if topology == "sentinel" else PORT) for one in hosts.split(","))
    if topology == "single" and len(nodes) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    service, db = _path(path, topology)
    user, _, password = login.partition(":")
    if user and not password:
        raise ValueError("the URL of a shared state names a user without a password; a password alone is :password@")
    return Address(
        topology,
        nodes,
        service,
        db,
        unquote(user) or None,
        unquote(password) or None,
        asked.get("sentinel_user"),
        asked.get("sentinel_password"),
        is_tls,
        asked.get("ca"),
        asked.get("cert"),
        asked.get("key"),
        asked.get("journal"),
    )


def _node(text: str, default_port: int) -> Node:
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else rest
    elif ":" in text:
        host, _, port = text.rpartition(":")
    if not host or any(char.isspace() or not char.isprintable() for char in host) or (":" in host and not text.startswith("[")):
        raise ValueError("the URL of a shared state names no host, or one that cannot be read (an IPv6 address stands in [ ])")
    if not port and not text.endswith(":"):
        return host, default_port
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("the port of a shared state must be a number from 1 to 65535; a password with / ? # or @ in it is percent-encoded")
    return host, int(port)


def _path(path: str, topology: Topology) -> tuple[str, int]:
    """Service and database."""
    parts = [unquote(part) for part in path.split("/")] if path else []
    service = ""
    if topology == "sentinel":
        service = parts.pop(0) if parts else ""
        if not service:
            raise ValueError("redis+sentinel:// needs the name of the master: redis+sentinel://host:port,…/service")
    elif topology == "cluster" and any(parts):
        raise ValueError("a Cluster has no numbered databases: nothing stands after its hosts")
    number = parts.pop(0) if parts else ""
    if parts or (number and not (number.isascii() and number.isdigit() and int(number) < MOST_DB)):
        raise ValueError(f"the database of a shared state is a number, and nothing follows it: {FORMS}")
    return service, int(number or 0)


def _parameters(query: str, topology: Topology, is_tls: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, _, value in [part.partition("=") for part in query.split("&") if part]:
        text = unquote(value)
        if name not in PARAMETERS:
            near = difflib.get_close_matches(name[:40], PARAMETERS, 1, 0.7)
            hint = f"did you mean `{near[0]}`?" if near else f"it takes {', '.join(PARAMETERS)}"
            raise ValueError(f"the URL of a shared state has a parameter that is not known; {hint}")
        if name in found or not text:
            raise ValueError(f"`{name}=` of a shared state stands once, with a value")
        found[name] = text
    if not is_tls and any(name in found for name in TLS_FILES):
        raise ValueError("`ca=`, `cert=` and `key=` of a shared state are for TLS: say rediss://, rediss+sentinel:// or rediss+cluster://")
    if ("cert" in found) != ("key" in found):
        raise ValueError("`cert=` and `key=` of a shared state stand together")
    if topology != "sentinel" and any(name in found for name in SENTINEL):
        raise ValueError("`sentinel_user=` and `sentinel_password=` are for redis+sentinel://")
    return found
