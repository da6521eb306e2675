"""Fetches and keeps the public keys of JWT issuers (JWKS). Follows no redirect, and never lets a caller choose what is fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import aiohttp
import orjson

from proxy.ports import Clock
from proxy.refusal import Refusal
from proxy.trust import authorities

Jwk = Mapping[str, object]

FRESH_S = 300.0  # then the set is fetched again, while the old one serves
LOST_S = 600.0  # how long a set serves after its first failed refresh (faults.md 2.0: flagged, ≤ 10 min)
UNKNOWN_KID_S = 30.0  # at most one fetch in so long for a kid that the set does not hold (T12)
RETRY_S = 5.0  # between failed fetches
TIMEOUT_S = 5.0
MAX_BYTES = 64 * 1024
MAX_KEYS = 32


class JwksProblem(Exception):
    """A set that could not be fetched or read; the message says why in our own words."""


@dataclass(slots=True)
class _Set:
    """One URL and what is known of it. Times are monotonic seconds."""

    keys: tuple[Jwk, ...] = ()
    fetched: float = float("-inf")
    tried: float = float("-inf")
    lost_since: float | None = None
    task: asyncio.Task[None] | None = None


class Jwks:
    """All key sets. The HTTP session is made at the first fetch: a policy without JWT pays nothing."""

    def __init__(self, clock: Clock, on_problem: Callable[[str, str], None]) -> None:
        """`on_problem(url, why)` hears of every failed fetch: the last good set serves on, and somebody should know."""
        self._clock, self._on_problem = clock, on_problem
        self._sets: dict[str, _Set] = {}
        self._session: aiohttp.ClientSession | None = None

    async def keys(self, url: str, kid: str | None) -> Sequence[Jwk]:
        """The keys of that kid, all where `kid` is None; empty where the set does not hold it.

        Raises Refusal 503 `state_unavailable` while there is no usable set. `url` comes from the policy alone.
        """
        kept = self._sets.setdefault(url, _Set())
        if not self._is_usable(kept):
            await self._refresh(url, kept, RETRY_S)
            if not self._is_usable(kept):
                raise Refusal(
                    503,
                    "state_unavailable",
                    "state_unavailable: the keys of the token's issuer cannot be fetched now, so the token cannot be checked",
                    retry_after=RETRY_S,
                )
        elif self._clock.monotonic() - kept.fetched >= FRESH_S:
            self._begin(url, kept, RETRY_S)
        found = _of_kid(kept.keys, kid)
        if not found:
            await self._refresh(url, kept, UNKNOWN_KID_S)
            found = _of_kid(kept.keys, kid)
        return found

    async def close(self) -> None:
        for kept in self._sets.values():
            if kept.task is not None:
                kept.task.cancel()
        if self._session is not None:
            await self._session.close()

    def _is_usable(self, kept: _Set) -> bool:
        is_lost = kept.lost_since is not None and self._clock.monotonic() - kept.lost_since > LOST_S
        return bool(kept.keys) and not is_lost

    async def _refresh(self, url: str, kept: _Set, wait_s: float) -> None:
        """Waits for the fetch under way, or for a new one if the last began `wait_s` ago."""
        self._begin(url, kept, wait_s)
        if kept.task is not None:
            await asyncio.wait([kept.task])  # a waiter that is cancelled leaves the fetch to the others

    def _begin(self, url: str, kept: _Set, wait_s: float) -> None:
        now = self._clock.monotonic()
        if kept.task is None and now - kept.tried >= wait_s:
            kept.tried = now
            kept.task = asyncio.create_task(self._fetch_into(url, kept))

    async def _fetch_into(self, url: str, kept: _Set) -> None:
        try:
            kept.keys = await self._fetch(url)
            kept.fetched, kept.lost_since = self._clock.monotonic(), None
        except JwksProblem as problem:
            self._on_problem(url, str(problem))
            if kept.lost_since is None:
                kept.lost_since = self._clock.monotonic()
        finally:
            kept.task = None

    async def _fetch(self, url: str) -> tuple[Jwk, ...]:
        if not is_fetchable(url):
            raise JwksProblem("must be https (http on loopback only)")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(ssl=authorities()),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                headers={"accept": "application/json", "accept-encoding": "identity"},
                auto_decompress=False,
            )
        try:
            async with self._session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise JwksProblem(f"answered {answer.status}")
                raw = bytearray()
                async for piece in answer.content.iter_any():
                    raw += piece
                    if len(raw) > MAX_BYTES:
                        raise JwksProblem(f"larger than {MAX_BYTES} bytes")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise JwksProblem(type(error).__name__) from None
        return read_set(bytes(raw))


def is_fetchable(url: str) -> bool:
    """https, or http where nothing leaves the machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def read_set(raw: bytes) -> tuple[Jwk, ...]:
    """The keys of a JWKS document. Raises JwksProblem for what is none, for an empty set and for more than 32 keys (T21)."""
    try:
        doc = orjson.loads(raw)
    except ValueError:
        raise JwksProblem("not JSON") from None
    keys = doc.get("keys") if isinstance(doc, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise JwksProblem("not a JWKS")
    if not 1 <= len(keys) <= MAX_KEYS:
        raise JwksProblem(f"{len(keys)} keys, 1 to {MAX_KEYS} are taken")
    return tuple(keys)


def _of_kid(keys: Sequence[Jwk], kid: str | None) -> Sequence[Jwk]:
    return keys if kid is None else [key for key in keys if key.get("kid") == kid]
