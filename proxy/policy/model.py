"""The whole policy language as one frozen model; every key has a description, its unit and its default. Resolves no name and no secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from proxy.policy import values
from proxy.policy.fields import (
    Duration,
    Feature,
    Flag,
    ManyOrOff,
    OneOrMany,
    Part,
    Positive,
    Secret,
    Size,
    Text,
    TextOrSecret,
    TextsOrOff,
    Zone,
    worded,
)  # fmt: skip
from proxy.policy.model_callers import Callers
from proxy.policy.model_limits import Alerts, AtLimit, FallbackPrice, Ledger, LimitEntry, Numbers, Price, Team
from proxy.policy.model_rules import (
    Breaker,
    Cache,
    Fallbacks,
    Guard,
    Hedge,
    Inputs,
    Optimize,
    Retry,
    Rule,
    SingleFlight,
    TimeoutsPart,
    VirtualModel,
)  # fmt: skip
from proxy.policy.values import Ref, text, text_or_reference

Verdict = Literal["deny", "flag", "allow"]
STATE_SCHEMES = ("sqlite:", "memory:", *(f"redis{tls}{form}://" for tls in ("", "s") for form in ("", "+sentinel", "+cluster")))


def listener(value: object) -> str:
    """HOST:PORT, [IPV6]:PORT or unix:/path."""
    name = text(value)
    host, colon, port = name.rpartition(":")
    if name.startswith("unix:/") or (colon and host and port.isascii() and port.isdigit() and int(port) < 65536 and "/" not in name):
        return name
    raise ValueError("needs HOST:PORT, [IPV6]:PORT or unix:/path")


def state_url(value: object) -> str | Ref:
    """sqlite:PATH, memory: or a redis URL; or where it stands."""
    found = text_or_reference(value)
    if isinstance(found, str) and not found.startswith(STATE_SCHEMES):
        raise ValueError("needs sqlite:PATH, memory:, redis://…, rediss://…, redis+sentinel://…, redis+cluster://… or env:NAME")
    return found


def header_name(value: object) -> str:
    """A header's name by RFC 9110, but none that frames the message or names its host."""
    name = text(value)
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
        raise ValueError("needs a header name")
    if name.lower() in ("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"):
        raise ValueError("this header frames the message; a policy cannot change it")
    return name


def web_origin(value: object) -> str:
    """scheme://host[:port], as browsers send it in Origin."""
    parts = urlsplit(name := text(value))
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or f"{parts.scheme}://{parts.netloc}" != name
        or "*" in name
        or "@" in name
    ):
        raise ValueError("needs an origin like https://console.example.com, without a path")
    return name


def provider_name(value: object) -> str:
    """One path segment of plain characters."""
    name = text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or re.fullmatch(r"v\d\w*", name):
        raise ValueError("a provider's name is the first segment of its path: letters, digits, . _ -, and nothing like v1")
    return name


Listener = Annotated[
    str, PlainValidator(listener), WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080", "unix:/run/sluice.sock"]})
]
StateUrl = Annotated[
    str | Ref, PlainValidator(state_url), WithJsonSchema({"type": "string", "examples": ["sqlite:/var/lib/sluice", "memory:"]})
]
HeaderName = Annotated[str, PlainValidator(header_name), WithJsonSchema({"type": "string"})]
WebOrigin = Annotated[str, PlainValidator(web_origin), WithJsonSchema({"type": "string", "format": "uri"})]
ProviderName = Annotated[str, PlainValidator(provider_name), WithJsonSchema({"type": "string"})]


class Tls(Part):
    """TLS of the listener."""

    cert: Secret = Field(description="The certificate chain.")
    key: Secret = Field(description="Its key.")
    client_ca: Secret | None = Field(default=None, description="Clients must show a certificate of this authority.")


