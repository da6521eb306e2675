"""The compiled policy: frozen values a call needs, resolved once at load. Reads no file and no environment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from proxy.exchange import Caller, value
from proxy.memo import Memo
from proxy.policy.plan_callers import CallerRules

Action = Literal["off", "flag", "mask", "block"]
ENTITIES = ("email", "phone", "credit_card", "iban", "us_ssn", "ip_address")  # of `guard: {pii: …}`


@value(frozen=True, slots=True)
class Facts:
    """What a `match:` may ask about one call. `model` is None until the body is read (or where there is none)."""

    caller: Caller
    provider: str
    operation: str
    method: str
    path: str
    ip: str
    headers: Mapping[str, str]  # lower-case names
    model: str | None = None
    end_user: str | None = None  # keyed hash, as `callers.end_user` says
    is_billed: bool = True  # False: looks, cancels, deletes


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` (requests or tokens) in any window of `period_s` seconds: 60, 3600 or 86400."""

    count: int
    period_s: int


@dataclass(frozen=True, slots=True)
class Spend:
    """`nanousd` per calendar day, month, or in total."""

    nanousd: int
    period: Literal["day", "month", "total"]


@dataclass(frozen=True, slots=True)
class Degrade:
    """From a share (0.9) of a money limit on, these models are answered by cheaper ones of the same wire family."""

    from_share: float
    models: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Alerts:
    """At which shares of a money limit somebody is told, and where to; the URL is a secret."""

    at: tuple[float, ...]
    webhook: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class OnStateDown:
    """What a failed shared state means for money and for rates."""

    money: Literal["local", "deny", "allow"] = "local"
    rates: Literal["local", "deny", "allow"] = "local"


@dataclass(frozen=True, slots=True)
class Limit:
    """One named limit; every number it holds applies. Equal (name, account) means the same counters."""

    name: str  # "tier free", "team finance", "limit gpt-4o": stable across reloads
    per: tuple[str, ...]  # caller | key | team | … | total | instance
    requests: tuple[Rate, ...] = ()
    tokens: tuple[Rate, ...] = ()
    spend: tuple[Spend, ...] = ()
    concurrency: int | None = None
    money_status: int = 402  # or 429
    contact: str | None = None
    is_shared: bool = False  # the account is not the caller's alone: refusals name no amounts
    is_unbounded: bool = False  # accounts come from outside (header, end_user, ip, pass-through): capped by max_keys
    stop_streams: bool = False  # a running answer ends when this limit's money does
    degrade: Degrade | None = None


@value(frozen=True, slots=True)
class Claim:
    """A limit that matches this call, with the account it is counted on ("caller=billing-bot")."""

    limit: Limit
    account: str

    @property
    def key(self) -> str:
        return f"{self.limit.name}|{self.account}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a provider: fixed at load, never concatenated with input."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    host_header: bytes


@dataclass(frozen=True, slots=True)
class Credential:
    name: str  # "OPENAI_API_KEY", "anthropic" (file name): shown in the ledger
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Timeouts:  # seconds
    connect: float = 5.0
    first_byte: float = 60.0
    idle: float = 60.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class Provider:
    name: str
    dialect: str  # openai | anthropic | gemini | cohere | azure-openai | vertex
    family: str  # openai | anthropic | gemini | cohere: the wire family fallbacks must share
    origin: Origin
    root: str = "/v1"  # what stands before "chat/completions" and its like at this provider ("" where nothing does)
    price_id: str = ""  # the genai-prices provider id whose rows apply ("" = look in all)
    region: str | None = None
    api_version: str | None = None
    models: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # ours → theirs
    credentials: tuple[Credential, ...] = ()
    set_headers: tuple[tuple[bytes, bytes], ...] = ()
    remove_headers: frozenset[str] = frozenset()  # lower-case
    timeouts: Timeouts = Timeouts()
    max_connections: int = 512
    asks_stream_usage: bool = False  # chat streams carry usage only when stream_options.include_usage asks for it


@dataclass(frozen=True, slots=True)
class RetryRules:
    attempts: int = 3
    backoff_min_s: float = 0.5
    backoff_max_s: float = 8.0
    budget: float = 0.2
    on_errors: frozenset[str] = frozenset({"connect", "429", "5xx"})


@dataclass(frozen=True, slots=True)
class BreakerRules:
    window_s: float = 30.0
    min_requests: int = 20
    failure_ratio: float = 0.5
    consecutive: int = 5
    open_min_s: float = 5.0
    open_max_s: float = 120.0


@dataclass(frozen=True, slots=True)
class GuardRules:
    entities: Mapping[str, Action] = field(default_factory=lambda: MappingProxyType({}))  # each active one's action; empty: nothing is read
    restore: bool = False
    ignore: tuple[str, ...] = ()
    uninspected: Literal["pass", "flag", "block"] = "flag"
    on_error: Literal["block", "pass"] = "block"
    sight: Any = field(default=None, init=False, repr=False, compare=False)  # what the guard looks with, made by it once

    @property
    def is_on(self) -> bool:
        return bool(self.entities)

    @property
    def rewrites(self) -> bool:
        return "mask" in self.entities.values()


