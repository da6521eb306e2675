"""The data path in this process: the real pipeline with its real rooms, between a client and a provider that the test plays."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import textwrap
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.admit import EmbeddedState
from proxy.dialect import dialect_of
from proxy.exchange import Spoken
from proxy.forward.attempts import Budgets
from proxy.forward.breaker import Breaker, Breakers, State
from proxy.forward.known import said_by
from proxy.identify.who import Identify
from proxy.listen.errors import word
from proxy.listen.headers import fields_of, read_call
from proxy.listen.target import route
from proxy.meter.price import Prices, PriceTable
from proxy.pipeline import Pipeline
from proxy.policy.watch import load
from proxy.record.alerts import Alerts
from proxy.record.books import Books
from proxy.record.log import Log
from proxy.record.metrics import Metrics
from proxy.refusal import ClientGone, Refusal, UpstreamCut
from proxy.rooms import Generation, Rooms

CHAT = "/openai/v1/chat/completions"
STREAM = "text/event-stream"
TABLE = PriceTable.read()


def slk(name: str) -> str:
    return "slk-" + urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).rstrip(b"=").decode()


def hash_of(name: str) -> str:
    return "sha256:" + hashlib.sha256(slk(name).encode()).hexdigest()


class Clock:
    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)


def chat(text: str = "hi", **more: object) -> bytes:
    return json.dumps({"model": "gpt-4o", "max_tokens": 50, "messages": [{"role": "user", "content": text}], **more}).encode()


def event(doc: object) -> bytes:
    return b"data: " + (doc if isinstance(doc, bytes) else json.dumps(doc).encode()) + b"\n\n"


def delta(text: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
FINISH = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
TALK = (delta("Hello"), delta(" there"), FINISH, event({"choices": [], "usage": USAGE}), event(b"[DONE]"))


@dataclass
class Answer:
    """`ports.Answer`, chunk by chunk. `breaks` is raised when all chunks have passed."""

    status: int = 200
    chunks: tuple[bytes, ...] = ()
    kind: str = "application/json"
    more: tuple[tuple[bytes, bytes], ...] = ()
    breaks: Exception | None = None
    length: int | None = None
    reason: bytes = b"OK"
    passed: int = 0
    closed: int = 0
    is_here: bool = False  # all of it, with its head
    after: Callable[[int], Awaitable[None] | None] | None = None  # called with the number of chunks that have passed

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"content-type", self.kind.encode()), *self.more)

    @property
    def said(self) -> Spoken:
        return said_by(self.headers)

    @property
    def lines(self) -> bytes | None:
        return b"\r\n".join(map(b": ".join, self.headers)) if self.is_here else None

    async def preamble(self, is_decided: Callable[[bytes], bool], limit: int, wait_s: float) -> bytes:
        for number in range(len(self.chunks) + 1):
            held = b"".join(self.chunks[:number])
            if is_decided(held) or len(held) >= limit:
                return held
            await asyncio.sleep(0)
        if self.breaks is not None:
            raise self.breaks
        return b"".join(self.chunks)

    def at_once(self, without: bytes = b"") -> bytes | None:
        body = b"".join(self.chunks)
        return body if body and self.is_here and not (without and without in body) else None

    async def relay(self, sink: Any, line: Any) -> None:
        for chunk in self.chunks:
            await asyncio.sleep(0)
            if out := line.feed(chunk):
                sink.push(out)
            self.passed += 1
            if self.after is not None and (waits := self.after(self.passed)) is not None:
                await waits
            await sink.drain()
        if self.breaks is not None:
            raise self.breaks

    async def read(self, limit: int) -> bytes:
        return b"".join(self.chunks)

    def close(self) -> None:
        self.closed += 1


def whole(doc: object, status: int = 200, **more: Any) -> Answer:
    body = json.dumps(doc).encode()
    return Answer(status, (body[:20], body[20:]), length=len(body), **more)


def completion(text: str = "Hello", **usage: int) -> Answer:
    message = {"role": "assistant", "content": text}
    return whole({"id": "c", "model": "gpt-4o", "choices": [{"index": 0, "message": message}], "usage": {**USAGE, **usage}})


def error(status: int, **more: Any) -> Answer:
    return whole({"error": {"message": "no", "type": "server_error", "code": None}}, status, **more)


def talk(*chunks: bytes, **more: Any) -> Answer:
    return Answer(200, chunks or TALK, STREAM, **more)


class Upstream:
    """`ports.Upstream`: gives the next answer of its script, or raises it. A function is called for each."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.sent: list[Any] = []
        self.bodies: list[bytes] = []
        self.given: list[Answer] = []

    async def send(self, request: Any, timeouts: Any, now: float, deadline: float) -> Answer:
        await asyncio.sleep(0)  # a connection
        self.sent.append(request)
        body = request.body or b""
        if request.upload is not None and request.body is None:
            async for piece in request.upload():
                body += piece
        self.bodies.append(body)
        request.is_sent = True
        await asyncio.sleep(0)  # its head
        what = self.script.pop(0)
        what = what() if callable(what) else what
        if isinstance(what, BaseException):
            raise what
        self.given.append(what)
        return what


