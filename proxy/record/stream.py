"""Sends the ledger's rows to a Redis Stream, each at least once, and reads them back once each. Never makes a call wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import orjson
import tenacity

from proxy.record.rows import shown_row

if TYPE_CHECKING:  # imported when a stream is asked for
    from redis.asyncio import Redis

BATCH = 100  # rows of one round trip
POLL_S = 1.0
PACE_S = 0.02  # between batches: what waits, however much, leaves the loop to the calls
RETRY_MAX_S = 30.0
TIMEOUT_S = 5.0
LAST_S = 2.0  # for what is still to be sent when the process ends
MAX_ENTRIES = 1_000_000  # about 1 KB each: Redis drops the oldest beyond it, whoever has read them or not
PAGE = 1000
_CODE = re.compile(r"[A-Z]{2,20}\b")  # OOM, NOAUTH, WRONGTYPE: of an error of Redis nothing else is told, it may repeat what was sent


class Outgoing(Protocol):
    """The rows to be sent, as the state keeps them (`admit.outgoing`)."""

    async def unsent(self, limit: int) -> tuple[Sequence[Mapping[str, object]], int]: ...
    async def note(self, number: int) -> None: ...
    async def committed(self) -> None: ...


class StreamProblem(Exception):
    """Why a stream cannot be read; names no URL."""


def stream_key(namespace: str) -> str:
    return f"sluice:{{{namespace}}}:ledger"


class LedgerStream:
    """One background task at most. `rows(name)` gives the rows for a place, `on_event(level, event, **fields)` hears when sending begins to
    fail and when it goes on."""

    def __init__(self, rows: Callable[[str], Outgoing], on_event: Callable[..., None]) -> None:
        self._rows, self._on_event = rows, on_event
        self._url: str | None = None
        self._line: _Line | None = None

    @property
    def lag(self) -> int:
        """Rows that are committed and not sent yet."""
        return self._line.lag if self._line else 0

    def point(self, url: str | None, key: str) -> None:
        """Sends to the stream `key` at this URL from now on; None: nowhere. The same place again changes nothing."""
        if url == self._url:
            return
        self._url = url
        if self._line is not None:
            self._line.stop()
        self._line = None if url is None else _Line(url, key, self._rows(_place(url, key)), self._on_event)

    async def close(self) -> None:
        """Sends what was committed before, if that takes no longer than LAST_S; the rest goes after the next start."""
        if self._line is not None:
            await self._line.close()


def _place(url: str, key: str) -> str:
    """Tells one stream from another, whatever password opens it."""
    parts = urlsplit(url)
    where = f"{parts.scheme} {parts.hostname} {parts.port} {parts.path} {key}"
    return hashlib.sha256(where.encode()).hexdigest()[:16]


class _Line:
    """To one stream, until it is stopped or closed."""

    def __init__(self, url: str, key: str, rows: Outgoing, on_event: Callable[..., None]) -> None:
        self._url, self._key, self._rows, self._on_event = url, key, rows, on_event
        self.lag = 0
        self._is_down = False
        self._closing = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="ledger stream")

    def stop(self) -> None:
        self._task.cancel()

    async def close(self) -> None:
        self._closing.set()
        await asyncio.wait({self._task}, timeout=LAST_S)
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        retrying = tenacity.AsyncRetrying(
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=RETRY_MAX_S),
            stop=tenacity.stop_when_event_set(self._closing),  # type: ignore[arg-type]  # asks is_set() alone, which ours has too
            sleep=self._pause,
            before_sleep=self._failed,
            reraise=True,
        )
        client = None
        try:
            await asyncio.to_thread(importlib.import_module, "redis.asyncio")  # takes a tenth of a second
            client = _client(self._url)
            while not self._closing.is_set():
                await self._pause(PACE_S if await retrying(self._send, client) else POLL_S)
            await self._rows.committed()
            while await self._send(client):
                pass
        except Exception as error:  # at the end of the process, or an address that no client takes
            self._tell_down(error)
        finally:
            if client is not None:
                await client.aclose()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _send(self, client: Redis) -> bool:
        """One batch, in the order of the ledger. False: nothing is left. Raises what went wrong; then all of it is sent again."""
        rows, more = await self._rows.unsent(BATCH)
        self.lag = len(rows) + more
        if not rows:
            return False
        async with client.pipeline(transaction=False) as pipe:
            for row in rows:
                pipe.execute_command("XADD", self._key, "MAXLEN", "~", MAX_ENTRIES, "*", "id", str(row["id"]), "row", _packed(row))
            for answer in await pipe.execute(raise_on_error=False):
                if isinstance(answer, Exception):
                    raise answer
        await self._rows.note(_number(rows[-1]))
        self.lag = more
        if self._is_down:
            self._is_down = False
            self._on_event("info", "ledger stream up", rows_behind=more)
        return more > 0

    def _failed(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            self._tell_down(error)

    def _tell_down(self, error: BaseException) -> None:
        if not self._is_down:
            self._is_down = True
            self._on_event("warning", "ledger stream down", error=told(error), rows_behind=self.lag)


def _packed(row: Mapping[str, object]) -> bytes:
    return orjson.dumps({name: value for name, value in shown_row(row).items() if name != "n"})


def _number(row: Mapping[str, object]) -> int:
    number = row["n"]
    assert isinstance(number, int)
    return number


def told(error: BaseException) -> str:
    """An error of a Redis client by its kind alone."""
    code = _CODE.match(str(error))
    return f"{type(error).__name__} {code[0]}" if code else type(error).__name__


def _client(url: str) -> Redis:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0))


def read_stream(url: str, key: str) -> Iterator[dict[str, Any]]:
    """Every row that the stream holds, oldest first, each once however often it was sent: `id` is the attempt's. Raises StreamProblem."""
    import redis

    seen: set[bytes] = set()
    after = b"-"
    try:
        with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S) as client:
            while page := client.xrange(key, min=after, max="+", count=PAGE):
                for _, fields in page:
                    id = fields.get(b"id", b"")
                    if id not in seen:
                        seen.add(id)
                        yield _unpacked(id, fields)
                after = b"(" + page[-1][0]
    except (redis.RedisError, OSError, ValueError) as error:
        raise StreamProblem(f"the stream cannot be read ({told(error)})") from None


def _unpacked(id: bytes, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    row = orjson.loads(fields.get(b"row", b""))
    if not isinstance(row, dict):
        raise ValueError
    return {"id": id.decode(), **row}