@dataclass(frozen=True, slots=True)
class Pricing:
    """What a call costs when the table does not know. Prices are nano-dollars per million tokens."""

    unknown_price: Literal["deny", "flag", "allow"] | None = None  # None: deny under a spend limit, flag else
    unmetered: Literal["deny", "flag", "allow"] | None = None
    fallback_input: int = 5_000_000_000
    fallback_output: int = 15_000_000_000
    default_max_tokens: int = 4096
    inject_max_tokens: bool = False  # also written into the request


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """One entry of `prices:`. `discount` is a share (0.12); rates are nano-dollars per million tokens."""

    name: str  # "my-fine-tune" or "azure-eu/gpt-4o"
    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    discount_ppm: int = 0  # parts per million: 12% = 120_000


@dataclass(frozen=True, slots=True)
class Target:
    """One place an attempt may go: a provider and what the model is called there."""

    provider: Provider
    model: str | None  # ours: prices, limits and labels use it
    theirs: str | None  # what is written into the request


@value(frozen=True, slots=True)
class Plan:
    """What the policy says of one call, once its model is known. A call keeps the plan it began with."""

    generation: int
    caller: Caller
    operation: str
    model: str | None
    targets: tuple[Target, ...]  # the first, then its fallbacks; never empty; allow checked on each
    claims: tuple[Claim, ...]
    guard: GuardRules
    retry: RetryRules
    breaker: BreakerRules
    timeouts: Timeouts  # of the first target; others take their provider's
    pricing: Pricing
    fallback_on: frozenset[str] = frozenset({"error", "breaker", "rate_limit"})
    on_client_gone: Literal["cancel", "finish"] = "cancel"
    stopping: tuple[Claim, ...] = field(init=False, compare=False)  # whose money ends a running answer
    degrading: tuple[Claim, ...] = field(init=False, compare=False)  # from a share of whose money on a cheaper model answers
    is_under_spend_limit: bool = field(init=False, compare=False)
    counts_tokens: bool = field(init=False, compare=False)
    brings_own_key: bool = field(init=False, compare=False)  # as the caller does
    kept: Memo = field(default_factory=Memo, init=False, repr=False, compare=False)  # what rooms make of it

    def __post_init__(self) -> None:  # once for all calls that have this plan
        paid = [claim for claim in self.claims if claim.limit.spend]
        worked_out: dict[str, object] = {
            "stopping": tuple(claim for claim in paid if claim.limit.stop_streams),
            "degrading": tuple(claim for claim in paid if claim.limit.degrade is not None),
            "is_under_spend_limit": bool(paid),
            "counts_tokens": any(claim.limit.tokens for claim in self.claims),
            "brings_own_key": self.caller.brings_own_key,
        }
        for name, found in worked_out.items():
            object.__setattr__(self, name, found)


@dataclass(frozen=True, slots=True)
class ServerRules:
    listen: str = "127.0.0.1:8080"
    admin: str = "127.0.0.1:9090"
    admin_token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] | None = None  # None: any
    max_body: int = 64_000_000
    max_upload: int = 1_000_000_000
    drain_s: float = 600.0
    cors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rulebook:
    """One generation of the policy, compiled; swapped whole on reload. The callables are closures made by `policy.build`."""

    generation: int
    server: ServerRules
    callers: CallerRules
    providers: Mapping[str, Provider]
    default_provider: str
    pricing: Pricing
    prices: tuple[PriceOverride, ...]
    state: str  # state URL
    time_zone: str
    max_keys: int
    identities: Literal["plain", "hashed"]
    log_level: str
    known_models: frozenset[str]  # names the policy spells: labels may hold them
    early: Callable[[Facts], tuple[Claim, ...]]  # the claims that need no body; Refusal 403 unknown_tier, unknown_team, 400
    plan: Callable[[Facts], Plan]  # the whole plan; Refusal 403 not_allowed, 404 unknown_provider and those of `early`
    degraded: Callable[[Facts, Plan, Collection[str]], Plan]  # that plan with a cheaper model, where these limits (names) list one
    may_list: Callable[[Caller, str], bool]  # may this caller see this model in GET /v1/models?
    needs_body: Callable[[Facts], bool]  # does some matching rule read the body of this call?
    must_read: Callable[[Facts], bool]  # and is one that cannot be read refused?
    reads: frozenset[str] = frozenset()  # the facts that any match or `per:` of it asks for, by the keys of `match:`
    namespace: str = "default"  # prefix of every shared key
    durability: Literal["process", "disk"] = "process"
    on_state_down: OnStateDown = OnStateDown()
    alerts: Alerts | None = None
    ledger_keep_s: float = 400 * 86400.0
    ledger_max_bytes: int = 10_000_000_000
    ledger_stream: str | None = field(default=None, repr=False)  # a Redis URL
    limits: tuple[Limit, ...] = ()  # every limit the policy names, for what was removed on reload
    warnings: tuple[str, ...] = ()  # for the log at load: world-readable secrets, keys past their day, names nobody declared
