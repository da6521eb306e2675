"""What one attempt takes before it leaves, and what it cost in the end: quote, bound, hold; price, settle. Sends nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from proxy.admit.estimate import Bound, bound
from proxy.dialect.wire import Asked, Operation
from proxy.exchange import Story, Try, Usage, value
from proxy.meter.price import Prices, Quote, bound_cost
from proxy.policy.plan import Plan, Provider, Target
from proxy.ports import Intent, Standing
from proxy.rooms import Rooms

TIMED = frozenset({"audio_ms", "characters"})  # of what is billed by these, no context window bounds the input


@value(frozen=True, slots=True)
class Charge:
    """What was held for an attempt."""

    quote: Quote
    most: Bound
    standings: tuple[Standing, ...]
    nanousd: int  # before anything was added to it


async def hold(
    rooms: Rooms, prices: Prices, plan: Plan, story: Story, try_: Try, provider: Provider, op: Operation, asked: Asked, text_bytes: int
) -> Charge:
    """Takes what the attempt may use at most, durably, before a byte of it leaves. `text_bytes`: of the request, decoded.

    Raises Refusal 400 `unpriced_model`, `unmetered_operation`, `exceeds_limit`; 402, 429, 503: then nothing is held. Else `try_` is
    worth its estimate from now on, whatever happens, until it is settled or released.
    """
    quote, most, cost = quoted(prices, plan, Target(provider, try_.model, None), op, asked, text_bytes, try_.at_ns)
    nanousd = cost(output_tokens=most.output_tokens)
    try_.held_tokens = likely_tokens(rooms, plan, try_, most, asked, quote.row.window) if op.is_billed else 0
    try_.held_nanousd = nanousd
    try_.usage = Usage(most.sent_tokens, output=most.output_tokens, source="estimate", note="unconfirmed")
    priced = prices.priced(quote, try_.usage, nanousd)
    try_.cost_nanousd, try_.price_row, try_.end = priced.cost_nanousd, priced.price_row, "crashed"
    row = rooms.books.row_of(story, try_)
    try_.end = "done"
    each = most.output_tokens // max(1, asked.choices)
    intent = Intent(try_.id, story.call.uid, plan.claims, try_.held_tokens, nanousd, row, each, max(0, nanousd - cost(output_tokens=0)))
    try:
        standings = await rooms.store.hold(intent)
    except BaseException:
        release(rooms, try_)
        raise
    try_.is_held = True
    rooms.alerts.saw(plan.claims, standings)
    return Charge(quote, most, standings, nanousd)


def quoted(
    prices: Prices, plan: Plan, target: Target, op: Operation, asked: Asked, text_bytes: int, at_ns: int
) -> tuple[Quote, Bound, Callable[..., int]]:
    """By which row an attempt is priced, what it may use at most, and what it costs (nano-dollars) with so many `output_tokens`."""
    tools = tuple(unit for unit, _ in asked.tools)
    quote = prices.quote(plan.pricing, plan.is_under_spend_limit, target.provider, target.model, op, at_ns, tools)
    window = quote.row.window
    is_timed = not TIMED.isdisjoint(quote.row.rates)
    default = plan.pricing.default_max_tokens
    most = bound(op, asked, text_bytes, window, default, window=None if is_timed else window, family=target.provider.family)
    cost = partial(
        bound_cost, quote.row, input_tokens=most.input_tokens, images=most.images, files=most.files, fees=most.fees, tier=asked.tier
    )
    return quote, most, cost


def likely_tokens(rooms: Rooms, plan: Plan, try_: Try, most: Bound, asked: Asked, window: int | None) -> int:
    """What rates are held for: as learned of this model, else the bound of what this request brings and asks for."""
    if not any(claim.limit.tokens for claim in plan.claims):
        return most.sent_tokens + most.output_tokens  # nobody asks
    lessons, name = rooms.store.lessons, (try_.provider, try_.model or "")
    read = min(most.input_tokens, lessons.input_tokens(name, most.kind, most.sent_tokens))
    if not most.is_open:
        return read + most.output_tokens
    return read + lessons.output_tokens(name, plan.pricing.default_max_tokens, window) * max(1, asked.choices)


def learn(rooms: Rooms, try_: Try, most: Bound, usage: Usage, answers: int) -> None:
    """What the provider states of a call that is over teaches what the next one like it will take."""
    if usage.source == "provider" and most.sent_tokens:
        whole = answers if most.is_open and usage.ended else None
        rooms.store.lessons.saw((try_.provider, try_.model or ""), most.kind, most.sent_tokens, usage, whole)


def release(rooms: Rooms, try_: Try) -> None:
    """Nothing of the attempt has left: what was held for it goes back, and its row, should it get one, costs nothing."""
    rooms.store.void(try_.id, None)
    try_.is_held, try_.usage = False, Usage()
    try_.held_nanousd = try_.cost_nanousd = 0
    try_.price_row = None


def settle(rooms: Rooms, prices: Prices, story: Story, try_: Try, quote: Quote, usage: Usage, op: Operation) -> None:
    """The true figures, once."""
    reckon(rooms, prices, try_, quote, usage, op)
    rooms.books.settle(story, try_)


def reckon(rooms: Rooms, prices: Prices, try_: Try, quote: Quote, usage: Usage, op: Operation) -> None:
    """What the attempt cost, for the books to settle. An estimated usage costs what was held; a read-back costs nothing."""
    priced = prices.priced(quote, usage, try_.held_nanousd)
    try_.ended = rooms.clock.monotonic()
    try_.usage = usage if usage.note == priced.note else replace(usage, note=priced.note)
    try_.cost_nanousd = 0 if op.is_read_back else priced.cost_nanousd
    try_.price_row = priced.price_row
    if priced.unpriced:
        rooms.metrics.unpriced(try_.provider, try_.model, priced.unpriced)
