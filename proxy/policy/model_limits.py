"""Tiers, teams, limits and prices of the policy: how much may be used. Counts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from proxy.policy import values
from proxy.policy.fields import (
    Count,
    Dollars,
    Duration,
    Feature,
    Flag,
    ManyOrOff,
    Millionths,
    OneOrMany,
    Part,
    RateText,
    Secret,
    Share,
    Size,
    SpendText,
    Text,
    worded,
)
from proxy.policy.model_match import AllowPart, Match, Pers
from proxy.policy.plan import Rate, Spend

Rates = Annotated[tuple[RateText, ...], ManyOrOff]
Spends = Annotated[tuple[SpendText, ...], ManyOrOff]


def status(value: object) -> int:
    """402, or 429."""
    if value not in (402, 429) or isinstance(value, bool):
        raise ValueError("needs 402 (no SDK retries it) or 429")
    return 402 if value == 402 else 429


Status = Annotated[int, PlainValidator(status), WithJsonSchema({"enum": [402, 429]})]


class Numbers(Part):
    """How much: each takes one value, a list (all apply), or off. 0 denies all."""

    requests: Rates | None = Field(default=None, description="Calls per min, hour or day, like 10/min.")
    tokens: Rates | None = Field(default=None, description="Input (cached included) and output tokens per min, hour or day, like 10k/min.")
    spend: Spends | None = Field(default=None, description="Money per day, month or total, with its currency: $5/day or 5 USD/day.")
    concurrency: Annotated[Count | None, Feature] = Field(default=None, description="Calls at the same time.")

    @property
    def given(self) -> Mapping[str, tuple[Rate, ...] | tuple[Spend, ...] | int | None]:
        """The numbers that this map names, as `plan.Limit` takes them; `off` is () or None."""
        return {name: getattr(self, name) for name in Numbers.model_fields if name in self.model_fields_set}


class Degrade(Part):
    """A cheaper model from a share of the limit on."""

    from_: Share = Field(default=0.9, alias="from", description="From which share of the limit on.", json_schema_extra={"default": "90%"})
    models: Mapping[Text, Text] = Field(default={}, description="Model → cheaper model.")


class AtLimit(Part):
    """What happens when the money ends."""

    status: Status = Field(default=402, description="HTTP status of `budget_exhausted`: 402, which no SDK retries, or 429.")
    degrade: Annotated[Degrade | None, Feature] = Field(default=None, description="A cheaper model from a share on.")
    stop_streams: Flag = Field(default=False, description="End a running answer when the money ends.")


class Team(Numbers):
    """A team: its numbers are shared by all its members."""

    contact: Text | None = Field(default=None, description="Whom to ask; refusals name it.")
    allow: AllowPart = Field(default=AllowPart(), description="What its members may use, checked on every attempt.")
    at_limit: AtLimit = Field(default=AtLimit(), description="What happens when the team's money ends.")


class LimitEntry(Numbers):
    """One further limit, on the calls that match, counted per something."""

    name: Text = Field(description="Its name, in replies and metrics; counters follow it across reloads.")
    match: Match = Field(default=Match(), description="Which calls it limits; none: all.")
    per: Pers = Field(
        default=("caller",),
        description="What it is counted per: one thing or a list. total: all together on this state; instance: this process.",
    )
    missing: Literal["deny", "shared"] = Field(
        default="deny", description="A call without the header, claim or end user of `per`: deny (400), or one shared account."
    )
    at_limit: AtLimit = Field(default=AtLimit(), description="What happens when this limit's money ends.")

    @model_validator(mode="after")
    def _limits_something(self) -> LimitEntry:
        if all(self.given.get(name) in (None, ()) for name in Numbers.model_fields):
            raise ValueError("limits nothing: name at least one of requests, tokens, spend, concurrency")
        if not self.per or (len(self.per) > 1 and {"total", "instance"} & set(self.per)) or len(set(self.per)) < len(self.per):
            raise ValueError("`per` needs one thing, or a list of different things without total and instance")
        return self


class Alerts(Part):
    """Warnings at shares of a limit."""

    at: Annotated[tuple[Share, ...], OneOrMany] = Field(
        default=(0.8, 1.0), description="Shares of the limit.", json_schema_extra={"default": ["80%", "100%"]}
    )
    webhook: Secret | None = Field(default=None, description="Where a POST goes.")


class FallbackPrice(Part):
    """What a call costs whose price no table knows, in dollars per million tokens."""

    input: Dollars = worded(5, values.dollars, "Input, dollars per million tokens.")
    output: Dollars = worded(15, values.dollars, "Output, dollars per million tokens.")


class Price(Part):
    """An own price, or a discount on the table's, in dollars per million tokens."""

    input: Dollars | None = Field(default=None, description="Input, dollars per million tokens.")
    output: Dollars | None = Field(default=None, description="Output, dollars per million tokens.")
    cached_input: Dollars | None = Field(default=None, description="Cached input; else as input.")
    cache_write: Dollars | None = Field(default=None, description="Cache writes; else as input.")
    discount: Millionths = worded("0%", values.parts_per_million, "A share off, like 12%.")

    @model_validator(mode="after")
    def _prices_something(self) -> Price:
        if not self.model_fields_set:
            raise ValueError("prices nothing: name input, output or discount")
        return self


class Ledger(Part):
    """How long rows are kept."""

    keep: Duration = worded("400d", values.duration, "By age.")
    max_size: Size = worded("10GB", values.size, "By size.")