class Body:
    """`ports.Body` in pieces."""

    def __init__(self, *pieces: bytes, length: int | None = 0, breaks: Exception | None = None) -> None:
        self.pieces, self.breaks = pieces, breaks
        self.length = sum(map(len, pieces)) if length == 0 else length

    def at_once(self, limit: int) -> bytes | None:
        return None

    async def read(self, limit: int) -> bytes:
        return b"".join([piece async for piece in self.stream(limit)])

    async def stream(self, limit: int) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await asyncio.sleep(0)
            yield piece
        if self.breaks is not None:
            raise self.breaks


class Sink:
    """`ports.Sink`: what the client got."""

    def __init__(self) -> None:
        self.is_started = self.is_gone = self.finish_anyway = self.is_finished = self.is_aborted = False
        self.is_full = False
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.length: int | None = None
        self.body = b""
        self.no: Refusal | None = None
        self.dialect = ""
        self.drained = 0
        self.cors: tuple[tuple[bytes, bytes], ...] = ()
        self.story: Any = None

    @property
    def last(self) -> bytes:
        return self.body

    def _client(self) -> None:
        if self.is_gone and not self.finish_anyway:
            raise ClientGone

    def start(self, status: int, reason: bytes, headers: Any, length: int | None, ours: bytes = b"") -> None:
        assert not self.is_started
        self._client()
        self.is_started, self.status, self.length = True, status, length
        lines = [*headers, *(tuple(line.split(b": ", 1)) for line in ours.split(b"\r\n") if line)]
        self.headers = {name.decode().lower(): value.decode() for name, value in lines}

    def push(self, data: bytes, framed: bytes = b"") -> bool:
        assert framed in (b"", b"%x\r\n%b\r\n" % (len(data), data))
        assert self.is_started and not self.is_finished and not self.is_aborted
        self._client()
        self.body += b"" if self.is_gone else data
        return self.is_full

    async def drain(self) -> None:
        self.drained += 1
        await asyncio.sleep(0)
        self._client()

    def finish(self, rest: bytes | None = None) -> bool:
        assert self.is_started and not self.is_aborted
        if rest:
            self.push(rest)
        self.is_finished = True
        return self.is_gone

    def whole(self, reason: bytes, length: int | None, ours: bytes, body: bytes) -> bool:
        self.start(200, reason, (), length, ours)
        return self.finish(body)

    def abort(self, last: bytes) -> None:
        assert not self.is_finished
        self.is_aborted = True
        self.body += last

    def refuse(self, no: Refusal, dialect: str, headers: Any) -> int:
        assert not self.is_started
        self.no, self.dialect = no, dialect
        status, lines, self.body = word(no, dialect_of(dialect), "id")
        said = {name for name, _ in lines}
        with contextlib.suppress(ClientGone):
            self.start(status, b"", (*lines, *(line for line in headers if line[0] not in said)), len(self.body))
            self.finish()
        return status

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Store:
    """The embedded state, and for each hold how many times it came to an end."""

    def __init__(self, state: EmbeddedState) -> None:
        self.state = state
        self.ends: dict[str, list[str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)

    def hold_at_once(self, id: str, *what: Any) -> bool:
        is_held = self.state.hold_at_once(id, *what)
        if is_held:
            self.ends.setdefault(id, [])
        return is_held

    async def hold(self, intent: Any) -> Any:
        standings = await self.state.hold(intent)
        self.ends.setdefault(intent.id, [])
        return standings

    def settle(self, id: str, *what: Any) -> None:
        self._ends(id, "settled")
        self.state.settle(id, *what)

    def void(self, id: str, row: Any) -> None:
        self._ends(id, "voided")
        self.state.void(id, row)

    def _ends(self, id: str, how: str) -> None:
        if id in self.holds:
            self.ends.setdefault(id, []).append(how)

    @property
    def holds(self) -> Any:
        return self.state.open_holds()

    @property
    def stays(self) -> Any:
        return self.state._counters.stays


class NotingBooks(Books):
    """Real books that remember the last story."""

    story: Any = None

    def close(self, story: Any) -> None:
        self.story = story
        super().close(story)


class Jwks:
    async def key(self, *_: object) -> None:
        return None


@dataclass
class Inside:
    rooms: Rooms
    pipeline: Pipeline
    store: Store
    upstream: Upstream
    books: NotingBooks
    lines: list[bytes]
    ids: Iterable[int] = field(default_factory=itertools.count)
    sinks: list[Sink] = field(default_factory=list)  # of its calls
    posts: list[Any] = field(default_factory=list)  # what alerts would post: (url, document)

    def call(self, body: bytes = b"", target: str = CHAT, method: str = "POST", key: str | None = "ann", **headers: str) -> Any:
        lines = {"host": "127.0.0.1", "content-type": "application/json", **{n.replace("_", "-"): v for n, v in headers.items()}}
        if key is not None:
            lines["authorization"] = f"Bearer {slk(key)}" if " " not in key else key.strip()
        raw = tuple((name.encode(), value.encode()) for name, value in lines.items() if value)
        fields = fields_of(raw)
        rules = self.rooms.generation.rules
        where = route(target, fields, rules.providers, rules.default_provider)
        uid = f"u-{next(iter(self.ids))}"
        return read_call(
            method, where, raw, fields, uid=uid, peer="127.0.0.1", at_ns=time.time_ns(), began=time.monotonic(),
        )  # fmt: skip

    async def run(self, body: bytes | Body = b"", *script: Any, sink: Sink | None = None, **call: Any) -> Sink:
        """One call to its end; the provider answers with `script`."""
        sink = sink or Sink()
        self.sinks.append(sink)
        self.upstream.script = list(script)
        await self.pipeline.run(self.call(**call), body if isinstance(body, Body) else Body(body) if body else Body(), sink)
        return sink

    @property
    def story(self) -> Any:
        return self.books.story

    async def rows(self, uid: str | None = None) -> list[dict[str, Any]]:
        """Of the last call."""
        wanted = uid or self.story.call.uid
        return [row for row in await self.store.rows(1000) if row["request_id"] == wanted]

    def probe(self) -> None:
        """Every breaker is half open: each attempt is a probe, and who keeps its turn keeps all others out."""
        for key in (("openai", "gpt-4o"), ("openai", None), ("spare", "gpt-4o"), ("openai", "gpt-4o-mini")):
            self.rooms.breakers._all[key] = Breaker(State.HALF_OPEN)

    async def assert_nothing_is_left(self) -> None:
        """Each hold ended once, each try has one row, and no slot, breaker's turn, budget of retries or answer is kept."""
        assert not self.store.holds
        assert not self.store.stays
        assert {len(ends) for ends in self.store.ends.values()} <= {1}, self.store.ends
        self.rooms.under_way.sinks = self.sinks.copy
        assert not len(self.rooms.under_way)
        assert not any(breaker.is_probing for breaker in self.rooms.breakers._all.values())
        budgets = self.rooms.budgets._all.values()
        assert not any(budget.active or budget.retries for budget in budgets)
        assert all(answer.closed for answer in self.upstream.given)
        story = self.story
        numbers = [try_.number for try_ in story.tries]
        rows = [row for row in await self.rows() if row["kind"] != "refusal" or row["attempt"] in numbers]  # a refusal may have its own
        assert [row["attempt"] for row in rows] == numbers
        assert [row["cost_nanousd"] for row in rows] == [try_.cost_nanousd for try_ in story.tries]
        unsent = [row["attempt"] for row in rows if not story.tries[row["attempt"] - 1].is_sent]
        assert not any(row["cost_nanousd"] for row in rows if row["attempt"] in unsent or (row["status"] or 0) >= 300)
        spent = sum(self.store.held_spend(["tier t"]).values())
        assert spent == sum(row["cost_nanousd"] for row in await self.store.rows(100_000)), "limits and ledger tell the same sum"


POLICY = """
    version: 1
    providers:
      openai: {url: "URL", key: env:KEY}
      spare: {dialect: openai, url: "http://127.0.0.1:8", key: env:KEY2, allow_private: true}
    prices: {gpt-4o: {input: 2.50, output: 10.00}}
    callers:
      default_tier: t
      keys:
        - {name: ann, hash: "ANN"}
        - {name: bob, hash: "BOB", allow: {models: [gpt-4o]}}
      pass_through: t
    tiers: {t: {requests: 100000/min, tokens: 100M/min, concurrency: 50, spend: $1000/day}}
    RETRY
    MORE
"""


@asynccontextmanager
async def inside(folder: Path, more: str = "", url: str = "http://127.0.0.1:9", clock: Any = Clock) -> AsyncIterator[Inside]:
    text = textwrap.dedent(POLICY).replace("MORE", textwrap.dedent(more)).replace("ANN", hash_of("ann")).replace("BOB", hash_of("bob"))
    text = text.replace('"URL"', f'"{url}"').replace("RETRY", "" if "retry:" in more else "retry: {attempts: 3, backoff: 1ms..2ms}")
    (folder / "policy.yaml").write_text(text)
    loaded = load(folder / "policy.yaml", environ={"KEY": "sk-provider-secret-1", "KEY2": "sk-provider-secret-2"}, generation=1)
    lines: list[bytes] = []
    state = await EmbeddedState.open(folder / "state", clock=clock, time_zone="UTC", max_keys=1000)
    store, upstream = Store(state), Upstream()
    metrics = Metrics(lambda kind, name: True, clock)
    log = Log(lines.append, clock, "debug")
    books = NotingBooks(store, metrics, log, clock)  # type: ignore[arg-type]  # the store notes and passes on
    rules = loaded.rulebook
    generation = Generation(rules, Prices(TABLE, rules.prices, rules.pricing))

    posts: list[Any] = []
    alerts = Alerts(lambda: rules, lambda url, doc: posts.append((url, doc)), metrics, log, clock, folder / "state", "here")
    rooms = Rooms(
        generation=generation,
        identify=Identify(state.keys.ring, state.secret, clock, Jwks()),  # type: ignore[arg-type]  # no token is asked for
        secret=state.secret,
        store=store,  # type: ignore[arg-type]  # see above
        upstream=upstream,
        breakers=Breakers(lambda: 0.5, metrics.breaker),
        budgets=Budgets(),
        books=books,
        metrics=metrics,
        alerts=alerts,
        log=log,
        clock=clock,
        dice=lambda: 0.9,
    )
    try:
        yield Inside(rooms, Pipeline(rooms), store, upstream, books, lines, posts=posts)
    finally:
        await state.close()


class CancelledAt:
    """Awaits a coroutine and cancels its task when it waits for the `number`th time. `waits` tells how often it did."""

    def __init__(self, coro: Coroutine[Any, Any, Any], number: int, before: Callable[[], None] = lambda: None) -> None:
        self._coro, self._number, self._before = coro, number, before
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coro.__await__()
        send: Callable[[], Any] = lambda: inner.send(None)  # noqa: E731  # replaced by what wakes it
        while True:
            try:
                future = send()
            except StopIteration as over:
                return over.value
            self.waits += 1
            if self.waits == self._number:
                self._before()
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                got = yield future
            except BaseException as thrown:
                send = lambda thrown=thrown: inner.throw(thrown)  # type: ignore[misc]  # noqa: E731
            else:
                send = lambda got=got: inner.send(got)  # type: ignore[misc]  # noqa: E731


__all__ = ["UpstreamCut"]