class Server(Part):
    """The listeners and their bounds."""

    listen: Listener = Field(default="127.0.0.1:8080", description="What SDKs point at: HOST:PORT or unix:/path.")
    admin: Listener = Field(default="127.0.0.1:9090", description="Health, metrics, console, admin API.")
    admin_token: Secret | None = Field(default=None, description="Bearer token of /admin/*; without one it answers on loopback only.")
    hosts: Annotated[tuple[Text, ...] | None, Feature] = Field(
        default=None,
        description="Accepted Host names (against DNS rebinding). Default: the loopback names on a loopback listener, else any; off: any.",
    )
    tls: Annotated[Tls | None, Feature] = Field(default=None, description="TLS of the listener.")
    max_body: Size = worded("64MB", values.size, "What is held in memory, after decompression.")
    max_upload: Size = worded("1GB", values.size, "What streams through.")
    drain: Duration = worded("10m", values.duration, "How long streams may finish after SIGTERM.")
    cors: Annotated[tuple[WebOrigin, ...], ManyOrOff] = Field(default=(), description="Browser origins that may call.")


class OnStateDown(Part):
    """What a failed shared state means."""

    money: Literal["local", "deny", "allow"] = Field(default="local", description="For spend limits.")
    rates: Literal["local", "deny", "allow"] = Field(default="local", description="For rates.")


class Headers(Part):
    """Changes to the headers a provider gets."""

    set: Mapping[HeaderName, TextOrSecret] = Field(default={}, description="Set or replaced; env: and file: are resolved.")
    remove: Annotated[tuple[HeaderName, ...], OneOrMany] = Field(default=(), description="Taken out.")


class ProviderEntry(Part):
    """Where calls go. A built-in name needs no url and no dialect."""

    dialect: Literal["openai", "anthropic", "gemini", "cohere", "azure-openai", "vertex", "bedrock"] | None = Field(
        default=None, description="The wire format; needed for a name that is not built in."
    )
    url: Text | None = Field(default=None, description="An origin: stop before /v1, SDKs send it.")
    key: Secret | None = Field(default=None, description="The provider's key, for callers who bring none of their own.")
    keys: tuple[Secret, ...] = Field(default=(), description="Several keys, rotated on 401, 403 and credit exhaustion.")
    region: Text | None = Field(default=None, description="Where it computes; `allow: {regions: …}` asks for it.")
    api_version: Text | None = Field(default=None, description="Azure's api-version where the caller sends none.")
    models: Mapping[Text, Text] = Field(default={}, description="Our model name → theirs; prices, limits and labels use ours.")
    headers: Headers = Field(default=Headers(), description="Headers set and removed.")
    timeouts: TimeoutsPart | None = Field(default=None, description="Timeouts that differ.")
    max_connections: Positive = Field(default=512, description="Connections to it at most.")
    allow_private: Flag = Field(default=False, description="Allow http:// and private addresses.")
    credentials: Text | None = Field(default=None, description="AWS credentials: env, file:…, container, web-identity.")

    @model_validator(mode="after")
    def _one_form(self) -> ProviderEntry:
        if self.key is not None and self.keys:
            raise ValueError("needs either `key` or `keys`, not both")
        theirs = list(self.models.values())
        if len(set(theirs)) < len(theirs):
            raise ValueError("`models` gives one of their names to two of ours; then prices and limits could not tell them apart")
        return self


