"""The values that travel through the rooms. Frozen all but one: the story. Knows no room, no clock and no wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from orjson import Fragment

__all__ = ["NANO", "NOTHING", "NO_DETAIL", "UNCONFIRMED", "Allow", "AttemptKind", "Call", "Caller", "CallerKind", "Most", "RawHeaders",
           "Route", "Row", "Spoken", "Story", "Try", "Usage", "bare", "crashed", "sort_of", "story_of", "value"]  # fmt: skip

bare = object.__new__  # what most calls need one of, and its maker sets the fields of: a call of `__init__` is dear (docs/performance.md)
RawHeaders = tuple[tuple[bytes, bytes], ...]  # field lines as they came: name as spelt, value without its outer blanks
NANO = 1_000_000_000  # nano-dollars in a dollar; all money is an int of these
NOTHING: Mapping[str, object] = MappingProxyType({})

if TYPE_CHECKING:
    from dataclasses import dataclass as value  # to mypy the same: what is frozen is never set, and it checks every line
else:

    def value(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """`dataclass` for what is made on every call. At run time nothing freezes it: a frozen one sets each field by a
        call of object.__setattr__, which makes it four times as dear (docs/performance.md)."""
        return dataclass(slots=slots, unsafe_hash=frozen)


@value(frozen=True, slots=True)
class Route:
    """Where a request wants to go, by its raw target alone."""

    provider: str  # a provider name of the policy
    path: str  # raw path after the provider prefix, as the provider knows it ("/v1/chat/completions"); no query
    query: str = field(repr=False)  # raw query without "?", "" if none; may hold a key
    target: str = field(repr=False)  # the raw request-target for the provider: path and query, byte-identical to what the client sent


@value(frozen=True, slots=True)
class Call:
    """What the client sent, headers only. The body is a port (`ports.Body`) and is read later, or never."""

    uid: str  # ours, never repeats: holds and ledger rows are keyed by it
    id: str  # what the caller sees: its well-formed x-request-id, else the uid
    id_is_callers: bool
    method: str
    route: Route
    headers: RawHeaders = field(repr=False)  # credentials among them
    fields: Mapping[str, str] = field(repr=False)  # lower-case name → value (latin-1); repeated names joined by ", "
    peer: str  # the client's IP address, "unix" for a unix socket
    at_ns: int  # wall clock, ns since the epoch
    began: float  # monotonic seconds
    # Shared by all calls whose heads differ in lines that vary alone (`listen.heads.varies`): what rooms derive from method, target and
    # the other lines may be hung here, under keys of their own. It lives as long as the policy at most.
    kept: dict[object, object] = field(default_factory=dict, repr=False, compare=False)
    # Shared by calls of one connection, one after the other, whose heads are the same to the byte but for the length, their credential
    # too. None: nothing of that is known.
    seen: dict[object, object] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Allow:
    """What a caller may use. None = everything; else globs (`gpt-4o*`), any of which may match."""

    models: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None
    regions: tuple[str, ...] | None = None
    tiers: tuple[str, ...] | None = None


CallerKind = Literal["key", "token", "own_key", "jwt", "anonymous", "pass_through"]


@value(frozen=True, slots=True)
class Caller:
    """Who is calling. `name` is the account limits are counted on and the label in rows and metrics."""

    name: str  # "billing-bot", "corp:alice", "anonymous", "pass-through:<12 hex of a keyed hash>"
    kind: CallerKind
    tier: str | None = None
    team: str | None = None
    key: str = ""  # which credential: the key's name, "" for anonymous
    own_provider: str | None = None  # provider name whose key the caller brings itself (own_key); None else
    allow: Allow = Allow()
    overrides: Mapping[str, object] = field(default_factory=lambda: NOTHING)  # policy.model.Numbers fields that replace those of the tier
    claims: Mapping[str, object] = field(default_factory=lambda: NOTHING)  # of a verified JWT
    kept: dict[object, object] = field(default_factory=dict, repr=False, compare=False)  # what follows from it; of a credential, one

    @property
    def brings_own_key(self) -> bool:
        """True: the caller's own credential goes upstream unchanged and a provider's 401 is the caller's business."""
        return self.kind in ("own_key", "pass_through")


