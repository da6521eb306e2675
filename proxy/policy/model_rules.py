"""Guard, retries, fallbacks, caches, virtual models and rules of the policy. Applies none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from proxy.policy import values
from proxy.policy.fields import (
    Count,
    Duration,
    Feature,
    Flag,
    Fraction,
    ManyOrOff,
    Part,
    Positive,
    Share,
    Size,
    Span,
    Text,
    TextOrSecret,
    Texts,
    TextsOrOff,
    Timeout,
    Weight,
    worded,
)  # fmt: skip
from proxy.policy.model_limits import AtLimit
from proxy.policy.model_match import AllowPart, Match


def _action(value: object) -> object:
    return "off" if value is False else value


def _entities(value: object) -> object:
    return {"default": _action(value)} if value is False or isinstance(value, str) else value


def _classes(value: object) -> object:
    return (
        tuple(str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value)
        if isinstance(value, tuple)
        else value
    )


ActionField = Annotated[Literal["off", "flag", "mask", "block"], BeforeValidator(_action)]
Entities = Annotated[Mapping[Text, ActionField], BeforeValidator(_entities)]
ErrorClass = Literal["connect", "429", "5xx"]


class Injection(Part):
    """Prompt injection."""

    action: ActionField = Field(default="flag", description="off, flag or block.")
    threshold: Fraction = Field(default=0.7, description="From which score on.")


class OutputGuard(Part):
    """What answers may not hold."""

    pii: ActionField = Field(default="off", description="Personal data in answers.")
    block: TextsOrOff = Field(default=(), description="Patterns that end an answer.")


class CustomEntity(Part):
    """An entity of your own."""

    name: Text = Field(description="Its name.")
    pattern: Text = Field(description="An RE2 pattern.")


class Guard(Part):
    """What must not leave."""

    pii: Entities = Field(
        default={}, description="Action per entity (off, flag, mask, block), `default` for those not named; one action alone means all."
    )
    restore: Flag = Field(default=True, description="Put masked values back into the answer.")
    secrets: ActionField = Field(default="off", description="Keys and passwords in requests.")
    injection: Annotated[Injection | None, Feature] = Field(default=None, description="Prompt injection.")
    output: Annotated[OutputGuard | None, Feature] = Field(default=None, description="What answers may not hold.")
    custom: Annotated[tuple[CustomEntity, ...], ManyOrOff] = Field(default=(), description="Entities of your own.")
    ignore: TextsOrOff = Field(default=(), description="Values that are no finding, by globs, like *@example.com.")
    uninspected: Literal["pass", "flag", "block"] = Field(
        default="flag", description="Images, audio, PDF and unknown binary, which no text rule can read."
    )
    on_error: Literal["block", "pass"] = Field(default="block", description="When the guard itself fails.")


class Inputs(Part):
    """How large a request may be."""

    max_chars: Count | None = Field(default=None, description="Characters of text.")
    max_messages: Count | None = Field(default=None, description="Messages.")
    max_images: Count | None = Field(default=None, description="Images.")


class TimeoutsPart(Part):
    """How long each phase may take; off = no limit."""

    connect: Timeout = worded("5s", values.timeout, "To connect.")
    first_byte: Timeout = worded("60s", values.timeout, "Until the answer's head.")
    idle: Timeout = worded("60s", values.timeout, "Between two pieces of the answer.")
    total: Timeout = worded("10m", values.timeout, "The whole call, all attempts.")


class Retry(Part):
    """When an attempt is repeated."""

    attempts: Positive = Field(default=3, description="How many attempts, the first included.")
    backoff: Span = worded("0.5s..8s", values.span, "Wait between attempts: from..to, doubled each time, with full jitter.")
    budget: Share = worded("20%", values.share, "Share of the calls under way that may be retries.")
    on_errors: Annotated[tuple[ErrorClass, ...], BeforeValidator(_classes), ManyOrOff] = Field(
        default=("connect", "429", "5xx"), description="Which failures are retried: connect, 429, 5xx."
    )


class Breaker(Part):
    """When a sick provider is left alone; per provider and model."""

    window: Duration = worded("30s", values.duration, "Over what time failures are counted.")
    min_requests: Positive = Field(default=20, description="Fewer calls than this say nothing.")
    failure_ratio: Share = worded("50%", values.share, "It opens at this share of failures.")
    consecutive: Positive = Field(default=5, description="It opens after so many failures in a row.")
    open: Span = worded("5s..120s", values.span, "How long it stays open: from..to, doubled each time, with jitter.")


class Hedge(Part):
    """A second attempt beside a slow first."""

    after: Text = Field(default="p95", description="After which time.")
    budget: Share = worded("5%", values.share, "Share of calls that may be hedged.")


class Cache(Part):
    """Answers kept and given again."""

    ttl: Duration = worded("1h", values.duration, "How long.")
    scope: Literal["caller", "team", "all"] = Field(default="caller", description="Who shares them.")
    max_size: Size = worded("256MB", values.size, "How much is kept.")


class Optimize(Part):
    """Cheaper requests with the same meaning."""

    strategy: Literal["conservative", "balanced", "aggressive"] = Field(default="conservative", description="How far it goes.")
    prompt_caching: Literal["auto", "off"] = Field(default="auto", description="Cache marks set for the caller.")


class Step(Part):
    """One step of a chain."""

    name: Text = Field(description="Its name.")
    model: Text = Field(description="The model it calls.")
    system: TextOrSecret | None = Field(default=None, description="Its system prompt, or file:path.")
    timeout: Timeout | None = Field(default=None, description="How long it may take.")
    expect: Literal["json", "text"] = Field(default="text", description="What it must answer.")


class Objective(Part):
    """What an adaptive route looks for."""

    quality: Weight = Field(default=0.6, description="Weight of success.")
    cost: Weight = Field(default=0.3, description="Weight of price.")
    latency: Weight = Field(default=0.1, description="Weight of speed.")


class VirtualModel(Part):
    """A model of your own making: an alias, a route among others, or a chain of steps."""

    alias: Text | None = Field(default=None, description="Another name.")
    route: Literal["weighted", "least_busy", "fastest", "adaptive"] | None = Field(
        default=None, description="How one of `among` is chosen."
    )
    among: tuple[Text, ...] | Mapping[Text, Weight] | None = Field(default=None, description="Targets, or targets with weights.")
    sticky: Literal["caller", "team", "end_user"] | None = Field(default=None, description="Who stays with one choice.")
    objective: Objective | None = Field(default=None, description="What an adaptive route looks for.")
    steps: tuple[Step, ...] | None = Field(default=None, description="A chain of calls.")
    validation: Literal["strict", "warn", "off"] = Field(default="strict", description="What a step's wrong answer means.")

    @model_validator(mode="after")
    def _one_form(self) -> VirtualModel:
        if sum(form is not None for form in (self.alias, self.route, self.steps)) != 1:
            raise ValueError("needs exactly one of alias, route, steps")
        return self


SingleFlight = Annotated[Literal["caller", "team"] | None, Feature]
Fallbacks = Mapping[Text, Texts]


class Rule(Part):
    """An exception: per setting, the first matching rule that names it wins."""

    match: Match = Field(default=Match(), description="Which calls; none: all.")
    allow: AllowPart | None = Field(default=None, description="What these calls may use, beside what key and team allow.")
    send_to: Text | None = Field(default=None, description="provider/model: where these calls go.")
    guard: Annotated[Guard | None, Feature] = Field(default=None, description="Guard settings that differ; off: no guard.")
    inputs: Annotated[Inputs | None, Feature] = Field(default=None, description="Size limits that differ.")
    retry: Annotated[Retry | None, Feature] = Field(default=None, description="Retry settings that differ; off: one attempt.")
    timeouts: TimeoutsPart | None = Field(default=None, description="Timeouts that differ.")
    fallback: Annotated[Fallbacks | None, Feature] = Field(default=None, description="Fallbacks per model that differ; off: none.")
    hedge: Annotated[Hedge | None, Feature] = Field(default=None, description="Hedging that differs.")
    cache: Annotated[Cache | None, Feature] = Field(default=None, description="Caching that differs.")
    single_flight: SingleFlight = Field(default=None, description="Shared calls that differ.")
    optimize: Annotated[Optimize | None, Feature] = Field(default=None, description="Optimisation that differs.")
    at_limit: AtLimit | None = Field(default=None, description="What happens at a limit for these calls.")