class Logs(Part):
    """The log."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least level that is written.")


class Observe(Part):
    """Logs, names and exports."""

    logs: Logs = Field(default=Logs(), description="The log.")
    identities: Literal["plain", "hashed"] = Field(default="plain", description="Callers' names in logs, metrics and rows.")
    ledger_stream: Secret | None = Field(default=None, description="A Redis Stream of ledger events.")
    otlp: Secret | None = Field(default=None, description="Where traces go.")


class PolicyModel(Part):
    """The policy of Sluice. Every key is optional; no file at all is a valid policy."""

    version: Literal[1] = Field(default=1, description="Version of the language.")
    include: TextsOrOff = Field(default=(), description="Files that are joined into this one.")
    server: Server = Field(default=Server(), description="The listeners and their bounds.")
    namespace: Text | None = Field(default=None, description="Prefix of every shared key.")
    state: StateUrl | None = Field(default=None, description="Where counters and the ledger live. Default: a SQLite directory per user.")
    durability: Literal["process", "disk"] = Field(
        default="process", description="process: survives kill -9; disk: fsync before the first byte leaves."
    )
    on_state_down: OnStateDown = Field(default=OnStateDown(), description="What a failed shared state means.")
    time_zone: Zone = Field(default="UTC", description="Of days and months.")
    default_provider: Text = Field(default="openai", description="For requests without a provider prefix.")
    timeouts: TimeoutsPart = Field(default=TimeoutsPart(), description="How long each phase may take.")
    on_client_gone: Literal["cancel", "finish"] = Field(
        default="cancel", description="When the client leaves: cancel the provider's answer, or let it finish."
    )
    providers: Mapping[ProviderName, ProviderEntry] = Field(default={}, description="Where calls go, by name.")
    callers: Callers = Field(default=Callers(), description="Who is who.")
    tiers: Mapping[Text, Numbers] = Field(default={}, description="What one caller may use, by tier.")
    teams: Mapping[Text, Team] = Field(default={}, description="Teams; the numbers are shared by all members.")
    limits: tuple[LimitEntry, ...] = Field(default=(), description="Further limits. Every limit that matches applies.")
    max_keys: Positive = Field(default=100_000, description="Accounts of unbounded identities at most; beyond it they share one.")
    at_limit: AtLimit = Field(default=AtLimit(), description="What happens when the money ends.")
    alerts: Annotated[Alerts | None, Feature] = Field(default=None, description="Warnings at shares of a limit.")
    default_max_tokens: Positive = Field(default=4096, description="For the estimate, where the caller names none.")
    inject_max_tokens: Flag = Field(default=False, description="Also write it into the request.")
    unmetered: Verdict | None = Field(
        default=None, description="Operations whose cost no reply states. Default: deny under a spend limit, flag for others."
    )
    unknown_price: Verdict | None = Field(
        default=None, description="Models without a price: deny, flag (charge fallback_price) or allow. Default as unmetered."
    )
    fallback_price: FallbackPrice = Field(default=FallbackPrice(), description="Dollars per million tokens, for `flag`.")
    prices: Mapping[Text, Price] = Field(default={}, description="Own prices, by model or provider/model.")
    guard: Annotated[Guard | None, Feature] = Field(default=None, description="What must not leave. Default: off.")
    inputs: Annotated[Inputs | None, Feature] = Field(default=None, description="How large a request may be.")
    retry: Annotated[Retry | None, Feature] = Field(default=Retry(), description="When an attempt is repeated; off: never.")
    breaker: Annotated[Breaker | None, Feature] = Field(default=Breaker(), description="When a sick provider is left alone; off: never.")
    fallback: Annotated[Fallbacks | None, Feature] = Field(
        default=None, description="Model → targets tried after it, within its wire family."
    )
    fallback_on: Annotated[tuple[Literal["error", "breaker", "rate_limit"], ...], ManyOrOff] = Field(
        default=("error", "breaker", "rate_limit"), description="What sends a call to its fallback."
    )
    hedge: Annotated[Hedge | None, Feature] = Field(default=None, description="A second attempt beside a slow first.")
    keepalive: Annotated[Duration | None, Feature] = Field(default=None, description="Time between SSE comments during silence.")
    cache: Annotated[Cache | None, Feature] = Field(default=None, description="Answers kept and given again.")
    single_flight: SingleFlight = Field(default=None, description="Identical calls under way share one upstream call.")
    optimize: Annotated[Optimize | None, Feature] = Field(default=None, description="Cheaper requests with the same meaning.")
    models: Mapping[Text, VirtualModel] = Field(default={}, description="Virtual models, called by name like any other.")
    rules: tuple[Rule, ...] = Field(default=(), description="Exceptions. Per setting, the first matching rule that names it wins.")
    shadow: Annotated[Text | None, Feature] = Field(default=None, description="A policy evaluated beside this one, never enforced.")
    ledger: Ledger = Field(default=Ledger(), description="How long rows are kept.")
    observe: Observe = Field(default=Observe(), description="Logs, names and exports.")
