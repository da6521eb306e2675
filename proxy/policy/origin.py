"""URLs of the policy: a provider's → its fixed origin, scheme, host and port alone; a Redis node's, if it is one. Looks nothing up."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, cast
from urllib.parse import urlsplit

from proxy.policy.plan import Origin

HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*")
TAIL = "an origin only, like https://api.example.com: stop before /v1, SDKs send it"


def origin_of(url: str, *, allow_private: bool) -> Origin:
    """Raises ValueError with the fix. https, or http on loopback or with `allow_private`; private address literals need it too."""
    if not re.fullmatch(r"[\x21-\x7e]+", url) or "\\" in url or "%" in url:
        raise ValueError("needs plain ASCII without blanks, backslashes or percent signs")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("needs " + TAIL) from None
    if "@" in parts.netloc:
        raise ValueError("needs no user info; a key belongs under `key: env:NAME`")
    if parts.scheme not in ("http", "https") or parts.path not in ("", "/") or "?" in url or "#" in url or port == 0:
        raise ValueError("needs " + TAIL)
    host = (parts.hostname or "").lower()
    is_loopback = _checked_host(host, allow_private=allow_private)
    if parts.scheme == "http" and not (allow_private or is_loopback):
        raise ValueError("needs https:// (http:// is for loopback, or with `allow_private: true`)")
    standard = 443 if parts.scheme == "https" else 80
    name = f"[{host}]" if ":" in host else host
    header = name if port in (None, standard) else f"{name}:{port}"
    return Origin(cast(Literal["http", "https"], parts.scheme), host, port or standard, header.encode("ascii"))


def _checked_host(host: str, *, allow_private: bool) -> bool:
    """Is it loopback? Refuses what is no host, and private address literals without leave."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not HOST.fullmatch(host) or re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", host.rpartition(".")[2]):
            raise ValueError("needs a host name, or an IP address in its usual form") from None
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return True
    if not address.is_global and not allow_private:
        raise ValueError("is a private or link-local address: say `allow_private: true` if you mean it")
    return False


def redis_url_problem(url: str) -> str | None:
    """What is wrong with the URL of one Redis node; None where nothing is. Repeats nothing of it: it may hold a password."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    return None if is_one else "needs redis://HOST:PORT/DB or rediss://… (one node, with user:password@ before HOST where it wants them)"
