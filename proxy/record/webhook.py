"""Posts JSON documents to a URL of the policy, one after the other, with patience. Follows no redirect and never says the URL."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Protocol

import aiohttp
import orjson
import tenacity

from proxy.trust import authorities

MAX_WAITING = 100  # documents; more are dropped
ATTEMPTS, TIMEOUT_S, BACKOFF_S, BACKOFF_MOST_S = 5, 5.0, 0.5, 30.0
LAST_S = 1.0  # for what waits when the process ends
PASSING = frozenset({408, 425, 429})  # and 5xx: statuses after which trying again may help


class Figures(Protocol):
    """The part of the metrics that posts count on."""

    def alert_post(self, outcome: str) -> None: ...


class Teller(Protocol):
    """The part of the log that posts are written to."""

    def event(self, level: str, event: str, **fields: object) -> None: ...


class _Failed(Exception):
    """Why in our own words."""


class _Passing(_Failed):
    """Trying again may help."""


class Webhook:
    """Its session is made for the first document."""

    def __init__(self, metrics: Figures, log: Teller, *, backoff_s: float = BACKOFF_S) -> None:
        self._metrics, self._log, self._backoff_s = metrics, log, backoff_s
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    def post(self, url: str, doc: dict[str, object]) -> None:
        """Some time, in order. Never waits, never fails."""
        if len(self._waiting) >= MAX_WAITING:
            self._over("dropped", "too many wait")
            return
        self._waiting.append((url, orjson.dumps(doc)))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send(), name="alert webhook")

    async def close(self) -> None:
        """What waits has a second."""
        if (task := self._task) is not None:
            await asyncio.wait([task], timeout=LAST_S)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for _ in self._waiting:
            self._over("dropped", "the process ended")
        if self._session is not None:
            await self._session.close()

    def _over(self, outcome: str, why: str) -> None:
        self._metrics.alert_post(outcome)
        if why:
            self._log.event("warning", "alert not posted", outcome=outcome, why=why)

    async def _send(self) -> None:
        try:
            while self._waiting:
                why = await self._patiently(*self._waiting[0])
                self._waiting.popleft()
                self._over("failed" if why else "sent", why)
        finally:
            self._task = None

    async def _patiently(self, url: str, body: bytes) -> str:
        """Why it failed; "" where it did not."""
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential_jitter(self._backoff_s, BACKOFF_MOST_S, jitter=self._backoff_s),
            retry=tenacity.retry_if_exception_type(_Passing),  # a cancellation is none
            reraise=True,
        )
        try:
            await retrying(self._once, url, body)
        except _Failed as failed:
            return str(failed)
        return ""

    async def _once(self, url: str, body: bytes) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(ssl=authorities()),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                auto_decompress=False,
            )
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except aiohttp.InvalidURL:  # its text is the URL
            raise _Failed("InvalidURL") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Passing(type(error).__name__) from None
        if status in PASSING or status >= 500:
            raise _Passing(f"answered {status}")
        if not 200 <= status < 300:
            raise _Failed(f"answered {status}")
