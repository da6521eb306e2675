"""What the pipeline needs from the world, as Protocols. Adapters at the edge fill them; no adapter is imported here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxy.exchange import RawHeaders, Row, Spoken, Story, crashed, value
from proxy.lessons import Lessons
from proxy.policy.plan import Claim, Origin, Timeouts
from proxy.refusal import Refusal
from proxy.standings import Standings


class Clock(Protocol):
    def now_ns(self) -> int:
        """Wall clock, ns since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds; never goes back."""
        ...

    def monotonic_ns(self) -> int:
        """The same in ns."""
        ...


class Body(Protocol):
    """The caller's body, still on the wire. Touching it answers a waiting `Expect: 100-continue`."""

    @property
    def length(self) -> int | None:
        """Content-Length; 0 where there is no body; None for chunked."""

    async def read(self, limit: int) -> bytes:
        """All of it, still encoded as sent. Raises Refusal 413 `too_large`, 408 `request_timeout`, 400; ClientGone."""

    def at_once(self, limit: int) -> bytes | None:
        """What `read` gives, where that need not wait; else None."""

    def stream(self, limit: int) -> AsyncIterator[bytes]:
        """Piece by piece, for what is not held. Same errors as `read`, raised when `limit` bytes are passed."""


LEAST_FRAMED = 4  # bytes of body that are worth it


class Outlet(Protocol):
    """Where body bytes go."""

    @property
    def is_full(self) -> bool:
        """The client reads more slowly than the provider sends: stop pushing and `drain`."""

    def push(self, data: bytes, framed: bytes = b"") -> bool:
        """Writes body bytes now; True: the client is full from now on. Raises ClientGone (never after `finish_anyway`). `framed`: the same
        as one chunk, where it is at hand: b"%x\\r\\n%b\\r\\n", to the byte, and of LEAST_FRAMED bytes."""

    async def drain(self) -> None:
        """Waits until the client has room. Raises ClientGone; after 60 s without progress too."""


class Sink(Outlet, Protocol):
    """The client's side of the answer. Order: start, push/drain…, then finish or abort; or whole alone; or refuse alone."""

    finish_anyway: bool  # set by the pipeline: when the client leaves, the call goes on and writes to nobody
    story: Story | None  # of its call, while that is under way: set by the pipeline
    cors: RawHeaders  # for a browser page that may read the reply: said in the place of the provider's own

    @property
    def task(self) -> asyncio.Task[None] | None: ...  # what runs the call
    @property
    def is_started(self) -> bool: ...
    @property
    def is_gone(self) -> bool: ...  # the client has left
    @property
    def last(self) -> bytes: ...  # the end of what was pushed of a stream, as much as `stream.tail.gap` looks at

    def start(self, status: int, reason: bytes, headers: RawHeaders, length: int | None, ours: bytes = b"") -> None:
        """THE POINT OF NO RETURN. `headers` carry no framing fields, `ours` are more of them as on the wire, without the last line's end;
        `length` None means chunked by us. Leaves with the first push, or at the end. Raises ClientGone."""

    def whole(self, reason: bytes, length: int | None, ours: bytes, body: bytes) -> bool:
        """`start` of a 200 with no other headers, then `finish` with all of the body."""

    def finish(self, rest: bytes | None = None) -> bool:
        """`rest` of the body, as if pushed, then the clean end. True: the client has left."""

    def abort(self, last: bytes) -> None:
        """`last` (an error event of the dialect, or b""), then the connection ends without a clean end of body."""
        ...

    def refuse(self, no: Refusal, dialect: str, headers: RawHeaders) -> int:
        """A whole reply of Sluice's own, worded in the caller's dialect. Gives the status sent."""


class Line(Protocol):
    """What stands between provider and client for body bytes: a watch (gives back what it got) or a line of taps."""

    lag: int  # bytes that may have passed before it hears of them, in one piece, because it changes none; 0: it may change some

    def feed(self, data: bytes) -> bytes: ...
    def end(self) -> bytes:
        """The provider is done, or died: what was held back comes out."""
        ...