@value(frozen=True, slots=True)
class Spoken:
    """What the head of an answer says of its body. The same object for all heads of one form: what follows from the names of its lines
    may be hung on it, under keys of the rooms' own."""

    kind: str = ""  # Content-Type
    coding: str = ""  # Content-Encoding, lower-case; "" for none
    leads: bool = False  # somewhere: Location and its like
    shares: bool = False  # with pages of an origin (CORS): lines that ours may stand in for
    is_plain: bool = field(init=False, compare=False)  # JSON in clear; and neither of the two
    kept: dict[object, object] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        is_odd = self.coding or self.leads or self.shares
        object.__setattr__(self, "is_plain", self.kind == "application/json" and not is_odd)


@value(frozen=True, slots=True)
class Usage:
    """What one attempt consumed, normalised: input includes cache reads and writes, output includes reasoning.

    `source`: provider (its own final figures) | counted (we counted what passed) | estimate (the bound we held) | none.
    `detail` holds every billed unit as the provider reported it (its own names and numbers; JSON-able).
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    source: Literal["provider", "counted", "estimate", "none"] = "none"
    note: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)
    # input_audio, output_audio, input_image, output_image, cached_audio, images, searches, audio_ms, characters …:
    # shares of the above or billed beside them
    units: Mapping[str, int] = field(default_factory=dict)
    tier: str | None = None  # service tier the reply names: flex, priority, batch …
    cost_nanousd: int | None = None  # where the provider itself states the cost (OpenRouter)
    model: str | None = None  # the model the reply names
    ended: bool = False  # the terminal event / whole body was seen
    # By the provider: tokens in and out, neither below 0, no share of them and nothing beside them, as of most answers: whoever asks for
    # the rest looks here first. Set by a dialect that knows.
    is_plain: bool = field(default=False, init=False, repr=False, compare=False)


NO_DETAIL: dict[str, object] = {}  # of an estimate: a dict, as the journal writes those at once
UNCONFIRMED = "unconfirmed"  # the note of an estimate that nobody confirmed

# What an attempt may use at most: tokens in that its request brings, and tokens out; what else than text is in it, for those who learn
# (see `admit.estimate.Bound`); does it name no most?
Most = tuple[int, int, int, bool]
AttemptKind = Literal["first", "retry", "fallback", "turn", "refusal"]


class Row(NamedTuple):
    """One line of the ledger: an upstream attempt, or the refusal of an identified caller. Names and order of its fields are fixed."""

    id: str  # "<call uid>/<attempt>", unique; not shown
    request_id: str
    attempt: int
    kind: str
    parent_id: str | None
    at: int  # ns since the epoch
    caller: str
    team: str | None
    tier: str | None
    provider: str
    model: str | None
    operation: str
    credential: str | None  # its name, never its value
    status: int | None
    end: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    usage_detail: Mapping[str, object]
    usage_source: str
    usage_note: str
    cost_nanousd: int
    held_nanousd: int
    price_row: Mapping[str, object] | Fragment | None  # name, source, date, and the rates applied: enough to recompute the cost
    policy_generation: int
    duration_ms: float
    first_byte_ms: float | None
    overhead_ms: float
    streamed: bool


# The row of an attempt that is about to leave, as far as it is known: its head (`id` to `credential`), tokens in and out that it may
# take at most, then price row, policy generation, overhead (ms, as it comes) and `streamed`.
Begun = tuple[tuple[Any, ...], int, int, Any, int, float, bool]


def crashed(begun: Sequence[Any], nanousd: int) -> tuple[Any, ...]:
    """The values of its row, should nobody live to settle it: worth what is held for it."""
    head, input, output, price_row, generation, overhead_ms, streamed = begun
    usage = input, 0, 0, output, 0, NO_DETAIL, "estimate", UNCONFIRMED
    overhead_ms = round(max(0.0, overhead_ms), 3)
    return (*head, None, "crashed", *usage, nanousd, nanousd, price_row, generation, 0.0, None, overhead_ms, streamed)


def sort_of(story: Story, try_: Try) -> str:
    """What an attempt has in common with those of other callers. A text, as that is hashed once: rooms find by it what they keep."""
    team, tier = (None, None) if story.caller is None else (story.caller.team, story.caller.tier)
    return repr((team, tier, try_.provider, try_.model, story.operation, story.generation))


@dataclass(init=False)
class Try:
    """One upstream attempt as it goes; part of the story. What was not set is said by its class: most of it never is, or only once."""

    number: int  # 1-based
    kind: AttemptKind
    provider: str
    model: str | None  # ours
    credential: str | None
    id: str = ""  # "<call uid>/<number>": the id of the hold and of the row
    at_ns: int = 0
    began: float = 0.0
    first_byte: float | None = None  # monotonic
    ended: float | None = None
    status: int | None = None
    error: str | None = None  # the error class when it failed (logged with each retry)
    end: str = "done"
    held_nanousd: int = 0
    is_held: bool = False  # a durable intent exists and wants a settle or a void
    is_sent: bool = False  # the provider may have the whole request, and bill it
    is_read_back: bool = False  # its tokens are those of another call: they stand in its row, and count nowhere
    held_usage: Most | None = None  # while it is held
    known: Any = None  # of its model, and of calls like it, when it was held: lessons.Known, lessons.Like, which stand above this module
    like: Any = None
    used: Usage | None = None  # see `usage`: where that is asked for often, this is read first
    cost_nanousd: int = 0
    price_row: Mapping[str, object] | Fragment | None = None  # a Fragment: as JSON, where that is at hand
    head: tuple[object, ...] | None = field(default=None, init=False, repr=False)  # `id` to `credential`: the same in each row of it
    memo: Any = None  # what is kept of such attempts: memo.Memo; None: nothing
    row: tuple[Any, ...] | None = None  # the values of its `Row`: set once, when the try is settled

    def __init__(self, number: int, kind: AttemptKind, provider: str, model: str | None, credential: str | None, id: str = "") -> None:
        self.number = number
        self.kind = kind
        self.provider = provider
        self.model = model
        self.credential = credential
        self.id = id
        self.error = None  # these are asked of each: what a class says is found slowly
        self.end = "done"
        self.is_read_back = False
        self.row = None

    @property
    def usage(self) -> Usage:
        """`used`; until that is set, when the attempt is settled: nothing before its hold, and that is not kept; then its estimate, which
        most attempts are never asked for."""
        if self.used is None:
            if self.held_usage is None:
                return Usage()
            input, output = self.held_usage[:2]
            self.used = Usage(input, output=output, detail=NO_DETAIL, source="estimate", note=UNCONFIRMED)
        return self.used

    @usage.setter
    def usage(self, usage: Usage) -> None:
        self.used = usage


@dataclass(init=False, eq=False)
class Story:
    """All that happened to one call. The only mutable value but for its tries; `record` tells it when the call is over. `of` makes it."""

    call: Call
    generation: int = 0
    caller: Caller | None = None
    operation: str = "other"
    model: str | None = None  # as asked, ours; None if unknown
    streamed: bool = False
    status: int | None = None  # sent to the client
    end: str = "done"  # done | refused:<code> | upstream_cut | client_gone | stopped:<reason>
    speaks: str = ""  # the wire format that a refusal is worded in
    claims: tuple[Any, ...] = ()  # the limits it is under, as far as they are known: policy.plan.Claim, which stands above this module
    stopping: str = "drain"  # why its task was cancelled, if it was and the client is there: drain | revoked
    tries: list[Try] = field(default_factory=list)
    found: dict[tuple[str, str, str], int] = field(default_factory=dict)  # (entity, direction, action) → count
    limit: str | None = None  # the tightest, or the refusing one
    started: float | None = None  # monotonic, head sent to the client
    upstream_s: float = 0.0  # time spent waiting for the provider, for overhead = duration - upstream
    ended: float = 0.0  # monotonic, when the books are closed

    @classmethod
    def of(cls, call: Call, generation: int) -> Self:
        """One that has just begun. A class that has an __init__ is called through C, and that is dearer by a quarter."""
        story = cls()
        story.call = call
        story.generation = generation
        story.tries, story.found = [], {}
        story.end, story.limit = "done", None  # these are asked of each: what a class says is found slowly
        story.upstream_s = 0.0
        return story


story_of = Story.of