class Late(Line, Protocol):
    """A line with a lag."""

    def hear(self, pieces: list[bytes]) -> None:
        """The last that has passed: nothing more will. Takes them out of the list, or not."""
        ...


@dataclass(slots=True, eq=False)
class Address:
    """Where requests go; one object for many of them."""

    origin: Origin
    method: str
    target: str = field(repr=False)  # raw; may hold a key
    pool: str = ""  # connections are shared within one pool name
    max_connections: int = 512
    tls: object | None = None  # an ssl.SSLContext; none: https trusts the authorities of this machine


@dataclass(slots=True)
class Outgoing:
    """One request, shaped for one target. `body` None: stream `upload` instead. Framing fields are the adapter's."""

    to: Address
    head: bytes = field(repr=False)  # request line and header lines, without the last one's end; holds keys
    body: bytes | None = field(repr=False)
    asked_usage: bool = False  # by us, not by the caller: what comes of it must be taken out again
    upload: Callable[[], AsyncIterator[bytes]] | None = None
    upload_length: int | None = None  # None with an upload: chunked
    is_sent: bool = False  # the last byte is about to leave, or has left: the provider may bill it
    coming: Answer | None = field(default=None, repr=False)  # what is waited for: whoever sends closes it, should it never come

    @property
    def headers(self) -> RawHeaders:
        """Those of `head`, but for Host."""
        lines = [line.partition(b": ") for line in self.head.split(b"\r\n")[2:]]
        return tuple([(name, value) for name, _, value in lines])


class Answer(Protocol):
    """A provider's answer whose head has arrived."""

    status: int
    reason: bytes
    length: int | None  # Content-Length, if the provider said one (0 for HEAD, 204, 304)

    @property
    def headers(self) -> RawHeaders: ...
    @property
    def said(self) -> Spoken: ...
    @property
    def lines(self) -> bytes | None:
        """Those of `headers` that may reach the client, as on the wire, without the last line's end; None: work them out."""

    async def preamble(self, is_decided: Callable[[bytes], bool], limit: int, wait_s: float) -> bytes:
        """The first body bytes, until `is_decided`, `limit` bytes or `wait_s`; they are relayed later all the same."""

    def at_once(self, without: bytes = b"") -> bytes | None:
        """The whole body, where all of it has come already: it is taken. None: there is none, or it is to be relayed, or `without` is in
        it."""

    async def relay(self, sink: Outlet, line: Line) -> None:
        """Every body byte through `line` into `sink`, pausing the provider while the client is slow.

        Returns at the body's clean end (neither `line.end` nor `sink.finish` is called). Raises UpstreamCut, ClientGone.
        """

    async def read(self, limit: int) -> bytes:
        """The whole body, as sent (may be compressed). Raises UpstreamCut; ValueError above `limit`."""

    def close(self) -> None:
        """Synchronous, idempotent. Unread body: the connection is closed; else it goes back to its pool."""


class Upstream(Protocol):
    def send(self, request: Outgoing, timeouts: Timeouts, now: float, deadline: float) -> Awaitable[Answer]:
        """One attempt. `now` and `deadline` are monotonic. Raises UpstreamFailed (with `sent`); ClientGone from the upload."""


@value(frozen=True, slots=True)
class Intent:
    """One attempt about to leave: what it may cost at most. `values`: `exchange.Begun`, or of the row that the ledger shows should we
    crash now."""

    id: str  # Try.id
    call_uid: str
    claims: tuple[Claim, ...]
    tokens: int
    nanousd: int
    values: tuple[Any, ...]  # end="crashed", usage_source="estimate", cost_nanousd=held
    max_tokens: int = 0  # what the estimate of the output rests on: as asked, or assumed
    output_nanousd: int = 0  # its share of `nanousd`, so that a refusal can say what max_tokens would fit

    @property
    def row(self) -> Row:
        values = self.values
        return Row._make(values if isinstance(values[0], str) else crashed(values, self.nanousd))


class Store(Protocol):
    """Counters, holds, keys and the ledger. One algorithm, whatever is behind it. All money in nano-dollars."""

    @property
    def lessons(self) -> Lessons: ...
    def peek(self, claims: Sequence[Claim]) -> None:
        """Raises the Refusal that `enter` or a hold of zero would surely raise; changes nothing."""
        ...

    async def enter(self, call_uid: str, claims: Sequence[Claim]) -> None:
        """Takes one request and one slot on every claim, or none and raises Refusal (429). Idempotent by uid."""
        ...

    def enter_at_once(self, call_uid: str, claims: Sequence[Claim]) -> bool:
        """As `enter`, where that need not wait. False: nothing has happened, it may have to."""
        ...

    async def decide(self, call_uid: str) -> None:
        """A session begins whose first hold may be far off: what `enter` only noted is decided now. Raises Refusal (429, 503)."""
        ...

    def uncount(self, call_uid: str) -> None:
        """The call was refused before anything of it left: its request goes back, its slots stay until `leave`. Idempotent."""
        ...

    async def hold(self, intent: Intent) -> None:
        """Takes tokens and money, or none and raises Refusal (402/429/400). Durable when it returns. Idempotent by id."""
        ...

    def hold_at_once(
        self, id: str, call_uid: str, claims: Sequence[Claim], tokens: int, nanousd: int, values: tuple[Any, ...], at_ns: int
    ) -> bool:
        """As `hold`, of an intent's fields, where nothing is to be refused or waited for. `at_ns`: the wall clock, read just now.
        False: nothing has happened; `hold` tells."""
        ...

    async def extend(self, id: str, claims: Sequence[Claim], nanousd: int) -> bool:
        """An attempt under way costs more than it holds: so much more is held, if the money of each of `claims` has room for it.

        `claims`: those of the attempt whose money decides; the hold grows on all of its claims, in its own periods. Its tokens are
        counted when it settles. False: nothing has changed; also for an id that is not held.
        """
        ...

    def standings(self, claims: Sequence[Claim]) -> Standings:
        """How a caller stands now, for a reply: requests and concurrency of each claim, then tokens and spend. Changes nothing."""
        ...

    def settle(self, id: str, tokens: int, nanousd: int, row: tuple[Any, ...]) -> None:
        """The true figures; the row is written (a `Row`, or its values). At most once; never awaits, never fails, never dropped."""
        ...

    def void(self, id: str, row: Row | None) -> None:
        """Nothing was sent: tokens and money go back. The row (cost 0) is written if given."""
        ...

    def defer(self, id: str, job: str, row: Row, later: Row) -> None:
        """The provider goes on after its answer: what is held under `id` is held under `job` from now on, in its own periods, and
        also after a restart. `row` is the attempt's, written now; `later` the job's, should nobody ever read it back."""
        ...

    def settle_job(self, job: str, true: Callable[[Row], Sequence[Row]], said: bytes = b"") -> bool:
        """`true` gives the job's row its true figures (rows, where it used several models): they are settled, once. A job that is not
        known, or is settled already: False, and `said` is left for the sidecar that began it, if any. Never awaits, never fails."""
        ...

    def leave(self, call_uid: str) -> None:
        """The call is over: its slots are free. Idempotent."""
        ...

    def write(self, row: Row) -> None:
        """A row without a hold: a refusal, an unlimited call."""
        ...


class Metrics(Protocol):
    """Facts to count; labels are kept to known names by the adapter."""

    def refused(self, code: str) -> None: ...
    def retried(self, provider: str, model: str | None, error: str) -> None: ...
    def fell_back(self, provider: str, model: str | None) -> None: ...
    def breaker(self, provider: str, model: str | None, state: str) -> None: ...
    def limits(self, standings: Standings, now: float) -> None: ...
    def unpriced(self, provider: str, model: str | None, reason: str) -> None: ...
    def job(self, row: Row) -> None: ...


Fields = Mapping[str, str]
